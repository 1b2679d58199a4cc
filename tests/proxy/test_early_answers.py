"""An upstream that answers while the request's body is still on its way, and a body that turns out to be wrong."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import pytest
import uvloop

from otel_sessions.asgi import Message
from otel_sessions.proxy.exchange import Stalled
from otel_sessions.proxy.forward import Forwarder
from otel_sessions.proxy.headers import Trust
from otel_sessions.proxy.rules import Rules, Timeouts
from otel_sessions.proxy.upstream import Upstream
from tests.processes import HOST
from tests.waiting import PATIENCE

pytestmark = pytest.mark.no_cover

MOST = 2000
"""Bytes that a body may have."""
SCOPE = {
    "type": "http",
    "method": "POST",
    "path": "/x",
    "query_string": b"",
    "http_version": "1.1",
    "scheme": "http",
    "headers": [(b"host", b"h"), (b"transfer-encoding", b"chunked")],
    "client": (HOST, 1),
}


async def stall() -> Message:
    raise Stalled


async def say_too_much() -> Message:
    return {"type": "http.request", "body": bytes(MOST), "more_body": True}


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("goes_on", [stall, say_too_much])
def test_a_body_that_turns_out_wrong_behind_its_answers_head_leaves_the_answer_incomplete(
    loop: Callable[[], asyncio.AbstractEventLoop], goes_on: Callable[[], Awaitable[Message]]
) -> None:
    async def story() -> None:
        sent: list[Message] = []
        half, left = asyncio.Event(), asyncio.Event()
        parts = iter([{"type": "http.request", "body": b"a", "more_body": True}])

        async def answer_half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"a\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
            with contextlib.suppress(ConnectionError):
                await reader.read()
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
            left.set()

        async def receive() -> Message:
            if (part := next(parts, None)) is not None:
                return part
            await half.wait()
            return await goes_on()

        async def send(message: Message) -> None:
            sent.append(message)
            if message.get("body") == b"half":
                half.set()

        server = await asyncio.start_server(answer_half, HOST, 0)
        rules = Rules(trust=Trust(), timeouts=Timeouts(connect_timeout=PATIENCE, idle_timeout=None), max_body=MOST)
        async with server, Upstream(f"http://{HOST}:{server.sockets[0].getsockname()[1]}") as upstream:
            await Forwarder(upstream, rules, None, 1.0)(SCOPE, receive, send)
            await left.wait()

        assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
        assert sent[1]["more_body"] is True

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(story())
