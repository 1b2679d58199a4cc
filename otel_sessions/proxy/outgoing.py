"""How the head of an answer goes out to the client, and how its body is framed (RFC 9112, sections 6 and 7). Pure.

An upstream mostly gives the same head again. Then the forwarder gives the same `RepeatedAnswer`, which is written once.
"""

import re
from functools import lru_cache
from http import HTTPStatus
from typing import Final, NamedTuple

from otel_sessions.asgi._repeated import RepeatedAnswer
from otel_sessions.matchers import Headers

from .shape import KEPT

_BODILESS: Final = frozenset({204, 304})
_NAME: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CLOSE: Final = b"connection: close\r\n"
_CHUNKED: Final = b"transfer-encoding: chunked\r\n"
_MALFORMED: Final = "the app sends a malformed header"
_LONGEST_KEPT: Final = 1024
"""Bytes of names in a head whose form is remembered. Longer heads would fill memory."""


def status_line(status: int) -> bytes:
    """Return the first line of an answer."""
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    return b"HTTP/1.1 %d %s\r\n" % (status, phrase.encode("ascii"))


_STATUS_LINES: Final = {status: status_line(status) for status in range(200, 600)}


class Asked(NamedTuple):
    """What a client can read, and whether the connection may go on after the answer."""

    to_head: bool
    version: str
    may_go_on: bool


class Outgoing(NamedTuple):
    """The head of an answer, and what follows it. `length` is that of the body in bytes, None if it is not known."""

    head: bytes
    has_body: bool
    length: int | None
    is_chunked: bool
    goes_on: bool


class _Written(NamedTuple):
    """How an answer last went out, and to what."""

    status: int
    asked: Asked
    outgoing: Outgoing


def outgoing(status: int, headers: Headers, asked: Asked) -> Outgoing:
    """Return how an answer goes out. Raises `RuntimeError` if a header is malformed."""
    if not isinstance(headers, RepeatedAnswer):
        return _outgoing(status, headers, asked)
    written = headers.written
    if isinstance(written, _Written):
        of_status, of_asked, made = written  # a field by its name would cost as much as a call
        if of_status == status and of_asked == asked:
            return made
    made = _outgoing(status, headers, asked)
    headers.written = _Written(status, asked, made)
    return made


def _outgoing(status: int, headers: Headers, asked: Asked) -> Outgoing:
    form = _form_of(headers)
    has_body = not asked.to_head and status not in _BODILESS
    length = int(headers[form.length][1]) if form.length is not None and has_body else None
    closes = any(b"close" in headers[line][1].lower() for line in form.closes)
    is_delimited = not has_body or length is not None
    is_chunked = not is_delimited and asked.version == "1.1"
    goes_on = asked.may_go_on and not closes and (is_delimited or is_chunked)
    rest = (_CHUNKED if is_chunked else b"") + (b"" if goes_on else _CLOSE)
    lines = form.lines_without_length if status == HTTPStatus.NO_CONTENT else form.lines  # RFC 9110, 8.6
    head = _STATUS_LINES[status] + _written(headers, lines, rest)
    return Outgoing(head, has_body, length, is_chunked, goes_on)


class _Form(NamedTuple):
    """What the names of an answer's headers decide: which lines pass, and where the length and `Connection` stand."""

    lines: tuple[int, ...]
    lines_without_length: tuple[int, ...]
    length: int | None
    closes: tuple[int, ...]


def _form(names: tuple[bytes, ...]) -> _Form:
    """Return the form of an answer's head. Raises `RuntimeError` if a name is not the name of a header."""
    kinds = [name.lower() for name in names]
    if not all(map(_NAME.fullmatch, kinds)):
        raise RuntimeError(_MALFORMED)
    lines = tuple(line for line, kind in enumerate(kinds) if kind not in (b"connection", b"transfer-encoding"))
    lengths = [line for line, kind in enumerate(kinds) if kind == b"content-length"]
    return _Form(
        lines=lines,
        lines_without_length=tuple(line for line in lines if line not in lengths),
        length=lengths[-1] if lengths else None,
        closes=tuple(line for line, kind in enumerate(kinds) if kind == b"connection"),
    )


_form_again: Final = lru_cache(KEPT)(_form)


def _form_of(headers: Headers) -> _Form:
    names = tuple([name for name, _ in headers])
    return _form_again(names) if len(b"".join(names)) <= _LONGEST_KEPT else _form(names)


def _written(headers: Headers, lines: tuple[int, ...], rest: bytes) -> bytes:
    """Return a head behind its first line. Raises `RuntimeError` if a reader may see other lines in it."""
    text = b"\r\n".join([b": ".join(headers[line]) for line in lines])
    marks = len(text) - len(text.translate(None, b"\r\n\0"))
    if marks != 2 * max(0, len(lines) - 1):
        raise RuntimeError(_MALFORMED)
    return b"%b\r\n%b\r\n" % (text, rest) if text else rest + b"\r\n"
