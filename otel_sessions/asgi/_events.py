"""What in an event stream is more than comments (HTML Standard, section 9.2.6), wherever the stream is cut in parts.

Servers send comments to keep a connection open. A comment is no use of a session.
"""

from typing import Self

from otel_sessions.matchers import Headers


class Events:
    """One event stream, part by part. Of a coded one nothing can be told, so each part counts as more than comments."""

    def __init__(self, *, coded: bool = False) -> None:
        self._coded = coded
        self._in_line = False
        self._in_comment = False

    @classmethod
    def of(cls, headers: Headers) -> Self | None:
        """Return what follows an answer with these headers, None if it is not an event stream."""
        kinds = [value for name, value in headers if name.lower() == b"content-type"]
        if not kinds or not kinds[-1].lower().startswith(b"text/event-stream"):
            return None
        coded = any(value.lower() != b"identity" for name, value in headers if name.lower() == b"content-encoding")
        return cls(coded=coded)

    def has_more_than_comments(self, part: bytes) -> bool:
        """Return whether the next part has a byte that is in no comment and is no line end."""
        if self._coded:
            return bool(part)
        first, *others = part.replace(b"\r", b"\n").split(b"\n")
        first_is_comment = self._in_comment if self._in_line else first.startswith(b":")
        last = others[-1] if others else first
        self._in_line = bool(last) or (self._in_line and not others)
        self._in_comment = last.startswith(b":") if others else first_is_comment
        return bool(first and not first_is_comment) or any(line and not line.startswith(b":") for line in others)
