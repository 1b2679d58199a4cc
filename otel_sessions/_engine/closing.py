"""How sessions end: the one way out.

`end` hides sessions and settles their reason in one step. Those to which nobody else is bound, and for which nothing is
to be called, are gone in that same step, all together; else their holders leave, the sink and the close hook are
called, and then they are gone. So every session is counted once, for the reason that came first.
"""

import logging
from collections.abc import Mapping
from functools import partial
from typing import Generic

import anyio
from opentelemetry.context import Context

from otel_sessions._core.config import SessionConfig
from otel_sessions._core.session import DataT, Session
from otel_sessions._core.store import Roster
from otel_sessions._core.words import EndReason
from otel_sessions._telemetry.telemetry import Telemetry

from .capacity import Capacity
from .hooks import Callbacks, Ending
from .leases import Holder, Leases
from .tasks import Countdown, Tasks

_logger = logging.getLogger("otel_sessions")


class Batch:
    """The endings that one caller waits for together.

    `errors` counts the hooks and exports that failed; `cut` says that a shutdown gave some of them up.
    """

    def __init__(self) -> None:
        self.pending = 0
        self.errors = 0
        self.cut = False
        self._ended: anyio.Event | None = None

    async def wait(self) -> None:
        while self.pending:
            self._ended = anyio.Event()
            await self._ended.wait()

    def note_end(self, errors: int) -> None:
        self.pending -= 1
        self.errors += errors
        if not self.pending and self._ended is not None:
            self._ended.set()


class Closer(Generic[DataT]):
    """Ends the sessions of one manager."""

    def __init__(
        self,
        config: SessionConfig,
        roster: Roster[DataT],
        leases: Leases[DataT],
        capacity: Capacity[DataT],
        callbacks: Callbacks[DataT],
        telemetry: Telemetry,
        tasks: Tasks,
    ) -> None:
        self._roster = roster
        self._leases = leases
        self._capacity = capacity
        self._callbacks = callbacks
        self._telemetry = telemetry
        self._pending: dict[Ending[DataT], Batch] = {}
        self._holders: dict[Ending[DataT], set[Holder[DataT]]] = {}
        self._drains: dict[Session[DataT], Context] = {}
        self._leaving = Countdown(config.close_timeout, tasks, "otel-sessions leaving", self._submit)
        self._draining = Countdown(config.drain_timeout, tasks, "otel-sessions draining", self._end_drained)
        self._none_closing: anyio.Event | None = None

    def end(self, due: Mapping[EndReason, list[Session[DataT]]], cause: Context, batch: Batch, now: float) -> None:
        """End sessions that are in the map, by the reason that each of them counts as (`Session._reason`).

        Their holders have to leave, all but the running task. `batch` can be waited for. All of them are hidden before
        anything is called for one: with eager tasks a close hook runs in here, and may end sessions itself.
        """
        calls = self._callbacks.calls
        closing: dict[Ending[DataT], list[Holder[DataT]]] = {}
        for reason, sessions in due.items():
            free: list[Session[DataT]] = []
            for session in sessions:
                holders = self._leases.take_away(session) if session._pins else []
                if holders or calls:
                    closing[Ending(session, reason, cause, calls)] = holders
                else:
                    free.append(session)
            if free:
                self._remove(free, reason, now)
        if closing:
            self._hide(closing, batch, now)

    def drain(self, session: Session[DataT], cause: Context) -> None:
        """Let the holders of an expired session keep it for `drain_timeout` seconds from the first such call."""
        self._drains.setdefault(session, cause)
        self._draining.add(session)

    def abandon(self) -> None:
        """Remove at once whatever is still closing, its calls made or not."""
        if self._pending:
            _logger.warning("%d sessions are removed before their close hooks have ended", len(self._pending))
        for ending, batch in list(self._pending.items()):
            batch.cut = True
            self._finish(ending)

    async def wait_none_closing(self) -> None:
        """Return when no session is closing."""
        while self._pending:
            self._none_closing = anyio.Event()
            await self._none_closing.wait()

    def _hide(self, closing: dict[Ending[DataT], list[Holder[DataT]]], batch: Batch, now: float) -> None:
        """Hide all of them before anything is called that might ask for one."""
        for ending in closing:
            batch.pending += 1
            self._pending[ending] = batch
            self._roster.hide(ending.session, ending.reason, now)
            self._note_ended([ending.session], ending.reason, now)
        for ending, holders in closing.items():
            if not holders:
                self._submit(ending)
        for ending, holders in closing.items():  # last, since a holder that is told may end the program
            if holders:
                self._revoke(ending, holders)

    def _remove(self, sessions: list[Session[DataT]], reason: EndReason, now: float) -> None:
        self._roster.remove(sessions, reason, now)
        self._note_ended(sessions, reason, now)
        self._capacity.freed(sessions)

    def _note_ended(self, sessions: list[Session[DataT]], reason: EndReason, now: float) -> None:
        if self._drains:
            for session in sessions:
                self._drains.pop(session, None)
                self._draining.discard(session)
        self._telemetry.sessions_ended(sessions, reason, now)

    def _revoke(self, ending: Ending[DataT], holders: list[Holder[DataT]]) -> None:
        self._holders[ending] = set(holders)
        if not self._callbacks.closed:  # else whatever is pending is about to be abandoned
            self._leaving.add(ending)
        for holder in holders:
            self._leases.expel(holder, ending.reason, partial(self._note_left, ending))

    def _note_left(self, ending: Ending[DataT], holder: Holder[DataT]) -> None:
        holders = self._holders.get(ending)
        if holders is None:
            return
        holders.discard(holder)
        if not holders:
            self._leaving.discard(ending)
            self._submit(ending)

    def _submit(self, ending: Ending[DataT]) -> None:
        self._holders.pop(ending, None)
        if ending.calls:
            self._callbacks.submit(ending, self._finish)
        else:
            self._finish(ending)

    def _finish(self, ending: Ending[DataT]) -> None:
        batch = self._pending.pop(ending, None)
        if batch is None:
            return
        self._holders.pop(ending, None)
        self._roster.finish(ending.session)
        self._capacity.freed([ending.session])
        batch.note_end(ending.errors)
        if not self._pending and self._none_closing is not None:
            self._none_closing.set()

    def _end_drained(self, session: Session[DataT]) -> None:
        now = self._roster.clock()
        self.end({session._reason(now, EndReason.MAX_AGE): [session]}, self._drains[session], Batch(), now)
