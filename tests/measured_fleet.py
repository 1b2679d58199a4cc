"""A fleet whose state tests set, for what is reported of it. It forwards nothing and has no store."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from otel_sessions import Peer
from otel_sessions._core.fleet_state import FleetState, Totals
from otel_sessions._core.words import LookupOutcome, OrphanOutcome, Resync, StoreOperation, StoreOutcome

STATE = FleetState(
    living=3,
    dead=1,
    dead_for=4.0,
    grant=40,
    remaining=12.5,
    lease=15.0,
    totals=Totals(created=90, ended={"closed": 50, "orphaned": 6}, active=34, limit=100, granted=80),
    orphans={OrphanOutcome.CLEANED: 5, OrphanOutcome.FAILED: 1},
    fenced=2,
    late=3,
    resyncs={Resync.PUT: 7},
    lookups={LookupOutcome.HINT: 8, LookupOutcome.NONE: 9},
    resets=1,
)
"""A process of three, in whose fleet a fourth has died."""


class MeasuredFleet:
    """A fleet with a state that tests set, and with calls to a store that tests tell of."""

    name = "p1"

    def __init__(self, state: FleetState = STATE) -> None:
        self.now = state
        self.error: Exception | None = None
        self.called: Callable[[StoreOperation, StoreOutcome, float], None]

    def change(self, **fields: Any) -> None:
        self.now = replace(self.now, **fields)

    def state(self) -> FleetState:
        if self.error is not None:
            raise self.error
        return self.now

    def measure(self, called: Callable[[StoreOperation, StoreOutcome, float], None]) -> None:
        self.called = called

    def enter(self) -> None:
        """Do nothing: there is no store."""

    def leave(self) -> None:
        """Do nothing: nothing was begun."""

    async def wait_quiet(self) -> None:
        """Return at once: nothing is forwarded."""

    async def locate(self, session_id: str) -> Peer | None:
        return None
