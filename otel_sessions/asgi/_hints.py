"""Hints in ids that an app makes: put in front on the way to the client, taken off on the way to the app.

A hint names the process that has the session. It is a route, not a right: the rest of the id is the secret. The manager
and the app know the app's own id, byte for byte. Only clients see the id with its hint.
"""

from collections.abc import Callable
from typing import Final

from otel_sessions._core.forks import forks
from otel_sessions._core.ids import hinted
from otel_sessions.matchers import AdoptingMatcher, Headers, Match, Scope

_new: Final = tuple.__new__  # `Match(...)` costs as much as all that a hint costs


class HintingMatcher:
    """Wraps a matcher. `process` returns the name of this process, which is new in a forked process.

    An id with the hint of this process becomes the app's own id, once: a second hint stays a part of the id. An id with
    another hint, or without a hint, stays as it is.
    """

    hint: bool = True

    def __init__(self, matcher: AdoptingMatcher, process: Callable[[], str]) -> None:
        self.request_header = matcher.request_header
        self._matcher = matcher
        self._process = process
        self.start_anew_after_fork()
        forks.add(self)
        # No hint changes these answers, and each request asks. A method around each would cost as much as the answer.
        self.towards_app = matcher.towards_app
        self.id_in_answer = matcher.id_in_answer
        self.ends = matcher.ends
        self.body_opens = matcher.body_opens
        self.establishes = matcher.establishes
        self.withhold = matcher.withhold
        self.refusal = matcher.refusal

    def start_anew_after_fork(self) -> None:
        self._hint: str | None = None
        """What ids of this process begin with, once it was asked for."""

    def match(self, scope: Scope) -> Match:
        ids, opens = match = self._matcher.match(scope)
        if not ids:
            return match
        hint = self._hint or self._here()
        own = (ids[0].removeprefix(hint),) if len(ids) == 1 else tuple(each.removeprefix(hint) for each in ids)
        return _new(Match, (own, opens))

    def own_id(self, session_id: str) -> str:
        """Return an id without the hint of this process, as the manager and the app know the id."""
        return session_id.removeprefix(self._hint or self._here())

    def announce(self, session_id: str, scope: Scope, headers: Headers) -> Headers:
        return self._matcher.announce(self._here() + session_id, scope, headers)

    def _here(self) -> str:
        if self._hint is None:
            self._hint = hinted(self._process(), "")
        return self._hint
