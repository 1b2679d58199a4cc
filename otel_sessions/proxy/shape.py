"""The shape of a head: what the names of its lines decide, whatever their values are. Pure.

The heads of a client mostly have the same names in the same order. So a shape is found once and remembered, and each
further head costs one lookup. The values of `Connection` belong to the shape, because they are names.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus
from typing import Final

from otel_sessions._http.hops import HOP_BY_HOP
from otel_sessions.asgi._repeated import REPEATED, Repeated
from otel_sessions.matchers import Headers, Scope, pairs_of

SHAPED: Final = REPEATED
"""Where a scope has its `Shaped`."""
KEPT: Final = 512
"""How many shapes are remembered."""
_MOST_BYTES: Final = 1024
"""Bytes of names in a shape that is remembered. Longer shapes would fill memory."""
_CONNECTION: Final = b"connection"
UNREAD: Final = frozenset(
    {
        *(b"traceparent", b"tracestate", b"baggage", b"x-request-id", b"x-correlation-id", b"x-amzn-trace-id"),
        *(b"authorization", b"cookie", b"idempotency-key"),
    }
)
"""Names whose values are only passed on: nothing that a `Shaped` remembers depends on them."""


Changes = Mapping[tuple[bytes, bytes], tuple[bytes, bytes]]
"""Lines that have another value now, by the lines as they were."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Shape:
    """The names of a head's lines, in lower case, and where they stand.

    `at` has the numbers of a name's lines. `tokens` are the words of `Connection`. `passing` are the lines that are
    not about one connection only. Shapes are compared by identity: what depends on a shape is looked up at no cost.
    """

    names: tuple[bytes, ...]
    at: Mapping[bytes, tuple[int, ...]]
    tokens: frozenset[bytes]
    passing: tuple[int, ...]

    def first(self, headers: Headers, name: bytes) -> bytes | None:
        """Return the first value of a name in a head of this shape, or None."""
        found = self.at.get(name)
        return None if found is None else headers[found[0]][1]

    def values(self, headers: Headers, name: bytes) -> list[bytes]:
        """Return all values of a name in a head of this shape."""
        return [headers[line][1] for line in self.at.get(name, ())]


class Shaped(Repeated):
    """A request's headers and their shape, and what was found out about them.

    A connection has the same object again for a head that is repeated, so each answer is found once. `refusal` is why
    the request is not passed on; it is empty if nobody has asked. `outgoing` is what the upstream is asked. `like` is
    that of a head that differs in the values of `UNREAD` names only, and the lines that have changed; None if there is
    no such head. `rewritten` is about the headers that the middleware has made of these last, and `rewritten_like`
    about those that it had made of the head in `like`. `line` is what a scope has of the first line and the connection.
    """

    __slots__ = ("headers", "like", "line", "outgoing", "refusal", "rewritten", "rewritten_like", "shape")

    def __init__(self, headers: Headers, shape: Shape) -> None:
        Repeated.__init__(self)  # what `super` costs, each request with a trace of its own would pay
        self.headers: Final = headers
        self.shape: Final = shape
        self.refusal: tuple[()] | tuple[tuple[HTTPStatus, str] | None] = ()
        self.outgoing: object = None
        self.line: dict[str, object] | None = None
        self.like: tuple[object, Changes] | None = None
        self.rewritten: Shaped | None = None
        self.rewritten_like: tuple[Shaped, Changes] | None = None

    def changed(self, headers: Headers, changes: Changes) -> "Shaped":
        """Return what is known about these headers, which differ from the present headers in `UNREAD` lines."""
        other = Shaped(headers, self.shape)
        other.refusal, other.line = self.refusal, self.line
        if self.outgoing is not None:
            other.like = self.outgoing, changes
        if self.rewritten is not None:
            other.rewritten_like = self.rewritten, changes
        return other

    def rewritten_as(self, headers: Headers) -> "Shaped":
        """Return what is known about the headers that the middleware has made of these."""
        like, self.rewritten_like = self.rewritten_like, None
        if like is not None:
            before, changes = like
            if headers == with_changes(before.headers, changes):
                return before.changed(headers, changes)
        return Shaped(headers, shape_of(headers))


def with_changes(headers: Headers, changes: Changes) -> list[tuple[bytes, bytes]]:
    """Return headers with other values in some lines, each of which stands there at most once."""
    changed = list(headers)
    for line, other in changes.items():
        if line in changed:
            changed[changed.index(line)] = other
    return changed


def shape_of(headers: Headers) -> Shape:
    """Return the shape of a head, whose names are in lower case."""
    names = tuple([name for name, _ in headers])
    said: tuple[bytes, ...] = ()
    size = len(b"".join(names))
    if _CONNECTION in names:
        said = (headers[names.index(_CONNECTION)][1],)
        if names.count(_CONNECTION) > 1:
            said = tuple(value for name, value in headers if name == _CONNECTION)
        size += sum(map(len, said))
    return _found_again(names, said) if size <= _MOST_BYTES else _found(names, said)


def shape_in(scope: Scope) -> Shape:
    """Return the shape of a request's head."""
    shaped = shaped_in(scope)
    return shape_of(pairs_of(scope)) if shaped is None else shaped.shape


def shaped_in(scope: Scope) -> Shaped | None:
    """Return what is known about a request's headers, or None if the server has not said it.

    Headers that somebody has changed are found again if a head is repeated and changed in the same way.
    """
    shaped: Shaped | None = scope.get(SHAPED)
    headers = scope["headers"]
    if shaped is None or shaped.headers is headers:
        return shaped
    rewritten = shaped.rewritten
    if rewritten is None or (rewritten.headers is not headers and rewritten.headers != headers):
        rewritten = shaped.rewritten = shaped.rewritten_as(headers)
    return rewritten


def tokens(values: Iterable[bytes]) -> frozenset[bytes]:
    """Return the words of a header that is a list, in lower case."""
    return frozenset(token.strip().lower() for value in values for token in value.split(b","))


def _found(names: tuple[bytes, ...], said: tuple[bytes, ...]) -> Shape:
    at: dict[bytes, tuple[int, ...]] = {}
    for line, name in enumerate(names):
        at[name] = (*at.get(name, ()), line)
    words = tokens(said)
    dropped = HOP_BY_HOP | words
    passing = tuple(line for line, name in enumerate(names) if name not in dropped)
    return Shape(names=names, at=at, tokens=words, passing=passing)


_found_again = lru_cache(KEPT)(_found)
