"""An answer of HTTP/1.1, out of bytes that may be cut anywhere.

Nothing here waits or knows a socket. An answer is what RFC 9112 says, or `BadAnswer`. Each answer has a parser of its
own, so what follows an answer is neither a part of it nor of the next one. Header bytes stay as they came. Trailers are
read and dropped.
"""

import re
from dataclasses import dataclass, field
from hmac import compare_digest
from typing import Final, NamedTuple

import httptools

from .requests import Headers

_KEPT_SECONDS: Final = 4.0
"""Less than servers usually keep an idle connection (uvicorn 5 s), so that a request seldom meets one that closes."""
_MARGIN_SECONDS: Final = 1.0
_TIMEOUT: Final = re.compile(rb"(?:^|[,; \t])timeout=([0-9]{1,9})(?:$|[,; \t])", re.IGNORECASE)
_MOST_LINES: Final = 500
"""How many header lines an answer has at most, those of heads with status 1xx among them: each costs time."""
_LONGEST_AGAIN: Final = 2048
"""Bytes of a head that a connection keeps. A connection that waits must not hold more."""
_END: Final = b"\r\n\r\n"
_LINE_ENDS: Final = (b"\r", b"\n")
_FIRST_STATUS: Final = 100
_SWITCHING_PROTOCOLS: Final = 101
_FIRST_FINAL_STATUS: Final = 200
_NO_CONTENT: Final = 204
_LAST_STATUS: Final = 599
_BODILESS: Final = (_NO_CONTENT, 304)


class UpstreamError(Exception):
    """A request has no whole answer. `otel_sessions._http.client` draws the tree of these errors."""


class BadAnswer(UpstreamError):
    """What the upstream said is no HTTP, is ambiguous, or is larger than allowed."""


@dataclass(kw_only=True, slots=True)
class Head:
    """The head of a final answer: its status from 200 to 599, and its headers as they came.

    An answer that repeats a head has the same object again. So a reader may keep in `found` what follows from the head.
    """

    status: int
    headers: Headers
    found: object = field(default=None, compare=False, repr=False)


class Known(NamedTuple):
    """A head that the parser has read as `raw`: of a whole answer with `length` bytes of a body, which said so.

    If the head `is_sealed`, the seal is neither in `raw` nor in `head`.
    """

    raw: bytes
    head: Head
    length: int
    kept_seconds: float
    is_sealed: bool


class _Framing:
    """What a head says about the length of its body and about its connection."""

    __slots__ = ("codings", "kept_seconds", "length")

    def __init__(self, headers: Headers) -> None:
        self.codings: list[bytes] = []
        self.length: bytes | None = None
        self.kept_seconds = _KEPT_SECONDS
        for name, value in headers:
            kind = name.lower()
            if kind == b"transfer-encoding":
                self.codings.append(value.lower())
            elif kind == b"content-length":
                self.length = value
            elif kind == b"keep-alive" and (told := _TIMEOUT.search(value)):
                self.kept_seconds = min(self.kept_seconds, max(0.0, int(told[1]) - _MARGIN_SECONDS))

    @property
    def is_announced(self) -> bool:
        return bool(self.codings) or self.length is not None

    def contradicts(self, status: int) -> bool:
        """Whether a body is announced that this status cannot have, so that one may follow all the same."""
        return bool(status in _BODILESS and self.codings) or (status == _NO_CONTENT and self.length not in (None, b"0"))

    def check(self, status: int, version: str) -> None:
        """Raise `BadAnswer` for what llhttp lets pass, and two readers may read in two ways."""
        if version not in ("1.0", "1.1"):
            raise BadAnswer(f"the upstream answered in HTTP/{version}")
        if not _FIRST_STATUS <= status <= _LAST_STATUS or status == _SWITCHING_PROTOCOLS:
            raise BadAnswer(f"the upstream answered with status {status}")
        if self.codings and (self.codings != [b"chunked"] or version == "1.0"):
            raise BadAnswer("the upstream's answer has a Transfer-Encoding that is not chunked alone")
        if status < _FIRST_FINAL_STATUS and self.is_announced:
            raise BadAnswer(f"the upstream announced a body for status {status}")


