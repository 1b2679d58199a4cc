"""WebSockets through the proxy, from a real client."""

import asyncio
import signal
import socket
from collections.abc import Coroutine
from typing import Any

import psutil
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, ConnectionClosedError, InvalidStatus
from websockets.typing import Subprotocol

from tests.processes import HOST, free_port
from tests.waiting import NEVER, PATIENCE

from .conftest import Origin, Proxy, StartProxy
from .speaker import speaking

pytestmark = pytest.mark.processes

HEADER = ("--matcher", "header:x-session-id")
KIB = 1024


def echo(proxy: Proxy, **settings: Any) -> connect:
    url = proxy.url.replace("http://", "ws://")
    return connect(f"{url}/echo", proxy=None, max_size=None, **settings, open_timeout=PATIENCE)


def run(story: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(story, PATIENCE))


def id_of(socket: ClientConnection) -> str:
    assert socket.response is not None
    return socket.response.headers["x-session-id"]


@pytest.mark.parametrize("message", ["text: ä", b"\x00\xffbytes", "x" * 1024 * KIB, b"", ""])
def test_messages_come_back_as_they_were(start: StartProxy, message: str | bytes) -> None:
    async def story() -> None:
        async with echo(proxy) as socket:
            await socket.send(message)
            assert await socket.recv() == message

    with start(*HEADER) as proxy:
        run(story())


def test_it_is_a_session_of_its_own_and_the_id_comes_with_the_handshake(start: StartProxy) -> None:
    async def story() -> None:
        async with echo(proxy) as socket:
            assert proxy.said_of_itself()["active"] == 1
            async with echo(proxy, additional_headers={"x-session-id": id_of(socket)}) as again:
                assert "x-session-id" not in getattr(again.response, "headers", {})
                assert proxy.said_of_itself()["active"] == 1

    with start(*HEADER) as proxy:
        run(story())


def test_the_subprotocol_is_the_upstreams_choice(start: StartProxy) -> None:
    async def story() -> None:
        async with echo(proxy, subprotocols=[Subprotocol("mcp"), Subprotocol("other")]) as socket:
            assert socket.subprotocol == "mcp"

    with start(*HEADER) as proxy:
        run(story())


def test_the_upstreams_close_arrives_in_its_words(start: StartProxy) -> None:
    async def story() -> None:
        async with echo(proxy) as socket:
            await socket.send("close 4001")
            with pytest.raises(ConnectionClosed):
                await socket.recv()
            assert (socket.close_code, socket.close_reason) == (4001, "as asked")

    with start(*HEADER) as proxy:
        run(story())


def test_a_client_that_leaves_takes_the_upstreams_socket_with_it(start: StartProxy, origin: Origin) -> None:
    async def story() -> None:
        async with echo(proxy) as socket:
            await socket.send("hello")
            await socket.recv()
            assert origin.counts()["sockets"] == 1
            socket.transport.abort()  # no goodbye

    with start(*HEADER) as proxy:
        run(story())
        origin.until_none("sockets")
        assert "Traceback" not in proxy.process.said()


def test_a_client_that_leaves_in_the_midst_of_much_is_no_error(start: StartProxy, origin: Origin) -> None:
    async def story() -> None:
        async with echo(proxy, max_queue=1) as socket:
            for _ in range(8):
                await socket.send(b"x" * 256 * KIB)
            socket.transport.abort()

    with start(*HEADER) as proxy:
        run(story())
        origin.until_none("sockets")
        proxy.process.terminate()
        assert "Traceback" not in proxy.process.said()


@pytest.mark.parametrize("status", [302, 418, 499])
def test_a_handshake_that_the_upstream_refuses_is_refused_in_its_words(start: StartProxy, status: int) -> None:
    async def story() -> None:
        with pytest.raises(InvalidStatus) as refused:
            await connection_without_redirects(proxy, status)
        answer = refused.value.response
        assert (answer.status_code, bytes(answer.body)) == (status, b"no coffee")
        assert answer.headers["x-why"] == "tea"
        assert proxy.said_of_itself()["active"] == 0

    with start(*HEADER) as proxy:
        run(story())
        assert "ERROR" not in proxy.process.said()


async def connection_without_redirects(proxy: Proxy, denied: int) -> ClientConnection:
    class Direct(connect):
        def process_redirect(self, exc: Exception) -> Exception | str:
            return exc

    return await Direct(
        f"{proxy.url.replace('http', 'ws')}/echo", proxy=None, additional_headers={"x-deny": str(denied)}
    )


