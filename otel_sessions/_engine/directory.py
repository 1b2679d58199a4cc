"""What people and admin tools ask a manager: which sessions there are, which ended lately, and to end some by hand.

A list is read page by page, by position in the roll. A page is one step on the loop and looks at a bounded number of
sessions. A search goes through all sessions, a leaf of the roll at a time, and lets the loop go on in between.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from itertools import islice
from typing import Generic, overload

import anyio.lowlevel
from opentelemetry import context as otel_context

from otel_sessions._core.ids import fingerprint as fingerprint_of
from otel_sessions._core.limits import UNSET, Unset
from otel_sessions._core.listing import LENGTH, MOST_EXAMINED, RecentEnd, SessionInfo, SessionPage, Wanted, described
from otel_sessions._core.options import COUNT
from otel_sessions._core.roll import LEAF
from otel_sessions._core.session import DataT, Session
from otel_sessions._core.store import MOST_RECENT, Store
from otel_sessions._core.words import EndReason, SessionState

from .ending import Batch
from .supervisor import Supervisor


class Directory(ABC, Generic[DataT]):
    """The part of a manager that lists sessions, and ends sessions by hand."""

    _store: Store[DataT]

    @abstractmethod
    def _running_here(self) -> Supervisor[DataT]:
        """Return the current run. Raises `ManagerClosed` without a run, `RuntimeError` on another loop."""

    @property
    def accepting(self) -> bool:
        """Whether the manager takes new sessions: it runs, and is not shutting down. A full manager takes them, too."""
        home = self._store.home
        return self._store.accepting and home is not None and not home.is_closed()

    @property
    def max_sessions(self) -> int | None:
        """The cap that is in force, None without a cap."""
        return self._store.books.limit

    def sessions(
        self,
        *,
        client: str | None = None,
        state: SessionState | str | None = None,
        idle_for: float | None = None,
        older_than: float | None = None,
        after: str | None = None,
        limit: int = 100,
    ) -> SessionPage:
        """Return a page of the sessions, oldest first: at most `limit` sessions, from 1 to 1,000.

        `client` and `state` (`active`, `closing` or `failed`) choose sessions, and so do `idle_for` and `older_than`,
        at least as many seconds. `after` is the `next` of the page before, None for the first page. It stays valid if
        sessions end or are created meanwhile. A session that stays is on exactly one page. The list has every session
        that takes a place: also closing sessions, and sessions that are due until a pass ends them. Only sessions that
        a fleet with a store hides, since another process may have them, are on no page.

        One call looks at 1,000 sessions at most, so a page may be short or empty although `next` is not None. Raises
        `ConfigError` if a keyword is wrong or `after` is not from this run of the manager, `ManagerClosed`, and
        `RuntimeError` on another event loop than the manager's.
        """
        self._running_here()
        length = LENGTH.check("limit", limit)
        wanted = Wanted.checked(client, state, idle_for, older_than)
        roll = self._store.roll
        walk = roll.walk(0 if after is None else roll.position(after))
        found: list[SessionInfo] = []
        for _, session in islice(walk, MOST_EXAMINED):
            if session is not None and wanted.accepts(session) and self._store.shows(session):
                found.append(described(session))
                if len(found) == length:
                    break
        following = next(walk, None)
        return SessionPage(sessions=tuple(found), next=None if following is None else roll.cursor(following[0]))

    def recent_ends(self, limit: int = MOST_RECENT) -> tuple[RecentEnd, ...]:
        """Return what is known of the last sessions that ended in this run, the latest first: at most 100.

        Works before and after a run of the manager, too. Raises `ConfigError` if `limit` is not a count.
        """
        return self._store.recent_ends(COUNT.check("limit", limit) or 0)

    async def find(self, fingerprint: str) -> SessionInfo | None:
        """Return what people see of the session whose id has this fingerprint, or None if there is no such session.

        The search looks at all sessions, so its cost is linear. It lets the loop go on in between. Raises
        `ManagerClosed`, and `RuntimeError` on another event loop than the manager's.
        """
        self._running_here()
        session = await self._search(fingerprint)
        return described(session) if session is not None and self._store.shows(session) else None

    @overload
    async def close_session(self, session_id: str) -> bool: ...
    @overload
    async def close_session(self, *, fingerprint: str) -> bool: ...
    async def close_session(self, session_id: str | Unset = UNSET, *, fingerprint: str | None = None) -> bool:
        """End a session by hand. Return True, after the close hook or its timeout, to the one caller that ended it.

        The session is hidden at once. Bound leases of other tasks are cancelled, never the caller's. If no live session
        has the id, the method returns False at once. `fingerprint` names the session by the fingerprint of its id: the
        cost of the search is linear in the number of sessions. Raises `TypeError` unless exactly one of both is given,
        `ManagerClosed`, and `RuntimeError` on another event loop than the manager's.
        """
        supervisor = self._running_here()
        if (session_id is UNSET) is (fingerprint is None):
            raise TypeError("close_session takes the id of a session or its fingerprint, one of both")
        if session_id is not UNSET:
            session = self._store.sessions.get(session_id)
        else:
            session = await self._search(fingerprint or "")
        if session is None or session.end_reason is not None:
            return False
        await self._end(supervisor, session)
        return True

    async def close_client(self, client: str) -> int:
        """End all sessions of a client by hand, and return how many this call has ended. Waits for their close hooks.

        Sessions that the client opens during the call stay. The cost is linear in the number of all sessions; the
        search lets the loop go on in between. Raises `TypeError` if the client is not a `str`, `ManagerClosed`, and
        `RuntimeError` on another event loop than the manager's.
        """
        supervisor = self._running_here()
        if not isinstance(client, str):
            raise TypeError(f"a client is a str, not {type(client).__name__}")
        ended, batch, cause = 0, Batch(), otel_context.get_current()
        for leaf in self._leaves():
            now = self._store.clock()
            due: dict[EndReason, list[Session[DataT]]] = {}
            for session in leaf:
                if session.client == client and session.end_reason is None:
                    due.setdefault(session._reason(now, EndReason.CLOSED), []).append(session)
                    ended += 1
            if due:
                supervisor.closer.end(due, cause, batch, now)
            await anyio.lowlevel.checkpoint()
        if not supervisor.hooks.calling:
            await batch.wait()
        return ended

    async def _end(self, supervisor: Supervisor[DataT], session: Session[DataT]) -> None:
        """End a session and wait for its export and close hook. A caller inside a hook or an export does not wait."""
        batch, now = Batch(), self._store.clock()
        reason = session._reason(now, EndReason.CLOSED)
        supervisor.closer.end({reason: [session]}, otel_context.get_current(), batch, now)
        if not supervisor.hooks.calling:
            await batch.wait()

    async def _search(self, fingerprint: str) -> Session[DataT] | None:
        for leaf in self._leaves():
            for session in leaf:
                if fingerprint_of(session.id) == fingerprint:
                    return session
            await anyio.lowlevel.checkpoint()
        return None

    def _leaves(self) -> Iterator[list[Session[DataT]]]:
        """Yield the sessions that there are now, about a leaf of the roll at a time. Others may come and go between."""
        roll = self._store.roll
        position, end = 0, roll.end
        while leaf := list(islice(roll.walk(position), LEAF)):
            yield [session for at, session in leaf if session is not None and at < end]
            position = leaf[-1][0] + 1
            if position >= end:
                return
