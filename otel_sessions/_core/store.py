"""Which sessions there are: the live sessions by id, the closing sessions, the roll, and the wheel of what may be due.

A session enters by `add`. It leaves by `hide` and then `finish`, or by `remove`, which does both in one step. The
session has no lease any more then. Only `write_off` ends sessions otherwise, after their loop or process is gone. Other
modules decide when a session ends, and what happens between `hide` and `finish` (`sweep`, `eviction`, `closing`).
"""

import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Generic, Protocol

from .books import Books, RecentEnds
from .clock import latest
from .config import SessionConfig
from .exceptions import ManagerClosed, SessionExists, SessionNotFound
from .ids import fingerprint
from .listing import RecentEnd
from .loops import Home
from .roll import Roll
from .session import DataT, End, Session, Shared
from .wheel import Wheel
from .words import EndReason

_SHORTEST_TICK = 0.001
_SAME_WALL_CLOCK = 0.001
"""Seconds. New sessions go on sharing one `Shared` while their wall offsets differ by less."""

MOST_RECENT = 100
"""How many ended sessions are shown."""

_ELSEWHERE = (
    "the session manager runs on another event loop; call it on its own loop, from other threads"
    " by `anyio.from_thread.run`, `asyncio.run_coroutine_threadsafe` or `trio.from_thread.run`"
)


def never_entered(who: str) -> ManagerClosed:
    return ManagerClosed(
        f"{who} was never entered; enter it first, as in the app's lifespan: `async with manager`", entered=False
    )


def loop_closed() -> ManagerClosed:
    return ManagerClosed("the session manager is not running: its event loop was closed; enter it again")


class Lookup(Protocol[DataT]):
    """Where a session is looked for that may be handed out, if it is not due."""

    def get(self, session_id: str, /) -> Session[DataT] | None: ...


class _Visible(Generic[DataT]):
    """A lookup that finds only the sessions that this process may serve."""

    def __init__(self, sessions: dict[str, Session[DataT]], is_visible: Callable[[Session[Any]], bool]) -> None:
        self._sessions = sessions
        self._is_visible = is_visible

    def get(self, session_id: str, /) -> Session[DataT] | None:
        session = self._sessions.get(session_id)
        return session if session is not None and self._is_visible(session) else None