def test_no_handshake_shows_the_upstream_an_id_that_nobody_has_checked(start: StartProxy) -> None:
    async def story() -> None:
        ids = {"mcp-session-id": "anothers", "mcp-protocol-version": "2026-07-28", "x-shown": "1"}
        async with echo(proxy, additional_headers=ids) as socket:
            await socket.send("headers")
            said = await socket.recv()
        assert "x-shown" in said
        assert "mcp-session-id" not in said
        assert "anothers" not in said

    with start() as proxy:
        run(story())


def test_headers_pass_that_only_begin_as_those_of_a_handshake(start: StartProxy) -> None:
    async def story() -> None:
        async with echo(proxy, additional_headers={"host-token": "1", "upgrade-insecure-requests": "2"}) as socket:
            await socket.send("headers")
            said = await socket.recv()
        assert "host-token" in said
        assert "upgrade-insecure-requests" in said

    with start() as proxy:
        run(story())


def test_a_socket_in_no_session_has_the_drains_time(start: StartProxy) -> None:
    async def story() -> None:
        async with echo(proxy) as socket:
            proxy.process.process.send_signal(signal.SIGTERM)
            await asyncio.to_thread(proxy.until_it_shuts_down)
            await socket.send("still here")
            assert await socket.recv() == "still here"
        assert await asyncio.to_thread(proxy.process.end) == 0

    with start("--drain-timeout", NEVER) as proxy:
        run(story())


def test_a_socket_in_no_session_is_closed_with_going_away_after_the_drain(start: StartProxy) -> None:
    async def story() -> None:
        async with echo(proxy) as socket:
            proxy.process.process.send_signal(signal.SIGTERM)
            with pytest.raises(ConnectionClosed):
                await socket.recv()
            assert socket.close_code == 1001
        assert await asyncio.to_thread(proxy.process.end) == 0

    with start("--drain-timeout", "0.5") as proxy:
        run(story())


