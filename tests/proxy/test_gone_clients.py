"""Clients that have closed their connection, which the loop has not heard yet, on both loops."""

import asyncio
import logging
import socket
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import pytest
import uvloop

from otel_sessions.asgi import Receive, Scope, Send
from otel_sessions.proxy._uvicorn import Server
from otel_sessions.proxy.connection import Connection
from otel_sessions.proxy.forward import refuse
from otel_sessions.proxy.serving import Limits
from tests.processes import HOST

pytestmark = pytest.mark.no_cover


async def nothing() -> None:
    """A drain of nothing."""


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize(
    "said",
    [b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\nab", b"NONSENSE\r\n\r\n"],
    ids=["half a body", "no request"],
)
def test_a_client_that_is_gone_before_it_is_refused_is_no_error(
    loop: Callable[[], asyncio.AbstractEventLoop], said: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """The first byte of the answer makes the system forget the connection, so that no end can be written."""
    problems: list[dict[str, Any]] = []

    async def story() -> None:
        async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
            client.close()
            await refuse(send, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too large")

        running = asyncio.get_running_loop()
        running.set_exception_handler(lambda _, context: problems.append(context))
        serving = Server(app, Limits(), 1, nothing)._serving
        over = asyncio.Event()

        class Watched(Connection):
            def connection_lost(self, error: Exception | None) -> None:
                super().connection_lost(error)
                over.set()

        async with await running.create_server(lambda: Watched(serving), HOST, 0) as listener:
            client = socket.create_connection(listener.sockets[0].getsockname())
            client.sendall(said)
            if said.startswith(b"NONSENSE"):
                client.close()
            await over.wait()

    with caplog.at_level(logging.WARNING), asyncio.Runner(loop_factory=loop) as runner:
        runner.run(story())

    assert problems == []
    assert caplog.messages == []
