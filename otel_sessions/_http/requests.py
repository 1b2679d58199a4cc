"""A request of HTTP/1.1 on its way out: one message, and no reader makes another one of it. Pure."""

from collections.abc import AsyncIterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from string import ascii_letters, digits
from typing import Final

Headers = list[tuple[bytes, bytes]]

_IDEMPOTENT: Final = frozenset({b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"})
"""RFC 9110, section 9.2.2."""
_USUAL: Final = _IDEMPOTENT | {b"POST", b"PATCH"}
_TOKEN: Final = b"!#$%&'*+-.^_`|~" + (digits + ascii_letters).encode()
"""RFC 9110, section 5.6.2."""
_BADLY_FRAMED: Final = "a request is framed by the client, or by one Content-Length, and each header has a name"
_KEPT: Final = 256
"""How many lists of names are remembered, since most messages have the names of the one before."""
_LONGEST_KEPT: Final = 1024
"""Bytes of names in a list that is remembered. Longer lists would fill memory."""


class Outline:
    """A request's method, target and headers, checked. A request that is repeated brings only its body anew.

    `length` is the Content-Length among the headers, or None. The target and the headers go out as they are. Raises
    `ValueError` for what would not be exactly one request.
    """

    __slots__ = ("is_head", "is_idempotent", "length", "lines")

    def __init__(self, method: bytes, target: bytes, headers: Headers) -> None:
        names: tuple[bytes, ...]
        values: tuple[bytes, ...]
        names, values = zip(*headers, strict=True) if headers else ((), ())
        form = _form_again(names) if len(b"".join(names)) <= _LONGEST_KEPT else _form(names)
        self.length = None if form.length is None else _number(values[form.length])
        self.lines = form.template % (method, target, *values)
        if not (target and _is_method(method)) or not _is_one_head(self.lines, target, len(values)):
            raise ValueError("a request has something in its head that may make it another one, or is a CONNECT")
        self.is_head = method == b"HEAD"
        self.is_idempotent = method in _IDEMPOTENT

    def changed(self, changes: Mapping[tuple[bytes, bytes], tuple[bytes, bytes]]) -> "Outline | None":
        """Return the outline with other values in some lines, by the lines as they are.

        None if it has to be made anew: a line that changes stands there twice, frames the body, or gets another name.
        """
        lines = self.lines
        for (name, value), (same, other) in changes.items():
            start = b"\r\n" + name + b": "
            before, found, behind = lines.partition(start + value + b"\r\n")
            is_there_once = found and lines.count(start) == 1
            if not is_there_once or same != name or _marks(other) or name.lower() == b"content-length":
                return None
            lines = b"".join((before, start, other, b"\r\n", behind))
        outline: Outline = object.__new__(Outline)
        outline.lines, outline.length = lines, self.length
        outline.is_head, outline.is_idempotent = self.is_head, self.is_idempotent
        return outline


class Request:
    """A request on its way out: `pieces` at once, then each of `parts` by `frame`, then `last`.

    The body is as long as a Content-Length among the headers says. If there is no Content-Length, the length of whole
    bytes is added, and parts are sent chunked. Raises `ValueError` for another length.
    """

    __slots__ = ("_left", "is_head", "is_idempotent", "is_sent", "parts", "pieces")

    def __init__(self, outline: Outline, body: bytes | AsyncIterable[bytes] | None = None) -> None:
        whole, parts = (body, None) if isinstance(body, bytes) else (b"", body)
        self._left = length = outline.length
        framing = b""
        if length is None:
            framing = _framing(body)
        elif parts is None and length != len(whole):
            raise ValueError("the body of a request is not as long as its Content-Length says")
        self.pieces: Final = (outline.lines, framing, b"\r\n", whole)
        self.parts: Final = parts
        """What is left of the body when `pieces` are sent, or None."""
        self.is_sent = parts is None
        """Whether all of the body was handed out."""
        self.is_head: Final = outline.is_head
        self.is_idempotent: Final = outline.is_idempotent

    def frame(self, part: bytes) -> tuple[bytes, ...]:
        """Return a part of the body as it goes out. Raises `ValueError` if it is more than was announced."""
        if self._left is None:
            return (b"%x\r\n" % len(part), part, b"\r\n") if part else ()  # an empty chunk would be the last one
        self._left -= len(part)
        if self._left < 0:
            raise ValueError("the body of a request is longer than its Content-Length says")
        self.is_sent = self._left == 0
        return (part,)

    def last(self) -> tuple[bytes, ...]:
        """Return what ends the body. Raises `ValueError` if it is less than was announced."""
        if self._left:
            raise ValueError("the body of a request is shorter than its Content-Length says")
        self.is_sent = True
        return (b"0\r\n\r\n",) if self._left is None else ()


def _framing(body: bytes | AsyncIterable[bytes] | None) -> bytes:
    """Return the line that frames a body, where the client has not framed it."""
    if body is None:
        return b""
    return b"Content-Length: %d\r\n" % len(body) if isinstance(body, bytes) else b"Transfer-Encoding: chunked\r\n"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Form:
    """What the names of a request's headers decide: its head without the values, and which line has the length."""

    template: bytes
    length: int | None


def _form(names: tuple[bytes, ...]) -> _Form:
    """Return the form of a head. Raises `ValueError` for names that frame twice, or that no header may have."""
    kinds = [name.lower() for name in names]
    lengths = [line for line, kind in enumerate(kinds) if kind == b"content-length"]
    if len(lengths) > 1 or b"transfer-encoding" in kinds or b"" in kinds:
        raise ValueError(_BADLY_FRAMED)
    if b"".join(names).translate(None, _TOKEN):
        raise ValueError("the name of a request's header is no token")
    lines = b"".join(b"%b: %%b\r\n" % name.replace(b"%", b"%%") for name in names)
    return _Form(template=b"%b %b HTTP/1.1\r\n" + lines, length=lengths[0] if lengths else None)


_form_again = lru_cache(_KEPT)(_form)


def _number(told: bytes) -> int:
    if not told.isdigit():
        raise ValueError(_BADLY_FRAMED)
    return int(told)


def _is_method(method: bytes) -> bool:
    return method in _USUAL or (method not in (b"", b"CONNECT") and not method.translate(None, _TOKEN))


def _is_one_head(head: bytes, target: bytes, lines: int) -> bool:
    """Return whether no reader makes more or fewer than so many header lines of this."""
    return _marks(head) == 2 * (lines + 1) and b" " not in target


def _marks(head: bytes) -> int:
    """Return how many bytes of a head may end a line for some reader."""
    return len(head) - len(head.translate(None, b"\r\n\0"))
