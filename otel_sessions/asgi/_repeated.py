"""What a matcher says of a head, found once where a server gets the same head again and again.

Such a server gives the same `Repeated` in the scopes of a head that is repeated on one connection. A matcher has no
state. So all that it says of these scopes is the same each time.
"""

from typing import Final

from otel_sessions.matchers import Headers, Match, Scope, SessionMatcher, pairs_of

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
