"""Clients and upstreams that say no more, and do not close, on both loops."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from tests.processes import HOST
from tests.waiting import PATIENCE, until

from .conftest import Origin, start_proxy
from .recorder import statuses
from .speaker import switching

pytestmark = [pytest.mark.processes, pytest.mark.no_cover]

HANDSHAKE = (
    b"GET /echo HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
HELLO = b"\x81\x85" + bytes(4) + b"hello"
SIZED = b"POST /count HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nabc"
CHUNKED = b"POST /count HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"
BROKEN = b"\x88\x02\x03\xf3"
"""A close with 1011: the other side is gone without a code."""


@dataclass(kw_only=True)
class HalfGone:
    """An upstream that says no more once it has a head, and reads on until the proxy closes."""

    listener: socket.socket = field(default_factory=lambda: socket.create_server((HOST, 0)))
    left: int = 0
    """How many connections the proxy has closed."""

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.listener.getsockname()[1]}"

    def serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                threading.Thread(target=self._speak, args=(client,), daemon=True).start()

    def _speak(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            head = b""
            while b"\r\n\r\n" not in head:
                head += client.recv(65536)
            if b"sec-websocket-key" in head.lower():
                client.sendall(switching(head))
            client.shutdown(socket.SHUT_WR)
            while client.recv(65536):
                pass
        self.left += 1


@pytest.fixture(scope="module", params=["uvloop", "asyncio"])
def loop(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def port(loop: str, origin: Origin, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a proxy in front of the origin."""
    with start_proxy(tmp_path_factory.mktemp("half"), origin.url, "--loop", loop) as proxy:
        yield int(proxy.url.rsplit(":", 1)[1])
        assert "Traceback" not in proxy.process.said()


@pytest.fixture(scope="module")
def half_gone() -> Iterator[HalfGone]:
    upstream = HalfGone()
    threading.Thread(target=upstream.serve, daemon=True).start()
    yield upstream
    upstream.listener.shutdown(socket.SHUT_RDWR)
    upstream.listener.close()


@pytest.fixture(scope="module")
def before_half_gone(loop: str, half_gone: HalfGone, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a proxy in front of an upstream that is half gone."""
    with start_proxy(tmp_path_factory.mktemp("half-gone"), half_gone.url, "--loop", loop) as proxy:
        yield int(proxy.url.rsplit(":", 1)[1])
        assert "Traceback" not in proxy.process.said()


def connected(port: int, said: bytes) -> socket.socket:
    client = socket.create_connection((HOST, port), PATIENCE)
    client.sendall(said)
    return client


def rest(client: socket.socket) -> bytes:
    """Return what is said until the other side closes."""
    return b"".join(iter(lambda: client.recv(65536), b""))


def until_accepted(client: socket.socket) -> None:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += client.recv(1)
    assert head.startswith(b"HTTP/1.1 101 ")


class TestClients:
    """Clients that have closed their sending side."""

    def test_a_client_that_ends_within_a_stream_of_events_has_left(self, port: int, origin: Origin) -> None:
        with connected(port, b"GET /events HTTP/1.1\r\nHost: h\r\n\r\n") as client:
            origin.until("streams", 1)
            client.shutdown(socket.SHUT_WR)

            assert statuses(rest(client)) == [200]
        origin.until_none("streams")

    def test_a_client_that_ends_before_its_answer_has_left(self, port: int, origin: Origin) -> None:
        with connected(port, b"GET /never HTTP/1.1\r\nHost: h\r\n\r\n") as client:
            origin.until("waiting", 1)
            client.shutdown(socket.SHUT_WR)

            assert rest(client) == b""
        origin.until_none("waiting")

    @pytest.mark.parametrize("half", [SIZED, CHUNKED], ids=["sized", "chunked"])
    def test_a_client_that_ends_within_its_request_gets_no_answer(self, port: int, half: bytes) -> None:
        with connected(port, half) as client:
            client.shutdown(socket.SHUT_WR)

            assert rest(client) == b""

    def test_a_websockets_client_that_ends_without_a_close_has_left_behind_its_messages(
        self, port: int, origin: Origin
    ) -> None:
        with connected(port, HANDSHAKE) as client:
            until_accepted(client)
            origin.until("sockets", 1)
            client.sendall(HELLO)
            assert client.recv(7) == b"\x81\x05hello"
            client.shutdown(socket.SHUT_WR)

            rest(client)
        origin.until_none("sockets")


class TestUpstreams:
    """Upstreams that have closed their sending side."""

    @pytest.mark.parametrize(
        "asked", [b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n", SIZED, CHUNKED], ids=["get", "sized", "chunked"]
    )
    def test_an_upstream_that_ends_before_its_answer_is_502(
        self, before_half_gone: int, half_gone: HalfGone, asked: bytes
    ) -> None:
        before = half_gone.left
        with connected(before_half_gone, asked) as client:
            assert client.recv(65536).startswith(b"HTTP/1.1 502 ")

        until(lambda: half_gone.left, lambda left: left > before)

    def test_an_upstream_that_ends_without_a_close_ends_its_websocket(
        self, before_half_gone: int, half_gone: HalfGone
    ) -> None:
        before = half_gone.left
        with connected(before_half_gone, HANDSHAKE) as client:
            until_accepted(client)
            said = client.recv(4)
            client.sendall(b"\x88\x82" + bytes(4) + said[2:])

            assert (said, rest(client)) == (BROKEN, b"")
        until(lambda: half_gone.left, lambda left: left == before + 1)

    def test_a_websocket_whose_sides_have_both_ended_is_over(self, before_half_gone: int, half_gone: HalfGone) -> None:
        before = half_gone.left
        with connected(before_half_gone, HANDSHAKE) as client:
            client.shutdown(socket.SHUT_WR)

            rest(client)
        until(lambda: half_gone.left, lambda left: left == before + 1)
