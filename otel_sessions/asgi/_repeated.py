"""What is found in a head, found once where a server or an app has the same head again and again.

Such a server gives the same `Repeated` in the scopes of a head that is repeated on one connection. Such an app gives
the same `RepeatedAnswer`. A matcher has no state. So all that it says of such a head is the same each time.
"""

from typing import Final

from otel_sessions.matchers import AdoptingMatcher, Headers, Match, Scope, SessionMatcher, pairs_of

from ._events import Events

REPEATED: Final = "otel_sessions.repeated"
"""Where a scope has its `Repeated`, if its server makes them."""


class Repeated:
    """What is remembered of a head: what it matches, the headers that the app got last, and what a peer got last.

    `taken` is what was found in a head that a peer has passed on.
    """

    __slots__ = ("match", "session_id", "taken", "towards_app", "towards_peer")

    def __init__(self) -> None:
        self.match: Match | None = None
        self.towards_app: Headers | None = None
        self.session_id: str | None = None
        """The id for which `towards_app` was made."""
        self.towards_peer: object = None
        self.taken: object = None


class RepeatedAnswer(list[tuple[bytes, bytes]]):
    """The headers of an answer, which nobody changes and an app may give again. It keeps what was found in them."""

    __slots__ = ("is_event_stream", "named", "written")

    def __init__(self, headers: Headers) -> None:
        super().__init__(headers)
        self.named: tuple[()] | tuple[str | None] = ()
        """The id of the session that the answer names, or None. Empty if no matcher was asked."""
        self.is_event_stream: bool | None = None
        """Whether the answer is an event stream. None if nobody has asked."""
        self.written: object = None
        """How a server has written the answer last."""


def named_in(headers: Headers, matcher: AdoptingMatcher) -> str | None:
    """Return the id of the session that an answer names, or None."""
    if not isinstance(headers, RepeatedAnswer):
        return matcher.id_in_answer(headers)
    if not headers.named:
        headers.named = (matcher.id_in_answer(headers),)
    return headers.named[0]


def events_in(headers: Headers) -> Events | None:
    """Return the event stream of an answer at its beginning, or None if the answer is not an event stream."""
    if not isinstance(headers, RepeatedAnswer):
        return Events.of(headers)
    events = None if headers.is_event_stream is False else Events.of(headers)
    headers.is_event_stream = events is not None
    return events


def match_in(scope: Scope, matcher: SessionMatcher) -> Match:
    """Return what a matcher says of a scope."""
    repeated: Repeated | None = scope.get(REPEATED)
    if repeated is None:
        return matcher.match(scope)
    if repeated.match is None:
        repeated.match = matcher.match(scope)
    return repeated.match


def headers_in(scope: Scope, matcher: SessionMatcher, session_id: str | None) -> Headers:
    """Return the headers of a scope as the app gets them, with exactly this id."""
    repeated: Repeated | None = scope.get(REPEATED)
    if repeated is None:
        return matcher.towards_app(pairs_of(scope), session_id)
    if repeated.towards_app is None or repeated.session_id != session_id:
        repeated.towards_app, repeated.session_id = matcher.towards_app(pairs_of(scope), session_id), session_id
    return repeated.towards_app
