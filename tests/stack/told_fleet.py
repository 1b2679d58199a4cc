"""A program whose manager is in a fleet that is only told: its state goes on as that of a process among three would.

It exports until it is told to stop. With `ill`, everything that the alerts of a fleet look for goes wrong.
"""

import signal
import sys
from dataclasses import replace
from itertools import cycle
from typing import Final

import anyio

from otel_sessions import SessionConfig, SessionManager
from otel_sessions._core.fleet_state import FleetState, Totals
from otel_sessions._core.words import LookupOutcome, OrphanOutcome, Resync, StoreOperation, StoreOutcome
from otel_sessions._program.otlp import exporting
from tests.measured_fleet import MeasuredFleet

LEASE: Final = 15.0
STEP: Final = 0.1
"""Seconds from one state to the next."""


def well(step: int) -> FleetState:
    """Return the state after so many steps of a fleet in which a process dies again and again, and is cleaned."""
    died, since = divmod(step, 100)
    orphans = 6 * died + min(since, 6)
    is_dead = since < 30
    ended = {"closed": step, "idle_timeout": 2 * step, "orphaned": orphans}
    return FleetState(
        living=3,
        dead=1 if is_dead else 0,
        dead_for=STEP * since if is_dead else 0.0,
        grant=40,
        remaining=LEASE * 0.9 - STEP * (step % 50),
        lease=LEASE,
        totals=Totals(created=sum(ended.values()) + 90, ended=ended, active=90, limit=200, granted=120),
        orphans={OrphanOutcome.CLEANED: orphans},
        lookups=dict.fromkeys(LookupOutcome, step),
    )


def ill(step: int) -> FleetState:
    """Return the state after so many steps of a fleet whose store forgets, hears nothing and is not cleaned."""
    state = well(step)
    assert state.totals is not None
    return replace(
        state,
        dead=1,
        dead_for=6 * LEASE + STEP * step,
        remaining=2.0,
        totals=replace(state.totals, active=state.totals.active - 4),
        fenced=step // 10,
        late=2 * step,
        resyncs=dict.fromkeys(Resync, step),
        resets=step // 20,
    )


async def go_on(fleet: MeasuredFleet, *, is_ill: bool) -> None:
    """Change the state and call the store, step by step."""
    seconds = cycle((0.0003, 0.0004, 0.0007, 0.002, 0.04))
    failing = cycle((StoreOutcome.UNAVAILABLE, StoreOutcome.ANSWERED) if is_ill else (StoreOutcome.ANSWERED,))
    step = 0
    while True:
        fleet.now = (ill if is_ill else well)(step)
        for operation in (StoreOperation.BEAT, StoreOperation.PUT, StoreOperation.END, StoreOperation.AUDIT):
            fleet.called(operation, next(failing), next(seconds))
        step += 1
        await anyio.sleep(STEP)


async def main(*, is_ill: bool) -> None:
    fleet = MeasuredFleet()
    name = "told-ill" if is_ill else "told"
    with anyio.open_signal_receiver(signal.SIGTERM) as told:
        async with (
            SessionManager[None](SessionConfig(cleanup_interval=1.0), name=name, fleet=fleet),
            anyio.create_task_group() as tasks,
        ):

            async def going_on() -> None:
                await go_on(fleet, is_ill=is_ill)

            tasks.start_soon(going_on)
            await anext(told)
            tasks.cancel_scope.cancel()


async def run() -> None:
    await main(is_ill=sys.argv[1] == "ill")


if __name__ == "__main__":
    with exporting("otel-sessions-proxy"):
        anyio.run(run)
