"""Processes of one fleet in one test: each has a manager and a way to the same real store, in virtual time."""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import anyio
import anyio.lowlevel
from opentelemetry.trace import TracerProvider

from otel_sessions import ConfigError, Session, SessionConfig, SessionManager, StoreUnavailable
from otel_sessions.fleet.orphan_hooks import Orphan
from otel_sessions.fleet.scripts import Script
from otel_sessions.fleet.shared import Setup, StoreFleet
from otel_sessions.fleet.store import Argument, Keys, Value
from tests.doubles import Ends
from tests.fleet.valkey import Server
from tests.virtual import Clock

SECRET: Final = b"0123456789abcdef"
LEASE: Final = 15.0
SHARDS: Final = 2
KEYS: Final = Keys("f", SHARDS)
CONFIG: Final = SessionConfig(max_sessions=100, max_idle_time=None, max_session_age=None, emergency_idle_time=None)
_BEGIN: Final = 1_700_000_000_000


class Wire:
    """The way of one process to the store. It can be cut, or swallow what is sent."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.lost: Callable[[], None] = lambda: None
        """What the process does after a lost connection."""
        self.is_cut = False
        self.is_silent = False
        self.refusal: ConfigError | None = None
        self.is_deaf = False
        """Whether answers are lost, though the store does what it is asked."""
        self.nonsense = False
        self.broken = ""
        """The name of a script that is not answered."""
        self.unanswered = ""
        """The name of a script whose calls hang."""
        self.cut_keys = ""
        """What keys that are cut off begin with."""
        self.error: Exception | None = None
        self.calls = Counter[str]()

    async def run(self, script: Script, keys: Sequence[str], args: Sequence[Argument]) -> Sequence[Value]:
        await anyio.lowlevel.checkpoint()
        self.calls[script.name] += 1
        if self.is_silent or self.unanswered == script.name:
            await anyio.sleep_forever()
        if self.is_cut or self.broken == script.name or (self.cut_keys and keys[0].startswith(self.cut_keys)):
            raise StoreUnavailable("the wire is cut")
        if self.error is not None:
            raise self.error
        if self.nonsense:
            return [b"OK", b"x"]
        answer = self._server.run(script, keys, args, store_time())
        if self.is_deaf:
            await anyio.sleep_forever()
        return answer

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


def new_fleet(wire: Wire, *, cap: int = 40, **options: Any) -> StoreFleet:
    """Return the fleet of one process. Options of `Setup` and of `StoreFleet` are told apart here."""
    hooks = {key: options.pop(key) for key in ("describe", "on_orphan", "secret") if key in options}
    given: dict[str, Any] = {"name": "f", "address": "http://10.0.0.1:9001", "max_sessions": cap}
    setup = Setup(**{**given, "shards": SHARDS, "lease": LEASE, **options})

    def new_store(lost: Callable[[], None], _limit: float) -> Wire:
        wire.lost = lost
        return wire

    return StoreFleet(new_store, setup, **{"secret": SECRET, **hooks})


@dataclass(kw_only=True)
class Process:
    """One process: its manager, and what a test needs to see and to break."""

    wire: Wire
    fleet: StoreFleet
    clock: Clock
    ends: Ends
    manager: SessionManager[None]

    def visible(self, *sessions: Session[None]) -> int:
        return sum(session.id in self.manager for session in sessions)


@asynccontextmanager
async def process(
    server: Server, *, config: SessionConfig | None = None, spans: TracerProvider | None = None, **options: Any
) -> AsyncIterator[Process]:
    """Run a process until the end of the block. Options are those of `new_fleet`. `spans` gets its spans."""
    one = new_process(server, config=config, spans=spans, **options)
    async with one.manager:
        yield one


def new_process(
    server: Server, *, config: SessionConfig | None = None, spans: TracerProvider | None = None, **options: Any
) -> Process:
    wire, clock, ends = Wire(server), Clock(), Ends()
    fleet = new_fleet(wire, **options)
    manager = SessionManager(config or CONFIG, clock=clock, fleet=fleet, on_close=ends, tracer_provider=spans)
    return Process(wire=wire, fleet=fleet, clock=clock, ends=ends, manager=manager)


async def create(process: Process, number: int) -> list[Session[None]]:
    return [await process.manager.create_session() for _ in range(number)]


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
