"""The handshake of a WebSocket with a server, and the codes that end it."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus

from otel_sessions._http.handshake import SETTINGS, Connect, head_of, is_own, sendable

HOST = "127.0.0.1"


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {}


def answering(answer: bytes, targets: list[bytes]) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        targets.append((await reader.readuntil(b"\r\n\r\n")).split(b" ")[1])
        writer.write(answer)
        writer.close()

    return serve


@pytest.mark.anyio
async def test_a_handshake_asks_for_exactly_the_target_and_follows_no_redirect() -> None:
    targets: list[bytes] = []
    answer = b"HTTP/1.1 302 Found\r\nLocation: ws://127.0.0.1:9/\r\nX-One: 1\r\nContent-Length: 0\r\n\r\n"
    server = await asyncio.start_server(answering(answer, targets), HOST, 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(InvalidStatus) as refused:
            await Connect("ws://elsewhere", "/a%2Fb?q=%20", host=HOST, port=port, **SETTINGS)

    assert targets == [b"/a%2Fb?q=%20"]
    assert refused.value.response.status_code == 302
    assert (b"x-one", b"1") in head_of(refused.value.response)


@pytest.mark.parametrize(("code", "sent"), [(1000, 1000), (4000, 4000), (1005, 1000), (1006, 1011), (1015, 1011)])
def test_a_code_that_may_not_be_sent_is_replaced(code: int, sent: int) -> None:
    assert sendable(code) == sent


@pytest.mark.parametrize("name", [b"host", b"content-length", b"sec-websocket-key", b"sec-websocket-protocol"])
def test_a_handshake_sets_its_own_headers(name: bytes) -> None:
    assert is_own(name)
    assert not is_own(b"x-" + name)
