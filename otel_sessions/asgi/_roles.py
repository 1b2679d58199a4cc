"""The role of an exchange for a session: it decides what the start of the app's answer means.

A role is asked once, when the answer starts. It changes the headers. When the app has returned, the role says whether
the session `closes`, and whether the app has made a `stray` session. An id counts as announced when the start of the
answer has been sent; if the client has left before, the session closes. No role refers to its exchange, so no reference
cycle keeps an ended session in memory.
"""

from collections.abc import Callable
from math import inf
from typing import Any, Protocol

import anyio

from otel_sessions._core.exceptions import SessionExists
from otel_sessions._core.session import Session
from otel_sessions._engine.manager import SessionManager
from otel_sessions._http.caching import unshared
from otel_sessions.matchers import AdoptingMatcher, Headers, IssuingMatcher, Scope

from ._repeated import named_in

SESSION = "otel_sessions.session"
"""The key in the scope of the session that the request is in. The value is None if the request is in no session."""
OPENING = "otel_sessions.opening"
"""The key in the scope of a request whose answer may open a session of the app. The value is True."""


ENDS = "otel_sessions.ends"
"""The key in the scope of a request whose app has found out already whether its answer ends its session."""


class Role(Protocol):
    """The role of an exchange for a session."""

    @property
    def session(self) -> Session[Any] | None:
        """The session that the exchange uses, or None as long as it uses no session."""

    @property
    def closes(self) -> bool:
        """Whether the session must be closed when the app has returned."""

    @property
    def stray(self) -> str | None:
        """The id of a session that the app has made and the manager does not have, or None."""

    @property
    def answer_sent(self) -> Callable[[], None] | None:
        """Notes that the start of the answer was sent to a client that has not left. None if it makes no difference."""

    def answer_starts(self, status: int, headers: Headers) -> Headers:
        """Note the start of the app's answer. Return its headers as the client gets them."""


class _Silent:
    """A role for which it does not matter whether the answer reaches the client."""

    __slots__ = ()
    answer_sent = None


class Outside(_Silent):
    """An exchange in no session. The answer is not changed."""

    session = None
    closes = False
    stray = None

    def answer_starts(self, _status: int, headers: Headers) -> Headers:
        return headers


class Opening:
    """The first exchange of a session whose id the manager has made.

    The session closes if the app raises or refuses (400 and above), or if the client has left before the answer.
    """

    stray = None

    def __init__(self, matcher: IssuingMatcher, session: Session[Any], scope: Scope) -> None:
        self.session = session
        self.closes = True
        self._announces = False
        self._matcher = matcher
        self._scope = scope

    def answer_starts(self, status: int, headers: Headers) -> Headers:
        if status >= 400 or self.session.end_reason is not None:
            return headers
        self._announces = True
        return _announced(self._matcher, self.session, self._scope, headers)

    def answer_sent(self) -> None:
        self.closes = not self._announces


class Only(_Silent):
    """The only exchange of a session. The session ends with the exchange, and its id is never announced."""

    closes = True
    stray = None

    def __init__(self, session: Session[Any]) -> None:
        self.session = session

    def answer_starts(self, _status: int, headers: Headers) -> Headers:
        return headers


class Staying(_Silent):
    """An exchange in a session whose id the manager has made. The answer is not changed."""

    __slots__ = ("session",)
    closes = False
    stray = None

    def __init__(self, session: Session[Any]) -> None:
        self.session = session

    def answer_starts(self, _status: int, headers: Headers) -> Headers:
        return headers


class Renewing:
    """An exchange in a session whose id is announced again `renew_after` seconds after it was announced last."""

    __slots__ = ("_matcher", "_renew_after", "_renewals", "_renews", "_scope", "session")
    closes = False
    stray = None

    def __init__(
        self,
        matcher: IssuingMatcher,
        session: Session[Any],
        scope: Scope,
        renewals: "Renewals",
        renew_after: float,
    ) -> None:
        self.session = session
        self._renew_after = renew_after
        self._matcher = matcher
        self._scope = scope
        self._renewals = renewals
        self._renews = False

    def answer_starts(self, status: int, headers: Headers) -> Headers:
        session = self.session
        if status >= 400 or session.end_reason is not None:
            return headers
        self._renews = self._renewals.is_due(session, self._renew_after)
        return _announced(self._matcher, session, self._scope, headers) if self._renews else headers

    def answer_sent(self) -> None:
        if self._renews:
            self._renewals.note(self.session)