class Store(Generic[DataT]):
    """The sessions of one run of a manager: from one entry until the end of the run.

    `accepting` says whether the store gives new sessions and leases. `home` is the loop of the run, None before it.
    `visible` finds the sessions that may be handed out. It is `sessions` itself, unless a fleet hides sessions.
    """

    def __init__(self, config: SessionConfig, clock: Callable[[], float], books: Books) -> None:
        self.clock = clock
        self.accepting = False
        self.home: Home | None = None
        self.sessions: dict[str, Session[DataT]] = {}
        self.visible: Lookup[DataT] = self.sessions
        self.closing: dict[str, Session[DataT]] = {}
        self.recent = RecentEnds()
        self._latest: deque[tuple[EndReason, float, list[str]]] = deque(maxlen=MOST_RECENT)
        """Which sessions ended together, why and when. Fingerprints are made when a caller asks."""
        self.wheel: Wheel[Session[DataT]] = Wheel(min(1.0, max(config.cleanup_interval / 10, _SHORTEST_TICK)))
        self.roll: Roll[Session[DataT]] = Roll((self.sessions, self.closing), lambda session: session._shared.leaf)
        self.books = books
        self._is_visible: Callable[[Session[Any]], bool] | None = None
        self._shared = Shared.normal(config, clock, self.wheel, self.roll.leaf)

    def share(
        self, is_visible: Callable[[Session[Any]], bool], registering: Callable[[Session[Any]], Awaitable[None]]
    ) -> None:
        """Hand out only what is visible, and let sessions wait for their registration. Before the first session."""
        self.visible = _Visible(self.sessions, is_visible)
        self._is_visible = is_visible
        self._shared = replace(self._shared, registering=registering)

    def open(self, home: Home) -> None:
        """Begin the run on the loop `home`."""
        self.home = home
        self.accepting = True

    def refuse(self) -> None:
        """Stop giving new sessions and leases."""
        self.accepting = False

    def shared_at(self, now: float) -> Shared:
        """Return what a session that is made at `now` shares with others."""
        offset = time.time() - now
        if abs(offset - self._shared.wall_offset) > _SAME_WALL_CLOCK:
            self._shared = replace(self._shared, wall_offset=offset)
        return self._shared

    def require_accepting(self) -> None:
        """Raise `ManagerClosed` unless the manager runs and is not shutting down."""
        if not self.accepting:
            if self.home is None:
                raise never_entered("the session manager")
            raise ManagerClosed("the session manager is not running: it is shutting down or has ended")

    def require_here(self) -> None:
        """Raise `RuntimeError` on another loop than the run's, and `ManagerClosed` if the run's loop is closed."""
        if self.home is not None and not self.home.is_here():
            self.require_open_loop()
            raise RuntimeError(_ELSEWHERE)

    def require_open_loop(self) -> None:
        """Raise `ManagerClosed` if the loop of the run is closed."""
        if self.home is not None and self.home.is_closed():
            raise loop_closed()

    def require_vacant(self, session_id: str) -> None:
        """Raise `SessionExists` if a session with this id is live or still closing."""
        if session_id in self.sessions or session_id in self.closing:
            raise SessionExists(session_id)

    def add(self, session_id: str, data: DataT, client: str | None, shared: Shared, now: float) -> Session[DataT]:
        """Make a session that is visible at once. Its id must be vacant."""
        session = Session(session_id, data, client, shared, now)
        self.sessions[session_id] = session
        if self.roll.add(session_id):
            self._shared = replace(self._shared, leaf=self.roll.leaf)
        self.books.add_created()
        self.wheel.file(session, session._deadline(now, shared), now)
        return session

    def hidden(self, session: str | Session[DataT]) -> Session[DataT]:
        """Return a session itself, though a fleet may hide it still. Raises `SessionNotFound` if it is not here.

        Only who has made a session leases it by itself.
        """
        if not isinstance(session, Session):
            raise SessionNotFound(session, self.reason_of(session))
        if session is not self.sessions.get(session.id):
            raise SessionNotFound(session.id, self.reason_of(session.id))
        return session

    def shows(self, session: Session[DataT]) -> bool:
        """Return whether people may see a session: each session that takes a place, unless a fleet hides it."""
        return self._is_visible is None or session.end_reason is not None or self._is_visible(session)

    def reason_of(self, session_id: str) -> EndReason | None:
        """Return why the session of an id was ended. A session that a fleet hides was not: return None."""
        if session_id in self.sessions:
            return None
        closing = self.closing.get(session_id)
        return closing.end_reason if closing is not None else self.recent.reason_of(session_id)

    def recent_ends(self, limit: int) -> tuple[RecentEnd, ...]:
        """Return what is known of the sessions that ended last, the latest first."""
        ends = (
            RecentEnd(fingerprint=fingerprint(session_id), reason=reason, ended_at=datetime.fromtimestamp(at, UTC))
            for reason, at, together in reversed(self._latest)
            for session_id in reversed(together)
        )
        return tuple(islice(ends, min(limit, MOST_RECENT)))

    def hide(self, session: Session[DataT], reason: EndReason, now: float) -> None:
        """Hide a session and mark it as closing. `reason` is the reason for which the session will be counted."""
        self._settle([session], reason, now, gone=False)
        self.closing[session.id] = session
        self.books.add_closing()

    def finish(self, session: Session[DataT]) -> None:
        """Remove a hidden session for good, and count it as cleaned."""
        del self.closing[session.id]
        end = session._end
        assert end is not None
        assert end.reason is not None
        end.gone = True
        self.roll.discard([session._shared.leaf])
        self.books.add_cleaned(end.reason)

    def remove(self, sessions: list[Session[DataT]], reason: EndReason, now: float) -> None:
        """Hide and finish sessions in one step."""
        self._settle(sessions, reason, now, gone=True)
        self.roll.discard([session._shared.leaf for session in sessions])
        self.books.add_removed(reason, len(sessions))

    def write_off(self) -> None:
        """Forget all sessions, since their loop or process is gone. They end as `shutdown`; other books count them."""
        self.refuse()
        for session in self.closing.values():
            assert session._end is not None
            session._end.gone = True
        self.closing.clear()
        self._settle(list(self.sessions.values()), EndReason.SHUTDOWN, latest(self.clock), gone=True)

    def _settle(self, sessions: list[Session[DataT]], reason: EndReason, now: float, gone: bool) -> None:
        for session in sessions:
            del self.sessions[session.id]
            if session._bucket is not None:
                self.wheel.remove(session)
            failure = session._end.failure if session._end is not None else None
            session._end = End(failure, reason, now, session._last, session._count, gone)
            self.recent.add(session.id, reason)
        self._latest.append((reason, now + self._shared.wall_offset, [one.id for one in sessions[-MOST_RECENT:]]))
