"""Processes of one fleet in one test: each has a manager and a way to the same real store, in virtual time."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final

import anyio

from otel_sessions import StoreUnavailable
from otel_sessions.fleet.orphan_hooks import Orphan
from otel_sessions.fleet.scripts import Script
from otel_sessions.fleet.shared import Setup, StoreFleet
from otel_sessions.fleet.store import Argument, Keys, Value
from tests.fleet.valkey import Server

SECRET: Final = b"0123456789abcdef"
LEASE: Final = 15.0
SHARDS: Final = 2
KEYS: Final = Keys("f", SHARDS)
_BEGIN: Final = 1_700_000_000_000


class Wire:
    """The way of one process to the store. It can be cut, or swallow what is sent."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.lost: Callable[[], None] = lambda: None
        """What the process does after a lost connection."""
        self.is_cut = False
        self.is_silent = False
        self.error: Exception | None = None
        self.calls = Counter[str]()

    async def run(self, script: Script, keys: Sequence[str], args: Sequence[Argument]) -> Sequence[Value]:
        await anyio.lowlevel.checkpoint()
        self.calls[script.name] += 1
        if self.is_silent:
            await anyio.sleep_forever()
        if self.is_cut:
            raise StoreUnavailable("the wire is cut")
        if self.error is not None:
            raise self.error
        return self._server.run(script, keys, args, store_time())

    async def serve(self) -> None:
        await anyio.sleep_forever()


def store_time() -> int:
    """Return the milliseconds of the store's clock, which goes as the loop's does."""
    return _BEGIN + int(anyio.current_time() * 1000)


class Orphans:
    """A hook for orphans that keeps what it was given, then does as `then` does."""

    def __init__(self, then: Callable[[Orphan], Any] | None = None) -> None:
        self.seen: list[Orphan] = []
        self._then = then

    async def __call__(self, orphan: Orphan) -> None:
        self.seen.append(orphan)
        if self._then is not None:
            await self._then(orphan)


def new_fleet(wire: Wire, *, cap: int = 8, **options: Any) -> StoreFleet:
    """Return the fleet of one process. Options of `Setup` and of `StoreFleet` are told apart here."""
    hooks = {key: options.pop(key) for key in ("describe", "on_orphan", "secret") if key in options}
    given: dict[str, Any] = {"name": "f", "address": "http://10.0.0.1:9001", "max_sessions": cap}
    setup = Setup(**{**given, "shards": SHARDS, "lease": LEASE, **options})

    def new_store(lost: Callable[[], None], _limit: float) -> Wire:
        wire.lost = lost
        return wire

    return StoreFleet(new_store, setup, **{"secret": SECRET, **hooks})


def books(server: Server) -> Counter[str]:
    """Return what the store has counted in all shards, with `active` for the records."""
    total = Counter[str]()
    everything = server.all()
    for shard in range(SHARDS):
        records, _, _, ended = KEYS.shard(shard)
        flat = everything.get(ended, [])
        total.update({word: int(count) for word, count in zip(flat[::2], flat[1::2], strict=True)})
        total["active"] += len(everything.get(records, [])) // 2
    return total


def balance(server: Server) -> bool:
    total = books(server)
    return total["created"] == total.total() - total["created"]
