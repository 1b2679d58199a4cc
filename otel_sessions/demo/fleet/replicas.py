"""The replicas of the demo: proxies of one fleet. A replica that is killed is replaced at once, as by an orchestrator.

The balancer knows the replicas that have started and were not killed. No replica outlives the block of `Replicas`.
"""

import secrets
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Final, Self

from otel_sessions import SessionConfig
from otel_sessions._program.exporters import ENDPOINT
from otel_sessions._program.sockets import listen_as
from otel_sessions.demo.limits import flags_of
from otel_sessions.demo.processes.children import HOST, Child, running, url_of

from .books import SHARDS
from .store import url_in

FLEET: Final = "demo"
NAMES: Final = ("a", "b", "c")
LEASE_SECONDS: Final = 3.0
_READINGS_SECONDS: Final = 0.25


@dataclass(kw_only=True, slots=True)
class _Replica:
    child: Child
    url: str


class Replicas:
    """The replicas, by name, and `urls`, where those are that serve."""

    def __init__(self, folder: Path, upstream: str, limits: SessionConfig, cap: int, otlp: str | None) -> None:
        self.urls: Final[set[str]] = set()
        self._folder: Final = folder
        self._upstream: Final = upstream
        self._limits: Final = limits
        self._cap: Final = cap
        self._environ: Final = {"OTEL_SESSIONS_FLEET_SECRET": secrets.token_urlsafe(32)}
        if otlp is not None:
            self._environ[ENDPOINT] = otlp
        self._numbers: Final = count(1)
        self._stack: Final = ExitStack()
        self._now: Final[dict[str, _Replica]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def start(self, name: str) -> None:
        """Start a replica in the place with this name."""
        listener = self._stack.enter_context(listen_as("--port", (HOST, 0)))
        url = url_of(listener)
        environ = {**self._environ, "OTEL_RESOURCE_ATTRIBUTES": f"service.instance.id=demo-{name}"}
        child = self._stack.enter_context(running("proxy", listener, *self._flags(), environ=environ))
        self._stack.callback(_print_complaints, name, child)
        self._now[name] = _Replica(child=child, url=url)

    def all_serve(self) -> bool:
        """Give requests to each replica that has started. Return whether all have."""
        started = [replica for replica in self._now.values() if replica.child.last_line is not None]
        self.urls.update(replica.url for replica in started)
        return len(started) == len(self._now)

    def kill(self, name: str) -> None:
        """Kill a replica, and start another one in its place."""
        self._now[name].child.kill()
        self.urls.discard(self._now[name].url)
        self.start(name)

    def ended(self) -> Sequence[str]:
        """Return the names of the replicas that have ended by themselves."""
        return [name for name, replica in self._now.items() if replica.child.ended]

    def stop(self) -> None:
        """Tell all replicas to stop, and wait for them."""
        for replica in self._now.values():
            replica.child.ask_to_stop()
        for replica in self._now.values():
            replica.child.stop()

    def _flags(self) -> list[str]:
        address = f"unix:{self._folder / f'r{next(self._numbers)}'}"
        fleet = {"": url_in(self._folder), "-name": FLEET, "-address": address, "-lease": LEASE_SECONDS}
        fleet |= {"-max-sessions": self._cap, "-shards": SHARDS, "-farewell": "true"}
        return [
            *("--upstream", self._upstream, "--readings", str(_READINGS_SECONDS), "--peer-listen", address),
            *(f"--fleet{key}={value}" for key, value in fleet.items()),
            *flags_of(self._limits),
        ]


def _print_complaints(name: str, child: Child) -> None:
    sys.stderr.writelines(f"replica {name}: {line}\n" for line in child.stderr_tail)
