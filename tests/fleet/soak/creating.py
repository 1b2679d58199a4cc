"""How long a create takes with a fleet on a store of this machine, beside one without a fleet."""

import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from statistics import quantiles
from typing import Final

import anyio

from otel_sessions import SessionConfig, SessionManager
from otel_sessions.fleet import ValkeyFleet
from tests.fleet.servers import program

from .orders import SECRET

_NO_CAP: Final = SessionConfig(max_sessions=None)


@dataclass(frozen=True, kw_only=True)
class Times:
    """Medians and 99th percentiles in microseconds: alone, and with a fleet; one create after the other."""

    alone_median: float
    alone_p99: float
    fleet_median: float
    fleet_p99: float


def measure(name: str, creates: int) -> Times:
    """Measure on a server's program."""
    with program(name) as node:
        alone = anyio.run(_times, None, creates)
        fleet = anyio.run(_times, node.url, creates)
    return Times(alone_median=alone[49], alone_p99=alone[98], fleet_median=fleet[49], fleet_p99=fleet[98])


async def _times(url: str | None, creates: int) -> list[float]:
    """Return the percentiles of a create in microseconds."""
    took = []
    async with _manager(url, creates) as manager:
        for _ in range(creates):
            begun = time.perf_counter()
            await manager.create_session()
            took.append((time.perf_counter() - begun) * 1e6)
    return quantiles(took, n=100)


@contextlib.asynccontextmanager
async def _manager(url: str | None, creates: int) -> AsyncIterator[SessionManager[None]]:
    if url is None:
        async with SessionManager(_NO_CAP) as manager:
            yield manager
        return
    fleet = ValkeyFleet(url, name="soak", address="http://127.0.0.1:1", secret=SECRET, max_sessions=100 * creates)
    async with SessionManager(_NO_CAP, fleet=fleet) as manager:
        yield manager
