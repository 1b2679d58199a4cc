"""The body of an answer on its way to the client, undecoded, part by part.

A stream of events that is silent gets a comment now and then, so that a client that is gone is found.
"""

from collections.abc import AsyncIterator

import anyio

from otel_sessions.asgi import Send
from otel_sessions.matchers import Headers


async def pass_body(parts: AsyncIterator[bytes], head: Headers, send: Send, comment_after: float) -> None:
    """Pass a body back as it comes, after a head that is sent. Comment after so many seconds of silence.

    Raises what `parts` raises, as it is.
    """
    body = _Body(send)
    if not _may_get_comments(head):
        await body.pass_on(parts)
        return
    trouble: Exception | None = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(body.comment, comment_after)
        try:
            await body.pass_on(parts)
        except Exception as error:  # raised below, where no group of errors hides it
            trouble = error
        tasks.cancel_scope.cancel()
    if trouble is not None:
        raise trouble


def _may_get_comments(head: Headers) -> bool:
    """Return whether a body is a stream of events as it stands there, and of no length that is told before."""
    names = {name for name, _ in head}
    return is_event_stream(head) and not names & {b"content-encoding", b"content-length"}


def is_event_stream(head: Headers) -> bool:
    """Return whether an answer is a stream of events."""
    kind = next((value for name, value in head if name == b"content-type"), b"")
    return kind.lower().startswith(b"text/event-stream")


class _Body:
    """The body of an answer on its way to the client, undecoded."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._sending = False
        self._tail = b"\n\n"
        self._quiet_since = anyio.current_time()

    async def pass_on(self, parts: AsyncIterator[bytes]) -> None:
        async for part in parts:
            await self._part(part)
            self._tail = (self._tail + part)[-4:]
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def comment(self, seconds: float) -> None:
        """Say something whenever there is silence between two events; in the midst of one it would be a part of it."""
        while True:
            await anyio.sleep_until(self._quiet_since + seconds)
            between = self._tail.endswith((b"\n\n", b"\r\r", b"\r\n\r\n"))
            if self._sending or not between or anyio.current_time() < self._quiet_since + seconds:
                await anyio.sleep(seconds)
            else:
                await self._part(b":\n\n")

    async def _part(self, part: bytes) -> None:
        self._sending = True
        await self._send({"type": "http.response.body", "body": part, "more_body": True})
        self._sending = False
        self._quiet_since = anyio.current_time()
