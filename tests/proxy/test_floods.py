"""An upstream that says too much, to a client that takes nothing, fills no memory of the proxy."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.processes import HOST
from tests.waiting import PATIENCE, until

from .conftest import start_proxy
from .speaker import switching

pytestmark = [pytest.mark.processes, pytest.mark.no_cover]

MIB = 1024 * 1024
FLOOD = 96 * MIB
"""Bytes that an upstream has to say; far more than buffers of the system and what is allowed together."""
ALLOWED = 10 * MIB
"""Growth of the resident memory: a message of 1 MiB in a few copies, buffers of 64 KiB, and the allocator's own."""
ALLOWED_OF_A_MESSAGE = 16 * MIB + ALLOWED
"""The same for a message that is as long as a message may be."""
GET = b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n"
HANDSHAKE = (
    b"GET /x HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
OK = b"HTTP/1.1 200 OK\r\n"
CHUNKS = OK + b"Transfer-Encoding: chunked\r\n\r\n"
EVENTS = OK + b"Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
ACCEPTED = b"accepted"
"""Stands for the answer to the handshake."""
MOST_PARTS = 300_000
"""How often an upstream repeats itself: each part that left 100 bytes behind would be more than what is allowed."""
SECONDS_OF_REST = 0.5


@dataclass(frozen=True, kw_only=True)
class Flood:
    """What an upstream says: how it begins, and what it repeats until all is said or the connection is over."""

    asked: bytes
    beginning: bytes
    part: bytes
    allowed: int = ALLOWED


def http(beginning: bytes, part: bytes) -> Flood:
    return Flood(asked=GET, beginning=beginning, part=part)


def websocket(part: bytes, beginning: bytes = b"", allowed: int = ALLOWED) -> Flood:
    return Flood(asked=HANDSHAKE, beginning=ACCEPTED + beginning, part=part, allowed=allowed)


FLOODS = {
    "interim answers": http(b"", b"HTTP/1.1 102 \r\n\r\n"),
    "header lines": http(OK, b"a: b\r\n"),
    "a header without an end": http(OK + b"a: ", b"b" * 1000),
    "a status without an end": http(b"HTTP/1.1 200 ", b"O" * 1000),
    "empty lines": http(b"", b"\r\n"),
    "a chunk's extension without an end": http(CHUNKS + b"1;", b"e" * 1000),
    "chunks with extensions": http(CHUNKS, b"1;e=1\r\nx\r\n"),
    "chunks": http(CHUNKS, b"ffff\r\n" + bytes(0xFFFF) + b"\r\n"),
    "one chunk": http(CHUNKS + b"ffffffff\r\n", bytes(65536)),
    "a body until the end": http(OK + b"\r\n", bytes(65536)),
    "trailers": http(CHUNKS + b"0\r\n", b"a: b\r\n"),
    "a trailer without an end": http(CHUNKS + b"0\r\na: ", b"b" * 1000),
    "events": http(EVENTS, b"20\r\n" + b"data: " + b"x" * 24 + b"\n\n" + b"\r\n"),
    "an event without an end": http(EVENTS, b"ffff\r\n" + b"x" * 0xFFFF + b"\r\n"),
    "bytes behind an answer": http(OK + b"Content-Length: 2\r\n\r\nok", bytes(65536)),
    "messages": websocket(b"\x82\x7f" + MIB.to_bytes(8, "big") + bytes(MIB)),
    "small messages": websocket(b"\x81\x01a"),
    "a message without an end": websocket(b"\x00\x7d" + bytes(125), b"\x02\x00", ALLOWED_OF_A_MESSAGE),
    "empty fragments": websocket(b"\x00\x00", b"\x02\x00"),
    "pings": websocket(b"\x89\x7d" + bytes(125)),
    "pongs": websocket(b"\x8a\x7d" + bytes(125)),
    "interim answers to a handshake": Flood(asked=HANDSHAKE, beginning=b"", part=b"HTTP/1.1 102 \r\n\r\n"),
    "headers of a handshake": Flood(asked=HANDSHAKE, beginning=b"HTTP/1.1 101 x\r\n", part=b"a: b\r\n"),
    "a refusal of a handshake": Flood(asked=HANDSHAKE, beginning=b"HTTP/1.1 403 x\r\n\r\n", part=bytes(65536)),
}


class Flooding:
    """An upstream that says a flood to whoever asks, and takes nothing behind the head of what is asked."""

    def __init__(self) -> None:
        self.flood = http(b"", b"")
        self.said = 0
        self.is_over = False
        self._client: socket.socket | None = None
        self._listener = socket.create_server((HOST, 0))
        self.url = f"http://{HOST}:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def begin(self, flood: Flood) -> None:
        self.flood, self.said, self.is_over = flood, 0, False

    def hang_up(self) -> None:
        """End the flood, if it is not over."""
        if self._client is not None:
            with contextlib.suppress(OSError):
                self._client.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self._client = client = self._listener.accept()[0]
                with client, contextlib.suppress(OSError):
                    head = client.recv(65536)
                    client.sendall(self._beginning(head))
                    self._repeat(client)
                self.is_over = True

    def _beginning(self, head: bytes) -> bytes:
        beginning = self.flood.beginning
        return beginning.replace(ACCEPTED, switching(head)) if ACCEPTED in beginning else beginning

    def _repeat(self, client: socket.socket) -> None:
        part = self.flood.part * max(1, 65536 // len(self.flood.part))
        while self.said < min(FLOOD, MOST_PARTS * len(self.flood.part)):
            client.sendall(part)
            self.said += len(part)


@dataclass(frozen=True, kw_only=True)
class Flooded:
    """A proxy before a flooding upstream."""

    port: int
    process: psutil.Process
    upstream: Flooding

    def growth(self, flood: Flood) -> int:
        """Return by how many bytes the proxy grew at most, until all is said or neither of the two does anything."""
        self.upstream.begin(flood)
        before = most = self.process.memory_info().rss
        with socket.create_connection((HOST, self.port), PATIENCE) as client:
            client.sendall(flood.asked)
            done, since = self.done(), time.monotonic()
            while not self.upstream.is_over and time.monotonic() - since < SECONDS_OF_REST:
                time.sleep(0.02)
                most = max(most, self.process.memory_info().rss)
                if done != self.done():
                    done, since = self.done(), time.monotonic()
            self.upstream.hang_up()
        until(lambda: self.upstream.is_over, bool)
        return most - before

    def done(self) -> tuple[int, float]:
        """Return what tells whether the two go on: what the upstream has said, and the proxy's processor time."""
        return self.upstream.said, sum(self.process.cpu_times()[:2])


@pytest.fixture(scope="module", params=["uvloop", "asyncio"])
def flooded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flooded]:
    upstream = Flooding()
    folder: Path = tmp_path_factory.mktemp("flooded")
    with start_proxy(folder, upstream.url, "--loop", request.param) as proxy:
        process = psutil.Process(proxy.process.process.pid)
        flooded = Flooded(port=int(proxy.url.rsplit(":", 1)[1]), process=process, upstream=upstream)
        for warm in ("chunks", "messages"):  # what is made once, whoever asks
            flooded.growth(FLOODS[warm])
        yield flooded
        assert "Traceback" not in proxy.process.said()
    upstream.close()


@pytest.mark.parametrize("flood", list(FLOODS.values()), ids=list(FLOODS))
def test_a_flood_fills_no_memory(flooded: Flooded, flood: Flood) -> None:
    assert flooded.growth(flood) < flood.allowed
