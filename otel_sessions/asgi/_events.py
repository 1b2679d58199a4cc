"""Tells comments in an event stream from other content (HTML Standard, section 9.2.6), however the stream is split.

Servers send comments to keep a connection open. A comment does not count as activity of a session.
"""

from typing import Final, Self

from otel_sessions.matchers import Headers

_LINE_ENDS: Final = (b"\n", b"\r")
_CONTENT_TYPE: Final = b"content-type"
_SIZE: Final = len(_CONTENT_TYPE)
_NO_CONTENT: Final = (b":", *_LINE_ENDS)


class Events:
    """One event stream, part by part. A coded stream cannot be read, so each part counts as more than comments."""

    def __init__(self, *, coded: bool = False) -> None:
        self._coded = coded
        self._in_line = False
        self._in_comment = False

    @classmethod
    def of(cls, headers: Headers) -> Self | None:
        """Return the event stream of an answer with these headers, or None if the answer is not an event stream."""
        kind = b""
        for name, value in headers:
            if len(name) == _SIZE and name.lower() == _CONTENT_TYPE:
                kind = value
        if not kind.lower().startswith(b"text/event-stream"):
            return None
        coded = any(value.lower() != b"identity" for name, value in headers if name.lower() == b"content-encoding")
        return cls(coded=coded)

    def has_more_than_comments(self, part: bytes) -> bool:
        """Return whether the next part has a byte outside comments and line ends."""
        if self._coded:
            return bool(part)
        if not self._in_line and part.endswith(_LINE_ENDS) and not part.startswith(_NO_CONTENT):
            return True  # a part of whole lines, the first of which has content: this changes nothing
        first, *others = part.replace(b"\r", b"\n").split(b"\n")
        first_is_comment = self._in_comment if self._in_line else first.startswith(b":")
        last = others[-1] if others else first
        self._in_line = bool(last) or (self._in_line and not others)
        self._in_comment = last.startswith(b":") if others else first_is_comment
        return bool(first and not first_is_comment) or any(line and not line.startswith(b":") for line in others)
