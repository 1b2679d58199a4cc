"""The body of an answer on its way to the client, undecoded, part by part.

The parts of a stream of events go by a plain call from the upstream's connection to the client's, past every task. The
task that answers waits meanwhile. It takes over when the client takes no more, and at the end. A stream that is silent
gets a comment now and then, so that a client that is gone is found.
"""

import asyncio
from typing import Final

from otel_sessions._http.client import Call
from otel_sessions._http.deadline import Deadline
from otel_sessions.asgi import Send
from otel_sessions.asgi._direct import Write, direct
from otel_sessions.matchers import Headers

_COMMENT: Final = b":\n\n"
_BETWEEN: Final = (b"\n\n", b"\r\r", b"\r\n\r\n")


async def pass_parts(call: Call, send: Send, idle_timeout: float | None) -> None:
    """Pass a body back as it comes. Raises what `call.read` raises."""
    more = True
    while more:
        part = await call.read(idle_timeout)
        more = not call.is_over
        await send({"type": "http.response.body", "body": part, "more_body": more})


async def pass_events(call: Call, head: Headers, send: Send, comment_after: float | None) -> None:
    """Pass a stream of events back, after a head that is sent. Comment after so many seconds of silence; None: never.

    The stream may be silent for as long as it likes. Raises what `call.pour` raises.
    """
    write = await direct(send)
    if comment_after is None or not _may_get_comments(head):
        await _pour(call, write, send)
        return
    commented = _Commented(write, comment_after)
    try:
        await _pour(call, commented.write, send)
    finally:
        commented.close()


async def _pour(call: Call, write: Write, send: Send) -> None:
    more = True
    while more:
        await call.pour(write)
        more = not call.is_over
        await send({"type": "http.response.body", "body": b"", "more_body": more})


def _may_get_comments(head: Headers) -> bool:
    """Return whether a stream of events is one as it stands there, and of no length that is told before."""
    return not {name for name, _ in head} & {b"content-encoding", b"content-length"}


def is_event_stream(head: Headers) -> bool:
    """Return whether an answer is a stream of events."""
    kind = next((value for name, value in head if name == b"content-type"), b"")
    return kind.lower().startswith(b"text/event-stream")


class _Commented:
    """A way of parts, with a comment whenever there is silence between two events.

    There is no comment in the midst of an event, which it would be a part of, nor for a client that takes no more.
    """

    def __init__(self, write: Write, seconds: float) -> None:
        self._write = write
        self._seconds = seconds
        self._tail = b"\n\n"
        self._silence = Deadline(asyncio.get_running_loop(), self._comment)
        self._silence.set(seconds)

    def write(self, part: bytes) -> bool:
        self._tail = part[-4:] if len(part) >= 4 else (self._tail + part)[-4:]
        self._silence.set(self._seconds)
        return self._write(part)

    def close(self) -> None:
        self._silence.close()

    def _comment(self) -> None:
        if self._tail.endswith(_BETWEEN) and self._write(b""):
            self._write(_COMMENT)
        self._silence.set(self._seconds)
