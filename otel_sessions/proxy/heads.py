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
"""Bytes of a head that a connection keeps, and of what is around its values. A connection that waits holds no more."""
_LINKED: Final = frozenset({b"connection", b"proxy-connection", b"transfer-encoding", b"upgrade"})
"""Names whose values change how llhttp, or the shape, takes other lines."""
_FEW: Final = 4
"""How many lines may have another value."""
_CONTROLS: Final = bytes([*range(9), *range(10, 32), 127])
"""Bytes that no value has (RFC 9110, 5.5)."""
_Read = tuple[Head, Shaped]
"""A head, and what is known about it."""


class Heads:
    """Takes heads of at most `most` bytes off what has come."""

    __slots__ = ("_last", "_most", "_raw", "_searched", "_varying")

    def __init__(self, most: int) -> None:
        self._most = most
        self._raw = b""
        self._last: _Read | None = None
        self._varying: _Varying | None = None
        self._searched = 0

    def has_begun(self) -> bool:
        """Return whether a part of the next head has come, and the head was not whole."""
        return self._searched > 0

    def take(self, pending: bytearray) -> _Read | None:
        """Take the next head off `pending`, and return it and what is known about it. None if it is not there yet.

        Raises `Malformed`, also if a head does not begin like this, or is too large.
        """
        if self._last is not None and (pending.startswith(self._raw) or self._varies(pending, self._last)):
            self._searched = 0
            del pending[: len(self._raw)]
            return self._last
        while pending.startswith(b"\r\n"):  # RFC 9112, 2.2
            del pending[:2]
        return self._find(pending) if pending else None

    def _varies(self, pending: bytearray, last: _Read) -> bool:
        """Take note of the next head if only those lines differ that differed last time. Return whether it was read."""
        found = None if self._varying is None else self._varying.values_in(pending)
        if self._varying is None or found is None or found[0] > min(self._most, _LONGEST_AGAIN):
            return False
        self._raw = bytes(pending[: found[0]])
        self._last = _with_values(last, self._varying.lines, found[1])
        return True

    def _find(self, pending: bytearray) -> _Read | None:
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

    def _read(self, raw: bytes) -> _Read:
        if self._last is not None and raw == self._raw:  # behind an empty line
            return self._last
        changed = None if self._last is None else _changed(raw, self._raw, self._last)
        if changed is None:
            head = read_head(raw)
            changed = (head, Shaped(head.headers, head.shape)), None
        if len(raw) > _LONGEST_AGAIN:
            self._raw, self._last, self._varying = b"", None, None
        else:
            self._raw, (self._last, varying) = raw, changed
            self._varying = varying if 2 * len(raw) <= _LONGEST_AGAIN else None
        return changed[0]


class _Varying:
    """Which header lines of a head may have other values, all of them with `UNREAD` names, and what is around them."""

    __slots__ = ("_first", "_others", "lines")

    def __init__(self, raw: bytes, numbers: list[int]) -> None:
        """Take the head `raw`, and the numbers of its lines, where the request line is 0."""
        self.lines = [number - 1 for number in numbers]
        pieces = [b""]
        for number, line in enumerate(raw.split(b"\r\n")):
            name, _, _ = line.partition(b":")
            start = b"\r\n" if number else b""
            if number in numbers:
                pieces[-1] += start + name + b":"
                pieces.append(b"")
            else:
                pieces[-1] += start + line
        self._first, *self._others = pieces

    def values_in(self, pending: bytearray) -> tuple[int, list[bytes]] | None:
        """Return the size of the head that `pending` begins with, and its values. None if that is another head."""
        if not pending.startswith(self._first):
            return None
        at, values = len(self._first), []
        for piece in self._others:
            end = pending.find(b"\r", at)
            value = bytes(pending[at:end]).strip(b" \t")
            if end < 0 or not value or value.translate(None, _CONTROLS) != value or not pending.startswith(piece, end):
                return None
            values.append(value)
            at = end + len(piece)
        return at, values


def _with_values(last: _Read, lines: list[int], values: list[bytes]) -> _Read:
    """Return a head with other values in lines that only pass."""
    head, shaped = last
    headers = list(head.headers)
    changes: dict[tuple[bytes, bytes], tuple[bytes, bytes]] = {}
    for line, value in zip(lines, values, strict=True):
        old = headers[line]
        headers[line] = changes[old] = (old[0], value)
    return _with_headers(head, headers), shaped.changed(headers, changes)


def _changed(raw: bytes, before: bytes, last: _Read) -> tuple[_Read, _Varying | None] | None:
    """Return the head if it is the last one with other values in a few lines. None if `read_head` has to see it."""
    head, _ = last
    lines, known = raw.split(b"\r\n"), before.split(b"\r\n")
    changed = list(compress(count(), map(ne, lines, known))) if len(lines) == len(known) else [0]
    if changed[0] == 0 or len(changed) > _FEW or lines[0].find(head.target) != len(head.method) + 1:
        return None  # the target is another one, or it is absolute, and Host stands somewhere else
    names = [head.headers[at - 1][0] for at in changed]
    if not all(map(_has_value, [lines[at] for at in changed], names)):
        return None
    try:
        new = read_headers(b"\r\n".join([lines[0], *[lines[at] for at in changed], b"", b""]))
        if all(name in UNREAD and len(head.shape.at[name]) == 1 for name in names):
            numbers = [at - 1 for at in changed]
            return _with_values(last, numbers, [value for _, value in new]), _Varying(raw, changed)
        headers = list(head.headers)
        for at, pair in zip(changed, new, strict=True):
            headers[at - 1] = pair
        return (head_of(read_line(lines[0]), headers, head.shape), Shaped(headers, head.shape)), None
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
