"""How sessions end: the one way out.

`end` hides sessions and settles their reason in one step. A session without holders, sink and close hook is removed in
the same step. For any other session the holders leave, then the sink and the close hook are called, then the session is
removed. So every session is counted once, for the reason that came first.
"""

import logging
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from typing import Generic

from opentelemetry.context import Context

from otel_sessions._core.config import SessionConfig
from otel_sessions._core.events import Event
from otel_sessions._core.session import DataT, Session
from otel_sessions._core.store import Store
from otel_sessions._core.words import EndReason
from otel_sessions._telemetry.telemetry import Telemetry

from .ending import Batch, Ending, EndingState
from .hooks import Hooks
from .leases import Holder, Leases
from .places import Places
from .quiet import Quiet
from .tasks import Countdown, Tasks

_logger = logging.getLogger("otel_sessions")


class Closer(Generic[DataT]):
    """Ends the sessions of one manager."""

    def __init__(
        self,
        config: SessionConfig,
        store: Store[DataT],
        leases: Leases[DataT],
        places: Places[DataT],
        hooks: Hooks[DataT],
        telemetry: Telemetry,
        tasks: Tasks,
    ) -> None:
        self._store = store
        self._leases = leases
        self._places = places
        self._hooks = hooks
        self._telemetry = telemetry
        self._pending: set[Ending[DataT]] = set()
        self._leaving: Countdown[Ending[DataT]] = Countdown(config.close_timeout, tasks, "otel-sessions leaving")
        self._draining: Countdown[Session[DataT]] = Countdown(config.drain_timeout, tasks, "otel-sessions draining")
        self._quiet = Quiet()

    def end(self, due: Mapping[EndReason, list[Session[DataT]]], cause: Context, batch: Batch, now: float) -> None:
        """End live sessions. `due` has them by the reason for which each session counts (`Session._reason`).

        All holders have to leave, except the running task. The caller may wait for `batch`. All sessions are hidden
        before the first call: with eager tasks a close hook runs inside this method, and may end sessions itself.
        """
        calls = self._hooks.calls
        closing: list[Ending[DataT]] = []
        for reason, sessions in due.items():
            free: list[Session[DataT]] = []
            for session in sessions:
                holders = self._leases.release_all(session) if session._leases else []
                if holders or calls:
                    ending = Ending(
                        session=session, reason=reason, cause=cause, batch=batch, holders=holders, calls=calls
                    )
                    closing.append(ending)
                else:
                    free.append(session)
            if free:
                self._remove(free, reason, now)
        if closing:
            self._hide(closing, now)

    def drain(self, session: Session[DataT], cause: Context) -> None:
        """Let the holders of an expired session keep the session for `drain_timeout` seconds after the first call."""
        self._draining.add(session, partial(self._end_drained, session, cause))

    def abandon(self) -> None:
        """Remove all closing sessions at once, whether their calls are made or not."""
        if self._pending:
            _logger.warning(
                "%d sessions are removed before their close hooks have ended",
                len(self._pending),
                extra=Event.SESSION_ABANDONED.extra,
            )
        for ending in list(self._pending):
            ending.batch.cut = True
            self._finish(ending)

    def forget(self) -> None:
        """Forget the closing sessions, since the loop of the run is gone."""
        for ending in self._pending:
            ending.state = EndingState.GONE
        self._pending.clear()

    async def wait_none_closing(self) -> None:
        """Return when no session is closing."""
        await self._quiet.wait(lambda: not self._pending)

    def _hide(self, closing: list[Ending[DataT]], now: float) -> None:
        """Hide all these sessions before the first call, which may ask for one of them."""
        for ending in closing:
            ending.batch.pending += 1
            self._pending.add(ending)
            self._store.hide(ending.session, ending.reason, now)
            self._note_ended([ending.session], ending.reason, now)
        held = [ending for ending in closing if ending.holders]
        for ending in closing:
            if not ending.holders:
                self._call(ending)
        if held:
            self._expel(held)

    def _remove(self, sessions: list[Session[DataT]], reason: EndReason, now: float) -> None:
        self._store.remove(sessions, reason, now)
        self._note_ended(sessions, reason, now)
        self._places.freed(sessions)

    def _note_ended(self, sessions: list[Session[DataT]], reason: EndReason, now: float) -> None:
        if self._draining:
            for session in sessions:
                self._draining.discard(session)
        self._telemetry.sessions_ended(sessions, reason, now)

    def _expel(self, endings: list[Ending[DataT]]) -> None:
        """Ask all holders to leave. Each holder is asked, even if another holder ends the program in answer."""
        with ExitStack() as asking:
            for ending in reversed(endings):
                if not self._hooks.closed:  # else the pending endings are about to be abandoned
                    self._leaving.add(ending, partial(self._call, ending))
                on_left = partial(self._note_left, ending)
                for holder in reversed(ending.holders):
                    asking.callback(self._leases.expel, holder, ending.reason, on_left)

    def _note_left(self, ending: Ending[DataT], holder: Holder[DataT]) -> None:
        if ending.state is EndingState.LEAVING:
            ending.holders.pop(holder, None)
            if not ending.holders:
                self._call(ending)

    def _call(self, ending: Ending[DataT]) -> None:
        """Go on to the calls: the holders have left, or their time is up."""
        ending.state = EndingState.CALLING
        self._leaving.discard(ending)
        if ending.calls:
            self._hooks.submit(ending, self._finish)
        else:
            self._finish(ending)

    def _finish(self, ending: Ending[DataT]) -> None:
        if ending.state is EndingState.GONE:
            return
        ending.state = EndingState.GONE
        self._leaving.discard(ending)
        self._pending.discard(ending)
        self._store.finish(ending.session)
        self._places.freed([ending.session])
        ending.batch.note_end(ending.errors)
        if not self._pending:
            self._quiet.note()

    def _end_drained(self, session: Session[DataT], cause: Context) -> None:
        now = self._store.clock()
        self.end({session._reason(now, EndReason.MAX_AGE): [session]}, cause, Batch(), now)
