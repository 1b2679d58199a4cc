"""No peer keeps the loop to itself: the longest stretch of processor time between two turns of others is bounded."""

import asyncio
import contextlib
import gc
import math
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import pytest

from otel_sessions.matchers import HeaderMatcher
from otel_sessions.proxy import Proxy, Settings
from tests.processes import HOST
from tests.waiting import PATIENCE

from .conftest import Origin
from .recorder import Recorder
from .speaker import speaking

pytestmark = [pytest.mark.anyio, pytest.mark.processes]

MOST: Final = 0.05
"""Seconds of processor time that one client may take at a stretch."""
RUNS: Final = 3
HANDSHAKE: Final = (
    b"GET /echo HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
MASK: Final = bytes(4)
CLOSED: Final = b"\x88\x02\x03\xe8"
CLOSE: Final = b"\x88\x80" + MASK
CHUNKED: Final = b"POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
GET: Final = b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n"
FLOOD: Final = b"GET /flood HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
LAST: Final = b"GET /x HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"


@pytest.fixture(params=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param == "uvloop"}


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    recorder = Recorder({})
    yield recorder
    recorder.close()


def exchange(port: int, first: bytes, rest: bytes) -> int:
    """Send all, and read meanwhile, until the other side closes; return how much it said."""
    said = 0
    with contextlib.suppress(OSError), socket.create_connection((HOST, port), PATIENCE) as client:
        client.sendall(first)
        with ThreadPoolExecutor(1) as other:
            if first == HANDSHAKE:
                assert client.recv(65536).startswith(b"HTTP/1.1 101")
            other.submit(client.sendall, rest)
            while more := client.recv(65536):
                said += len(more)
    return said


def until_it_closes(port: int) -> int:
    """Open a WebSocket, read until the other side says that it closes, and return how much it said."""
    said, last = 0, b""
    with socket.create_connection((HOST, port), PATIENCE) as client:
        client.sendall(HANDSHAKE)
        while last != CLOSED:
            more = client.recv(65536)
            assert more, "the connection ends without a close"
            said, last = said + len(more), (last + more)[-len(CLOSED) :]
    return said


@contextlib.contextmanager
def own_garbage() -> Iterator[None]:
    """Let the collector look at nothing that was there before: all that the tests have loaded takes it long."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


async def longest_stretch(upstream: str, client: Callable[[int], int]) -> float:
    """Return the most processor time that the loop's thread spent between two turns of a task, while a client talks.

    Of several runs the best one counts: only the first run pays for what is made once, and what a client brings about
    comes in each of them.
    """
    settings = Settings(upstream=upstream, listen=(HOST, 0), matcher=HeaderMatcher("x-session-id"))
    best = math.inf
    with own_garbage():
        async with Proxy(settings) as proxy:
            for _ in range(RUNS):
                best = min(best, await stretch_of_a_run(proxy.address[1], client))
                if best < MOST:
                    break
    return best


async def stretch_of_a_run(port: int, client: Callable[[int], int]) -> float:
    talking = asyncio.get_running_loop().run_in_executor(None, client, port)
    longest = 0.0
    while not talking.done():
        before = time.thread_time()
        await asyncio.sleep(0)
        longest = max(longest, time.thread_time() - before)
    assert await talking > 0
    return longest


@pytest.mark.parametrize(
    ("first", "rest"),
    [
        pytest.param(CHUNKED, b"1\r\nx\r\n" * 100_000 + b"0\r\n\r\n", id="one-byte chunks"),
        pytest.param(CHUNKED, b"1;e=1\r\nx\r\n" * 10_000 + b"0\r\n\r\n", id="chunks with extensions"),
        pytest.param(CHUNKED, b"0\r\n" + b"a:\r\n" * 10_000 + b"\r\n", id="trailers"),
        pytest.param(b"", GET * 2_000 + LAST, id="requests in one segment"),
        pytest.param(b"GET /x HTTP/1.1\r\nHost: h\r\n", b"a:\r\n" * 16_000 + b"\r\n", id="tiny headers"),
        pytest.param(b"GET /x HTTP/1.1\r\nHost: h\r\n", b"a:\r\n" * 400 + b"Connection: close\r\n\r\n", id="headers"),
    ],
)
async def test_a_client_of_http_in_small_parts_leaves_others_their_turns(
    recorder: Recorder, first: bytes, rest: bytes
) -> None:
    assert await longest_stretch(recorder.url, lambda port: exchange(port, first, rest)) < MOST


@pytest.mark.parametrize(
    "frames",
    [
        pytest.param((b"\x89\x80" + MASK) * 100_000, id="pings"),
        pytest.param((b"\x8a\x80" + MASK) * 100_000, id="pongs"),
        pytest.param((b"\x82\x80" + MASK) * 10_000, id="empty messages"),
        pytest.param((b"\x81\x81" + MASK + b"a") * 10_000, id="texts of a letter"),
        pytest.param(
            b"\x01\x80" + MASK + (b"\x00\x81" + MASK + b"a") * 100_000 + b"\x80\x80" + MASK, id="tiny fragments"
        ),
        pytest.param(b"\x82\xff\x00\x00\x00\x00\x00\x80\x00\x00" + MASK + bytes(8 * 1024 * 1024), id="a large message"),
    ],
)
async def test_a_websocket_in_small_parts_leaves_others_their_turns(origin: Origin, frames: bytes) -> None:
    assert await longest_stretch(origin.url, lambda port: exchange(port, HANDSHAKE, frames + CLOSE)) < MOST


CHUNKS: Final = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
EVENTS: Final = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
FINE: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(CHUNKS + b"1\r\nx\r\n" * 30_000 + b"0\r\n\r\n", id="one-byte chunks"),
        pytest.param(CHUNKS + b"1;e=1\r\nx\r\n" * 30_000 + b"0\r\n\r\n", id="chunks with extensions"),
        pytest.param(CHUNKS + b"1\r\nx\r\n0\r\n" + b"a:\r\n" * 25_000 + b"\r\n", id="trailers"),
        pytest.param(EVENTS + b"1\r\n\n\r\n" * 30_000 + b"0\r\n\r\n", id="events of a byte"),
        pytest.param(EVENTS + b"8\r\ndata:1\n\n\r\n" * 10_000 + b"0\r\n\r\n", id="events"),
        pytest.param(b"HTTP/1.1 102 \r\n\r\n" * 6_000 + FINE, id="interim answers"),
        pytest.param(b"HTTP/1.1 102 \r\n\r\n" * 60_000 + FINE, id="interim answers without an end"),
        pytest.param(b"HTTP/1.1 200 OK\r\n" + b"a:\r\n" * 25_000 + b"Content-Length: 0\r\n\r\n", id="tiny headers"),
        pytest.param(b"HTTP/1.1 200 OK\r\n" + b"a:\r\n" * 490 + b"Content-Length: 0\r\n\r\n", id="headers"),
        pytest.param(
            b"HTTP/1.1 103 \r\n" + b"a:\r\n" * 25_000 + b"\r\n" + FINE, id="tiny headers of an interim answer"
        ),
        pytest.param(b"\r\n" * 20_000, id="empty lines"),
    ],
)
async def test_an_upstream_that_answers_in_small_parts_leaves_others_their_turns(answer: bytes) -> None:
    recorder = Recorder({"/flood": answer})
    try:
        assert await longest_stretch(recorder.url, lambda port: exchange(port, b"", FLOOD)) < MOST
    finally:
        recorder.close()


@pytest.mark.parametrize(
    "frames",
    [
        pytest.param(b"\x89\x00" * 20_000, id="pings"),
        pytest.param(b"\x8a\x00" * 20_000, id="pongs"),
        pytest.param(b"\x82\x00" * 4_000, id="empty messages"),
        pytest.param(b"\x81\x01a" * 4_000, id="texts of a letter"),
        pytest.param(b"\x01\x00" + b"\x00\x01a" * 20_000 + b"\x80\x00", id="tiny fragments"),
        pytest.param(b"\x82\x7f\x00\x00\x00\x00\x00\x80\x00\x00" + bytes(8 * 1024 * 1024), id="a large message"),
    ],
)
async def test_an_upstreams_websocket_in_small_parts_leaves_others_their_turns(frames: bytes) -> None:
    with speaking(frames + CLOSED) as upstream:
        assert await longest_stretch(upstream, until_it_closes) < MOST
