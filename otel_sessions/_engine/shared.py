"""A run of a manager in a shared fleet: its places under two caps, its registrations, and what the fleet may ask of it.

The places of the process never exceed its own cap, nor its grant in the fleet. The fleet is told of each session when
the session takes its place, and once more when the place is free again. Without a shared fleet nothing here is used.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Generic

import anyio
from opentelemetry.context import Context

from otel_sessions._core.books import Books
from otel_sessions._core.clock import latest
from otel_sessions._core.config import SessionConfig
from otel_sessions._core.exceptions import SessionExists, SessionNotFound, StoreUnavailable
from otel_sessions._core.session import DataT, Session
from otel_sessions._core.store import Store
from otel_sessions._core.words import EndReason, RejectionReason

from .closing import Closer
from .ending import Batch
from .places import Places, missing
from .sharing import SharedFleet
from .tasks import Tasks


class SharedPlaces(Places[DataT]):
    """The places of one process of a shared fleet: at most `max_sessions`, and at most the grant of the process."""

    def __init__(self, config: SessionConfig, books: Books, fleet: SharedFleet) -> None:
        super().__init__(config, books)
        self._fleet = fleet

    @property
    def _taken(self) -> int:
        return self._books.active + self._books.reserved

    @property
    def limit(self) -> int:
        own, grant = self._books.limit, self._fleet.grant
        return grant if own is None else min(own, grant)

    @property
    def free(self) -> int:
        return self.limit - self._taken

    @property
    def is_full(self) -> bool:
        return super().is_full or not self._fleet.has_room(self._taken)

    @property
    def missing(self) -> int:
        """As without a fleet, for the smaller of the two caps. No eviction helps a process that may have no place."""
        grant = self._fleet.grant
        own = super().missing
        return max(own, missing(grant, self._taken)) if grant else own

    def why_full(self) -> tuple[int, RejectionReason]:
        """Return the cap that is reached. With both caps reached, the own cap is named."""
        if super().is_full:
            return super().why_full()
        return self._fleet.grant, RejectionReason.FLEET

    def retry_after(self, seconds: float | None) -> float | None:
        """As without a fleet. If the fleet has refused, another process may give a place back sooner."""
        if super().is_full:
            return seconds
        sooner = self._fleet.retry_after
        return sooner if seconds is None else min(seconds, sooner)

    def settle(self, session: Session[DataT]) -> None:
        super().settle(session)
        self._fleet.register(session)

    def freed(self, sessions: Sequence[Session[DataT]]) -> None:
        for session in sessions:
            assert session.end_reason is not None
            self._fleet.gone(session, session.end_reason)
        super().freed(sessions)


class Registration(Generic[DataT]):
    """Waits for the registration of sessions. A session that cannot be registered is ended."""

    def __init__(self, store: Store[DataT], closer: Closer[DataT], fleet: SharedFleet) -> None:
        self._store = store
        self._closer = closer
        self._fleet = fleet

    async def wait(self, session: Session[DataT]) -> None:
        """Wait until a session is registered. Raises as `Session.registered` says."""
        try:
            if session.end_reason is None:
                await self._fleet.registered(session)
        except SessionExists:
            self._end(session, EndReason.FENCED)
            raise
        except (StoreUnavailable, SessionNotFound) as error:  # not found: others have claimed what they knew of it
            session.fail(error)
            self._end(session, EndReason.FAILED)
            raise
        if session.end_reason is not None:
            self._store.require_accepting()
            raise SessionNotFound(session.id, session.end_reason)

    async def introduce(self, session: Session[DataT]) -> None:
        """Wait as `wait` does. If the wait is cut short, end the session: nobody has been told its id."""
        cancelled = anyio.get_cancelled_exc_class()
        try:
            await self.wait(session)
        except (Exception, cancelled):  # and not the end of the loop, which ends all sessions
            self._end(session, EndReason.CLOSED)
            raise

    def _end(self, session: Session[DataT], reason: EndReason) -> None:
        end_all(self._store, self._closer, {reason: [session]})


class SharedRun(Generic[DataT]):
    """What the fleet may ask of a run: the `Run` of `sharing`."""

    def __init__(
        self, config: SessionConfig, store: Store[DataT], places: Places[DataT], closer: Closer[DataT], tasks: Tasks
    ) -> None:
        self.close_timeout = config.close_timeout
        self.max_concurrent_closes = config.close_concurrency
        self._store = store
        self._places = places
        self._closer = closer
        self._tasks = tasks

    @property
    def taken(self) -> int:
        return self._store.books.active + self._store.books.reserved

    def clock(self) -> float:
        return self._store.clock()

    def start(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        self._tasks.start(f"otel-sessions {name}", work)

    def room_changed(self) -> None:
        self._places.room_changed()

    def end(self, due: Mapping[EndReason, Sequence[str]]) -> None:
        there = self._store.sessions
        end_all(
            self._store,
            self._closer,
            {reason: [there[one] for one in session_ids if one in there] for reason, session_ids in due.items()},
        )


def end_all(store: Store[Any], closer: Closer[Any], wanted: Mapping[EndReason, Sequence[Session[Any]]]) -> None:
    """End the live ones among these sessions, each once. The calls run in tasks of the manager.

    A session that is due counts for why it is due, unless it is `fenced`: a close hook must know that another process
    may use what belongs to the session.
    """
    now = latest(store.clock)
    due: dict[EndReason, list[Session[Any]]] = {}
    seen: set[Session[Any]] = set()
    for reason, sessions in wanted.items():
        for session in sessions:
            if session.end_reason is None and session not in seen:
                seen.add(session)
                counted = reason if reason is EndReason.FENCED else session._reason(now, reason)
                due.setdefault(counted, []).append(session)
    closer.end(due, Context(), Batch(), now)