class Asking(_Silent):
    """An exchange with an app that makes ids, in a session or in no session. The app's answer may end the session.

    With `once`, the session ends with this exchange.
    """

    __slots__ = ("_matcher", "_once", "_scope", "closes", "session", "stray")

    def __init__(
        self, matcher: AdoptingMatcher, session: Session[Any] | None, scope: Scope, *, once: bool = False
    ) -> None:
        self.session = session
        self.closes = self._once = once
        self.stray: str | None = None
        self._matcher = matcher
        self._scope = scope

    def answer_starts(self, status: int, headers: Headers) -> Headers:
        self.closes = self._once or (self.session is not None and self._ends(status))
        named = named_in(headers, self._matcher)
        if named is None:
            return headers
        if self.session is not None and named == self.session.id:
            if self._matcher.hint:
                headers = self._matcher.announce(named, self._scope, headers)
            return unshared(headers, self._matcher.request_header)
        self.stray = named
        return self._matcher.withhold(headers)

    def _ends(self, status: int) -> bool:
        ends: bool | None = self._scope.get(ENDS)
        return self._matcher.ends(self._scope, status) if ends is None else ends


class Adopting:
    """An exchange whose answer may open a session under an id that the app makes.

    `commit` makes the session, or raises. `give_back` gives the reserved place back. If no session is made of the id
    that the app names, the id is `stray`, unless another session has this id. The session closes if its client has left
    before the answer.
    """

    def __init__(
        self,
        matcher: AdoptingMatcher,
        scope: Scope,
        commit: Callable[[str], Session[Any]],
        give_back: Callable[[], None],
    ) -> None:
        self.session: Session[Any] | None = None
        self.closes = False
        self.stray: str | None = None
        self._matcher = matcher
        self._scope = scope
        self._commit = commit
        self._give_back = give_back

    def answer_starts(self, status: int, headers: Headers) -> Headers:
        self.stray = named = named_in(headers, self._matcher)
        if named is None or not self._matcher.establishes(status) or _is_cancelled():
            self._give_back()
            return self._matcher.withhold(headers)
        try:
            self.session = self._commit(named)
        except SessionExists:
            self.stray = None
            raise
        self.stray = None
        self.closes = True
        self._scope[SESSION] = self.session
        return unshared(self._matcher.announce(named, self._scope, headers), self._matcher.request_header)

    def answer_sent(self) -> None:
        self.closes = False


class Renewals:
    """The times at which ids were last announced again. Bounded by the number of live sessions."""

    def __init__(self, manager: SessionManager[Any]) -> None:
        self._manager = manager
        self._told_at: dict[str, float] = {}
        """The age of a session, in seconds, when its id was last announced again. Openings, at age 0, are not in it."""

    def is_due(self, session: Session[Any], renew_after: float) -> bool:
        """Return whether the id of a session must be announced again. `renew_after` is in seconds."""
        return session.age - self._told_at.get(session.id, 0.0) >= renew_after

    def note(self, session: Session[Any]) -> None:
        """Note that the id of a session has been announced now."""
        if len(self._told_at) > 2 * len(self._manager) + 64:
            self._told_at = {key: told for key, told in self._told_at.items() if key in self._manager}
        self._told_at[session.id] = session.age


def _is_cancelled() -> bool:
    """Return whether the running task is cancelled, for example since its client has left: no session then."""
    return anyio.current_effective_deadline() == -inf


def _announced(matcher: IssuingMatcher, session: Session[Any], scope: Scope, headers: Headers) -> Headers:
    """Return an answer's headers with the id. A handshake needs no headers for caches: no cache keeps its answer."""
    announced = matcher.announce(session.id, scope, headers)
    return announced if scope["type"] == "websocket" else unshared(announced, matcher.request_header)
