"""Hints in ids that an app makes: put in front on the way to the client, taken off on the way to the app.

A hint names the process that has the session. It is a route, not a right: the rest of the id is the secret. The manager
and the app know the app's own id, byte for byte. Only clients see the id with its hint.
"""

from collections.abc import Callable

from otel_sessions._core.exceptions import SessionError
from otel_sessions._core.ids import hinted, without_hint
from otel_sessions.matchers import AdoptingMatcher, Answer, Headers, Match, Scope


class HintingMatcher(AdoptingMatcher):
    """Wraps a matcher. `process` returns the name of this process, which is new in a forked process.

    An id with the hint of this process becomes the app's own id, once: a second hint stays a part of the id. An id with
    another hint, or without a hint, stays as it is.
    """

    hint = True

    def __init__(self, matcher: AdoptingMatcher, process: Callable[[], str]) -> None:
        self.request_header = matcher.request_header
        self._matcher = matcher
        self._process = process

    def match(self, scope: Scope) -> Match:
        match = self._matcher.match(scope)
        if not match.session_ids:
            return match
        own = tuple(map(self.own_id, match.session_ids))
        return match if own == match.session_ids else Match(session_ids=own, opens=match.opens)

    def own_id(self, session_id: str) -> str:
        """Return an id without the hint of this process, as the manager and the app know the id."""
        return without_hint(self._process(), session_id)

    def announce(self, session_id: str, scope: Scope, headers: Headers) -> Headers:
        return self._matcher.announce(hinted(self._process(), session_id), scope, headers)

    def towards_app(self, headers: Headers, session_id: str | None) -> Headers:
        return self._matcher.towards_app(headers, session_id)

    def refusal(self, error: SessionError) -> Answer:
        return self._matcher.refusal(error)

    def body_opens(self, start: bytes, complete: bool) -> bool | None:
        return self._matcher.body_opens(start, complete)

    def id_in_answer(self, headers: Headers) -> str | None:
        return self._matcher.id_in_answer(headers)

    def establishes(self, status: int) -> bool:
        return self._matcher.establishes(status)

    def ends(self, scope: Scope, status: int) -> bool:
        return self._matcher.ends(scope, status)

    def withhold(self, headers: Headers) -> Headers:
        return self._matcher.withhold(headers)