class Answer:
    """Takes bytes by `feed`, gives the body by `take`.

    At most `max_head` bytes in 500 header lines may come before the body, heads with status 1xx among them. As many
    bytes may come between two parts of the body. `to_head` says that the request was a HEAD. `seal` is the last line of
    a head that is known but for this line, which each answer has anew; nothing if there is no such line.
    """

    __slots__ = (
        "_bare",
        "_headers",
        "_is_chunked",
        "_length",
        "_lines",
        "_max_head",
        "_parser",
        "_parts",
        "_seal",
        "_to_head",
        "_until_close",
        "begun",
        "buffered",
        "head",
        "is_sealed",
        "kept_seconds",
        "whole",
    )

    def __init__(self, *, to_head: bool, max_head: int, seal: bytes = b"") -> None:
        self.begun = False
        """Whether a byte of the answer has come."""
        self.head: Head | None = None
        self.whole = False
        """Whether all of the answer has come."""
        self.kept_seconds = 0.0
        """How long the connection may be kept once the answer is whole; 0 if it may not be kept."""
        self.buffered = 0
        """How many bytes of the body wait to be taken."""
        self.is_sealed = False
        """Whether the answer has the seal, and a head that is known without it."""
        self._seal = seal
        self._to_head = to_head
        self._max_head = max_head
        self._bare = 0  # bytes since the start, the head, or the last byte of the body
        self._headers: Headers = []
        self._is_chunked = False
        self._length: bytes | None = None
        self._lines = 0
        self._parts: list[bytes] = []
        self._until_close = False
        self._parser: httptools.HttpResponseParser | None = None

    def is_readable(self) -> bool:
        """Return whether the body goes on or ends here, without more bytes from the upstream."""
        return self.buffered > 0 or self.whole

    def feed(self, data: bytes) -> None:
        """Take what the upstream sent next, at least one byte. Raises `BadAnswer`."""
        if self.head is None:
            data = self._read_head(data)
        self._bare += len(data)
        if data.endswith(_LINE_ENDS) and not (self._is_chunked and _ends_last(data)):
            # llhttp skips empty lines after an answer and does not say so
            self._execute(data[:-1])
            self._execute(data[-1:])
        else:
            self._execute(data)
        if self._bare > self._max_head and not self.whole:
            raise BadAnswer(f"more than {self._max_head} bytes came between two parts of the upstream's answer")

    def repeats(self, data: bytes, known: Known) -> bool:
        """Take a whole answer with a known head, and return whether `data` is such an answer.

        The parser need not read the answer: the head is the same bytes, and the body is as long as the head says.
        """
        raw, head, length, kept_seconds, is_sealed = known
        seal = self._seal
        size = len(raw) + len(seal)
        if len(data) != size + length or self.begun or not data.startswith(raw):
            return False
        if self._to_head or size > self._max_head or is_sealed is not bool(seal):
            return False
        if is_sealed and not compare_digest(data[len(raw) : size], seal):
            return False
        self.is_sealed = is_sealed
        self.begun = self.whole = True
        self.head = head
        self.kept_seconds = kept_seconds
        if length:
            self._parts.append(data[size:])
            self.buffered = length
        return True

    def known_by(self, data: bytes) -> Known | None:
        """Return what the parser has found out about an answer that came as the one piece `data`.

        None if an answer may not be read again by it: it is not whole, not clean, or not as long as a Content-Length.
        """
        head, length = self.head, self.buffered
        size = len(data) - length
        if head is None or not (self.whole and self.kept_seconds) or size > _LONGEST_AGAIN or self._to_head:
            return None
        raw = data[:size]
        is_one_head = raw.count(_END) == 1 and raw.endswith(_END)  # and so none with status 1xx
        if not is_one_head or self._length != b"%d" % length:
            return None
        if not self._seal:
            return Known(raw, head, length, self.kept_seconds, False)
        others, name = head.headers[:-1], self._seal.partition(b":")[0].lower()
        if not raw.endswith(b"\r\n" + self._seal) or any(other.lower() == name for other, _ in others):
            return None
        unsealed = Head(status=head.status, headers=others)
        return Known(raw.removesuffix(self._seal), unsealed, length, self.kept_seconds, True)

    def end(self) -> None:
        """Take note that the upstream has closed in order: some bodies end so (RFC 9112, section 6.3, rule 8)."""
        if self._until_close:
            self.whole = True

    def take(self) -> bytes:
        """Return what has come of the body since the last time."""
        body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts.clear()
        self.buffered = 0
        return body

    def _read_head(self, data: bytes) -> bytes:
        """Begin with the answer, read no more than a head may have, and return what is left to read."""
        if not self.begun:
            self._begin(data)
        room = self._max_head - self._bare
        if len(data) <= room:
            return data
        self._bare += room
        self._execute(data[:room])
        if self.head is None:
            raise BadAnswer(f"the head of the upstream's answer is larger than {self._max_head} bytes")
        return data[room:]

    def _begin(self, data: bytes) -> None:
        if not data.startswith(b"H"):  # llhttp also reads empty lines, RTSP/ and ICE/
            raise BadAnswer("the upstream's answer does not begin with HTTP/")
        self.begun = True
        self._parser = httptools.HttpResponseParser(self)

    def _execute(self, data: bytes) -> None:
        if self._parser is None:
            self.kept_seconds = 0.0
            return
        problem: BadAnswer | None = None
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            problem = _problem(error)
        if self.whole:
            self._parser = None  # it refers to this answer, and this answer to it
        elif problem is not None:
            raise problem

    # What the parser calls. It goes on after the end of the answer, so each looks whether that was reached.

    def on_message_begin(self) -> None:
        if self.whole:  # by whatever follows, be it HTTP or not
            self.kept_seconds = 0.0

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.head is not None:  # it is a trailer
            return
        self._lines += 1
        if self._lines > _MOST_LINES:
            raise BadAnswer(f"the upstream's answer has more than {_MOST_LINES} header lines")
        self._headers.append((name, value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        if self.head is not None:
            return
        parser = self._parser
        assert parser is not None
        status, version = parser.get_status_code(), parser.get_http_version()
        framing = _Framing(self._headers)
        framing.check(status, version)
        if status < _FIRST_FINAL_STATUS:
            self._headers = []
            return
        self._bare = 0
        self._length = framing.length
        self._is_chunked = bool(framing.codings)
        self.head = Head(status=status, headers=self._headers)
        self.whole = self._to_head
        self._until_close = status not in _BODILESS and not framing.is_announced
        if not self._to_head and version == "1.1" and parser.should_keep_alive() and not framing.contradicts(status):
            self.kept_seconds = framing.kept_seconds

    def on_body(self, part: bytes) -> None:
        if not self.whole:
            self._bare = 0
            self._parts.append(part)
            self.buffered += len(part)

    def on_message_complete(self) -> None:
        self.whole = self.head is not None


def _ends_last(data: bytes) -> bool:
    """Return whether no chunked answer can end in `data` before the last byte: an answer ends in CR LF CR LF."""
    return len(data) > len(_END) and data[-len(_END) - 1] not in b"\r\n"


def _problem(error: httptools.HttpParserError) -> BadAnswer:
    refused = error.__context__  # raised by what the parser called
    return refused if isinstance(refused, BadAnswer) else BadAnswer(f"the upstream's answer is no HTTP: {error}")
