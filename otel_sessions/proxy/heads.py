"""The heads of one connection, taken off the bytes that have come. Pure.

A client mostly repeats its last head, byte for byte: then the head is read once. Of a head with other values in a few
lines, only these lines are read. A head that is longer than 2 KiB is not kept.
"""

from http import HTTPStatus
from itertools import compress, count
from operator import ne
from typing import Final

from otel_sessions.matchers import Headers

from .head import END, Head, Malformed, check_beginning, head_of, read_head, read_headers, read_line
from .shape import UNREAD, Shaped

_LONGEST_AGAIN: Final = 2048
"""Bytes of a head that a connection keeps. A connection that waits must not hold more."""
_LINKED: Final = frozenset({b"connection", b"proxy-connection", b"transfer-encoding", b"upgrade"})
"""Names whose values change how llhttp, or the shape, takes other lines."""
_FEW: Final = 4
"""How many lines may have another value."""


class Heads:
    """Takes heads of at most `most` bytes off what has come."""

    __slots__ = ("_last", "_most", "_raw", "_searched")

    def __init__(self, most: int) -> None:
        self._most = most
        self._raw = b""
        self._last: tuple[Head, Shaped] | None = None
        self._searched = 0

    @property
    def has_begun(self) -> bool:
        """Whether a part of the next head has come, and the head was not whole."""
        return self._searched > 0

    def take(self, pending: bytearray) -> tuple[Head, Shaped] | None:
        """Take the next head off `pending`, and return it and what is known about it. None if it is not there yet.

        Raises `Malformed`, also if a head does not begin like this, or is too large.
        """
        if self._last is not None and pending.startswith(self._raw):
            del pending[: len(self._raw)]
            self._searched = 0
            return self._last
        while pending.startswith(b"\r\n"):  # RFC 9112, 2.2
            del pending[:2]
        return self._find(pending) if pending else None

    def _find(self, pending: bytearray) -> tuple[Head, Shaped] | None:
        end = pending.find(END, self._searched)
        size = len(pending) if end < 0 else end + len(END)
        if size > self._most:
            raise Malformed(
                HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "the request's head is larger than this proxy passes on"
            )
        if end < 0:
            self._searched = max(1, size - len(END))  # nothing that ends a head stands at its beginning
            if pending != b"\r":
                check_beginning(bytes(pending))
            return None
        self._searched = 0
        read = self._read(bytes(pending[:size]))
        del pending[:size]
        return read

    def _read(self, raw: bytes) -> tuple[Head, Shaped]:
        if self._last is not None and raw == self._raw:  # behind an empty line
            return self._last
        read = None if self._last is None else _changed(raw, self._raw, *self._last)
        if read is None:
            head = read_head(raw)
            read = head, Shaped(head.headers, head.shape)
        self._raw, self._last = (raw, read) if len(raw) <= _LONGEST_AGAIN else (b"", None)
        return read


def _changed(raw: bytes, before: bytes, last: Head, shaped: Shaped) -> tuple[Head, Shaped] | None:
    """Return the head if it is the last one with other values in a few lines. None if `read_head` has to see it."""
    lines, known = raw.split(b"\r\n"), before.split(b"\r\n")
    changed = list(compress(count(), map(ne, lines, known))) if len(lines) == len(known) else [0]
    if changed[0] == 0 or len(changed) > _FEW or lines[0].find(last.target) != len(last.method) + 1:
        return None  # the target is another one, or it is absolute, and Host stands somewhere else
    old = [last.headers[at - 1] for at in changed]
    if not all(map(_has_value, [lines[at] for at in changed], [name for name, _ in old])):
        return None
    try:
        new = read_headers(b"\r\n".join([lines[0], *[lines[at] for at in changed], b"", b""]))
        changes = dict(zip(old, new, strict=True))
        headers = list(last.headers)
        for at, pair in zip(changed, new, strict=True):
            headers[at - 1] = pair
        if all(name in UNREAD and len(last.shape.at[name]) == 1 for name, _ in old):
            return _with_headers(last, headers), shaped.changed(headers, changes)
        return head_of(read_line(lines[0]), headers, last.shape), Shaped(headers, last.shape)
    except Malformed:  # that is for `read_head` to say
        return None


def _with_headers(head: Head, headers: Headers) -> Head:
    """Return a head with other headers, as `_replace` does at a multiple of the cost."""
    method, target, version, _, shape, length, asked, is_websocket, expects_continue = head
    return Head(method, target, version, headers, shape, length, asked, is_websocket, expects_continue)


def _has_value(line: bytes, name: bytes) -> bool:
    """Return whether a line has this name, and a value that changes nothing about how llhttp reads other lines."""
    size = len(name)
    return line[: size + 1].lower() == name + b":" and name not in _LINKED
