"""The body of a request on its way in: how many of the bytes that have come belong to it (RFC 9112, 6 and 7). Pure.

Each call of `take` does a bounded amount of work. Chunk extensions and trailers are read, counted and dropped.
"""

import re
from http import HTTPStatus
from typing import Final, Protocol

from .head import Malformed

_MOST_CHUNKS: Final = 512
"""How many chunks one call reads."""
_MOST_LINE: Final = 1024
"""Bytes of the line in front of a chunk."""
_MOST_EXTRA: Final = 65536
"""Bytes of extensions and trailers in a body."""
_SIZE: Final = re.compile(rb"0*([0-9A-Fa-f]{1,15})(;[\t -~\x80-\xff]*)?")
_TRAILER: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t -~\x80-\xff]*")


class Body(Protocol):
    """How a body is framed."""

    is_whole: bool

    def left(self) -> int | None:
        """Return how many bytes have still to come; None if that is unknown."""
        ...

    def take(self, pending: bytearray) -> bytes:
        """Take off `pending` what belongs to the body, and return the content in it. Raises `Malformed`."""
        ...


class Sized:
    """A body of a length that the head tells."""

    __slots__ = ("_left", "is_whole")

    def __init__(self, length: int) -> None:
        self._left = length
        self.is_whole = length == 0

    def left(self) -> int | None:
        return self._left

    def take(self, pending: bytearray) -> bytes:
        if len(pending) <= self._left:  # mostly
            part = bytes(pending)
            pending.clear()
        else:
            part = bytes(pending[: self._left])
            del pending[: self._left]
        self._left -= len(part)
        self.is_whole = self._left == 0
        return part


class Chunked:
    """A body in chunks. What is in front of a chunk, or behind it, waits in `pending` until it is there as a whole."""

    def __init__(self) -> None:
        self.is_whole = False
        self._in_chunk = 0
        self._is_in_chunk = False
        self._is_in_trailers = False
        self._extra = 0

    def left(self) -> int | None:
        return None

    def take(self, pending: bytearray) -> bytes:
        parts: list[bytes] = []
        at, steps = 0, 0
        while not self.is_whole and steps < _MOST_CHUNKS:
            before = at
            at = self._step(pending, at, parts)
            if at == before:
                break
            steps += 1
        del pending[:at]
        return b"".join(parts)

    def _step(self, pending: bytearray, at: int, parts: list[bytes]) -> int:
        """Read one thing from `at` on, and return where it ends: `at`, if it is not there as a whole."""
        if self._is_in_chunk:
            return self._content(pending, at, parts)
        line, end = self._line(pending, at)
        if line is None:
            return at
        if self._is_in_trailers:
            self._trailer(line)
        else:
            self._begin(line)
        return end

    def _content(self, pending: bytearray, at: int, parts: list[bytes]) -> int:
        if self._in_chunk:
            part = bytes(pending[at : at + self._in_chunk])
            self._in_chunk -= len(part)
            parts.append(part)
            at += len(part)
        if self._in_chunk:
            return at
        end = bytes(pending[at : at + 2])
        if not b"\r\n".startswith(end):
            raise Malformed(HTTPStatus.BAD_REQUEST, "a chunk is longer than it says")
        if len(end) < 2:
            return at
        self._is_in_chunk = False
        return at + 2

    def _line(self, pending: bytearray, at: int) -> tuple[bytes | None, int]:
        """Return the line at `at` and where it ends, or None if it is not whole. Its LF stands behind a CR only."""
        end = pending.find(b"\n", at, at + _MOST_LINE)
        if end < 0:
            if len(pending) - at >= _MOST_LINE:
                raise Malformed(HTTPStatus.BAD_REQUEST, "a line between chunks is too long")
            return None, at
        if end == at or pending[end - 1] != 13:
            raise Malformed(HTTPStatus.BAD_REQUEST, "a line between chunks ends in CR and LF")
        return bytes(pending[at : end - 1]), end + 1

    def _begin(self, line: bytes) -> None:
        said = _SIZE.fullmatch(line)
        if said is None:
            raise Malformed(HTTPStatus.BAD_REQUEST, "a chunk begins with its size")
        self._count(len(said[2] or b""))
        self._in_chunk = int(said[1], 16)
        self._is_in_chunk = self._in_chunk > 0
        self._is_in_trailers = not self._is_in_chunk

    def _trailer(self, line: bytes) -> None:
        if not line:
            self.is_whole = True
        elif not _TRAILER.fullmatch(line):
            raise Malformed(HTTPStatus.BAD_REQUEST, "a trailer is malformed")
        self._count(len(line))

    def _count(self, extra: int) -> None:
        self._extra += extra
        if self._extra > _MOST_EXTRA:
            raise Malformed(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "the body has too much beside its content")