def test_the_target_passes_as_it_was_written(start: StartProxy) -> None:
    async def story() -> None:
        host, port = proxy.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(
            b"GET /echo/{a};b=1?path HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"x-path: /echo/{a};b=1\r\n" in head.lower()
        writer.close()

    with start(*HEADER) as proxy:
        run(story())


def test_an_upstream_that_is_not_there_is_502(start: StartProxy) -> None:
    async def story() -> None:
        with pytest.raises(InvalidStatus) as refused:
            await echo(proxy)
        assert refused.value.response.status_code == 502

    with start(*HEADER, upstream=f"http://{HOST}:{free_port()}") as proxy:
        run(story())


@pytest.mark.deadline("a WebSocket's handshake with the upstream")
def test_an_upstream_that_does_not_answer_a_handshake_is_504(start: StartProxy) -> None:
    async def story() -> None:
        with pytest.raises(InvalidStatus) as refused:
            await echo(proxy)
        assert refused.value.response.status_code == 504

    with socket.create_server((HOST, 0)) as silent:  # the system accepts for it
        url = f"http://{HOST}:{silent.getsockname()[1]}"
        with start(*HEADER, "--connect-timeout", "0.5", upstream=url) as proxy:
            run(story())


def test_an_unknown_session_is_404_and_the_cap_503_before_the_handshake(start: StartProxy) -> None:
    async def story() -> None:
        with pytest.raises(InvalidStatus) as unknown:
            await echo(proxy, additional_headers={"x-session-id": "nobody"})
        async with echo(proxy):
            with pytest.raises(InvalidStatus) as full:
                await echo(proxy)
        assert unknown.value.response.status_code == 404
        assert full.value.response.status_code == 503

    with start(*HEADER, "--max-sessions", "1", "--close-timeout", "0.3") as proxy:
        run(story())


@pytest.mark.deadline("a session")
def test_a_session_that_is_too_old_closes_both_sides_with_going_away(start: StartProxy, origin: Origin) -> None:
    async def story() -> None:
        async with echo(proxy) as socket:
            with pytest.raises(ConnectionClosed):
                await socket.recv()
            assert socket.close_code == 1001

    flags = ("--max-session-age", "2", "--cleanup-interval", "0.2", "--drain-timeout", "0.2")
    with start(*HEADER, *flags) as proxy:
        run(story())
        origin.until_none("sockets")


def test_sigterm_closes_sockets_with_going_away(start: StartProxy, origin: Origin) -> None:
    async def story() -> None:
        async with echo(proxy) as socket:
            stopping = asyncio.to_thread(proxy.process.terminate)
            stopped = asyncio.create_task(stopping)
            with pytest.raises(ConnectionClosed):
                await socket.recv()
            assert socket.close_code == 1001
            assert await stopped == 0

    with start(*HEADER, "--drain-timeout", "0.5") as proxy:
        run(story())
    origin.until_none("sockets")


def test_a_slow_reader_does_not_make_the_proxy_collect(start: StartProxy) -> None:
    async def send_until_nothing_moves(socket: ClientConnection) -> None:
        while True:  # nobody reads the echo, so this has to stop by itself
            await socket.send(b"x" * 64 * KIB)

    async def story() -> None:
        async with echo(proxy, max_queue=1) as socket:
            memory = psutil.Process(proxy.process.process.pid).memory_info
            before = memory().rss
            sending = asyncio.create_task(send_until_nothing_moves(socket))
            await asyncio.wait([sending], timeout=2)  # as much as nobody reads is sent in less

            assert not sending.done()
            assert memory().rss - before < 10 * KIB * KIB
            sending.cancel()
            socket.transport.abort()

    with start(*HEADER) as proxy:
        run(story())


def test_a_message_larger_than_allowed_closes_the_socket(start: StartProxy) -> None:
    async def exceed(socket: ClientConnection) -> None:
        await socket.send(b"x" * 17 * KIB * KIB)
        await socket.recv()

    async def story() -> None:
        async with echo(proxy) as socket:
            with pytest.raises(ConnectionClosedError):
                await exceed(socket)
            assert socket.close_code == 1009

    with start(*HEADER) as proxy:
        run(story())


@pytest.mark.parametrize("interim", [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 \r\nLink: </a>\r\n\r\n" * 20])
def test_interim_answers_before_the_upstreams_own_are_skipped(start: StartProxy, interim: bytes) -> None:
    async def story() -> None:
        async with echo(proxy) as socket:
            assert await socket.recv() == "a"

    with speaking(b"\x81\x01a\x88\x02\x03\xe8", before=interim) as upstream, start(*HEADER, upstream=upstream) as proxy:
        run(story())


def test_interim_answers_without_an_end_are_502(start: StartProxy) -> None:
    async def story() -> None:
        with pytest.raises(InvalidStatus) as refused:
            await echo(proxy)
        assert refused.value.response.status_code == 502

    flood = b"HTTP/1.1 103 \r\nLink: </a>\r\n\r\n" * 10_000
    with speaking(b"", before=flood) as upstream, start(*HEADER, upstream=upstream) as proxy:
        run(story())
        assert "Traceback" not in proxy.process.said()


@pytest.mark.parametrize("frame", [b"\x81\x01\xff", b"\x88\x03\x03\xe8\xff"], ids=["text", "reason"])
def test_bad_utf_8_of_the_upstream_closes_the_clients_socket(start: StartProxy, frame: bytes) -> None:
    async def story() -> None:
        async with echo(proxy) as socket:
            with pytest.raises(ConnectionClosed):
                await socket.recv()
            assert socket.close_code == 1011

    with speaking(frame) as upstream, start(*HEADER, upstream=upstream) as proxy:
        run(story())
        assert "Traceback" not in proxy.process.said()


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        pytest.param(b"\x81\x81\x00\x00\x00\x00\xff", 1007, id="text"),
        pytest.param(b"\x01\x81\x00\x00\x00\x00\xc3\x80\x81\x00\x00\x00\x00A", 1007, id="text in two frames"),
        pytest.param(b"\x88\x83\x00\x00\x00\x00\x03\xe8\xff", 1007, id="reason"),
    ],
)
def test_bad_utf_8_of_the_client_closes_both_sides(start: StartProxy, origin: Origin, frame: bytes, code: int) -> None:
    async def story() -> None:
        async with echo(proxy) as socket:
            await socket.send("first")
            assert await socket.recv() == "first"
            socket.transport.write(frame)
            with pytest.raises(ConnectionClosed):
                await socket.recv()
            assert socket.protocol.close_rcvd is not None
            assert socket.protocol.close_rcvd.code == code

    with start(*HEADER) as proxy:
        run(story())
        origin.until_none("sockets")
        assert "Traceback" not in proxy.process.said()
