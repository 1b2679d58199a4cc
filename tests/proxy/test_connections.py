"""How long a client's connection lasts, state by state, and how many there may be, on both loops."""

import contextlib
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.client import HTTPResponse
from pathlib import Path

import httpx2
import psutil
import pytest

from tests.processes import HOST, free_port, running, until_answers
from tests.processes import Running as Process
from tests.waiting import PATIENCE, until

from .conftest import PATIENT, Origin, start_proxy
from .readers import Reading, read_slowly
from .recorder import Recorder, statuses, talk

pytestmark = pytest.mark.processes

LARGE = 16 * 1024 * 1024
IDLE = 3
"""Seconds: the deadline of clients and upstreams that are idle, where a test waits for it."""
ANSWERS = {"/large": b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % LARGE + bytes(LARGE)}
ASK = b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n"
INITIALIZE = b"POST /mcp HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: 10000\r\n\r\n"


@dataclass(frozen=True, kw_only=True)
class Running:
    """A proxy."""

    port: int
    process: Process

    @property
    def pid(self) -> int:
        return self.process.process.pid

    def said(self, *parts: bytes) -> bytes:
        """Return what the proxy says to this. It stands still until all is sent: a slow client is not what is late."""
        self.process.pause()
        with socket.create_connection((HOST, self.port), PATIENCE) as client:
            client.sendall(b"".join(parts))
            self.process.resume()
            said = b""
            while more := client.recv(65536):
                said += more
        return said

    def until_closed(self, client: socket.socket) -> None:
        """Wait until the proxy's side of a connection is gone."""
        there = client.getsockname()

        def is_open() -> bool:
            open_now = psutil.Process(self.pid).net_connections("tcp")
            return there[1] in [one.raddr[1] for one in open_now if len(one.raddr)]

        until(is_open, lambda still: not still)


@pytest.fixture(scope="module", params=["uvloop", "asyncio"])
def hasty(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A proxy that leaves everybody early who does not go on, the upstream too."""
    upstream = Recorder(ANSWERS)
    flags = ("--loop", request.param, "--head-timeout", "1", "--idle-timeout", str(IDLE), "--max-sessions", "2")
    with start_proxy(tmp_path_factory.mktemp("hasty"), upstream.url, *flags) as proxy:
        yield Running(port=int(proxy.url.rsplit(":", 1)[1]), process=proxy.process)
    upstream.close()


@dataclass(frozen=True, kw_only=True)
class Crowded:
    """A proxy with few places, and the clients that have come."""

    port: int
    log: Callable[[], str]
    clients: contextlib.ExitStack

    def connect(self) -> socket.socket:
        return self.clients.enter_context(socket.create_connection((HOST, self.port), PATIENCE))

    def asks(self, request: bytes) -> socket.socket:
        client = self.connect()
        with contextlib.suppress(OSError):  # it may be refused before it has asked
            client.sendall(request)
        return client

    def idle(self) -> socket.socket:
        """Return a client that has had an answer and asks for nothing more."""
        client = self.asks(ASK)
        assert status_of(client) == 200
        return client


def status_of(client: socket.socket) -> int:
    """Read one answer as a whole, and return its status."""
    answer = HTTPResponse(client)
    answer.begin()
    answer.read()
    return answer.status


def connected(proxy: Running) -> socket.socket:
    return socket.create_connection((HOST, proxy.port), PATIENCE)


def drip(client: socket.socket, part: bytes, most: int = 10_000) -> bytes:
    """Send a part over and over, slowly, until the other side closes, and return what it said."""
    client.settimeout(0.05)
    said = b""
    end = time.monotonic() + PATIENCE
    for _ in range(most):
        if time.monotonic() > end:
            break
        try:
            client.sendall(part)
            more = client.recv(65536)
            if not more:
                return said
            said += more
        except TimeoutError:
            continue
        except OSError:
            return said
    pytest.fail("the connection stays open")


def said_in_time(proxy: Running, *parts: bytes) -> bytes:
    """Return what a proxy says if the machine has not stood still, so that the upstream was late."""
    return until(lambda: proxy.said(*parts), lambda said: b" 504 " not in said)


@pytest.mark.parametrize(
    ("parts", "answers"),
    [
        ([], []),
        ([b"\r\n"], []),
        ([b"GET /x HT"], [408]),
        ([b"GET /x HTTP/1.1\r\nHost: h\r\nX-A"], [408]),
        ([ASK], [200]),
        ([ASK, b"GET"], [200, 408]),
        ([ASK, ASK[:-2]], [200, 408]),
        ([ASK + b"G"], [200, 408]),
        ([b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nab"], [408]),
        ([b"POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nab"], [408]),
        ([b"POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"], [408]),
        ([b"POST /../x HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nab"], [400]),
        ([b"POST /../x HTTP/1.1\r\nHost: h\r\nContent-Length: 400000\r\n\r\nab"], [400]),
        ([b"NONSENSE\r\n\r\n"], [400]),
        ([b"GET /x HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-Web"], [408]),
    ],
    ids=lambda value: repr(value)[:60],
)
def test_a_client_that_says_no_more_is_left_by_the_deadline(
    hasty: Running, parts: list[bytes], answers: list[int]
) -> None:
    assert statuses(said_in_time(hasty, *parts)) == answers


@pytest.mark.parametrize(
    ("beginning", "part"),
    [
        (b"", b"\r\n"),
        (b"GET /x HTTP/1.1\r\nHost: h\r\nX-A: ", b"a"),
        (ASK + b"GET /x HTTP/1.1\r\nHost: h\r\nX-A: ", b"a"),
        (b"NONSENSE\r\n\r\n", b"x"),
        (b"POST /../x HTTP/1.1\r\nHost: h\r\nContent-Length: 40000\r\n\r\n", b"x"),
        (b"POST /../x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
        (INITIALIZE, b" "),
    ],
    ids=lambda value: repr(value)[:60],
)
def test_a_client_that_drips_is_left_by_the_deadline(hasty: Running, beginning: bytes, part: bytes) -> None:
    with connected(hasty) as client:
        client.sendall(beginning)
        drip(client, part)


@pytest.mark.parametrize(
    ("framing", "part"),
    [(b"Content-Length: 10000", b" "), (b"Transfer-Encoding: chunked", b"1\r\n \r\n")],
    ids=["sized", "chunked"],
)
def test_an_opening_that_drips_is_refused_while_its_body_is_looked_at(
    hasty: Running, framing: bytes, part: bytes
) -> None:
    with connected(hasty) as client:
        client.sendall(b"POST /mcp HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n%s\r\n\r\n" % framing)

        said = drip(client, part, most=1024)

    assert statuses(said) == [408]


@pytest.mark.parametrize("close", [b"", b"Connection: close\r\n"])
@pytest.mark.parametrize("leaves", [False, True])
def test_a_client_that_does_not_read_its_answer_is_left(hasty: Running, close: bytes, leaves: bool) -> None:
    with connected(hasty) as client:
        client.sendall(b"GET /large HTTP/1.1\r\nHost: h\r\n%s\r\n" % close)
        if leaves:
            client.shutdown(socket.SHUT_WR)

        hasty.until_closed(client)


def test_a_client_that_reads_slowly_gets_all_of_its_answer(hasty: Running) -> None:
    """It takes longer in all than any of its deadlines."""

    def read() -> Reading:
        with connected(hasty) as client:
            client.sendall(b"GET /large HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
            return read_slowly(client, 1024 * 1024, lambda _: 0.3)

    assert until(read, lambda reading: reading.longest < IDLE / 2).size > LARGE


def test_half_sent_openings_hold_no_place_past_the_limit(hasty: Running) -> None:
    with contextlib.ExitStack() as clients:
        for _ in range(4):
            client = clients.enter_context(connected(hasty))
            client.sendall(INITIALIZE + b"{" + b" " * 9000)

        answer = until(lambda: said_in_time(hasty, INITIALIZE + b" " * 10000 + ASK), lambda said: b" 503 " not in said)

    assert answer.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(b"\x82\xfe\xff\xff\x00\x00\x00\x00" + bytes(65535), id="messages"),
        pytest.param((b"\x89\xfd\x00\x00\x00\x00" + bytes(125)) * 400, id="pings"),
    ],
)
def test_a_websocket_that_does_not_read_fills_no_memory_and_is_left(
    origin: Origin, tmp_path: Path, frame: bytes
) -> None:
    with start_proxy(tmp_path, origin.url, "--idle-timeout", "0.8", "--matcher", "header:x-session-id") as started:
        proxy = Running(port=int(started.url.rsplit(":", 1)[1]), process=started.process)
        memory = psutil.Process(proxy.pid).memory_info
        with connected(proxy) as client:
            client.sendall(
                b"GET /echo HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            )
            assert client.recv(1000).startswith(b"HTTP/1.1 101 ")
            most = before = memory().rss
            client.settimeout(0.1)
            left = memoryview(frame)
            end = time.monotonic() + PATIENCE
            with contextlib.suppress(ConnectionError):  # it ends when the proxy breaks off, and not before
                while time.monotonic() < end:
                    with contextlib.suppress(TimeoutError):
                        left = left[client.send(left) :] or memoryview(frame)
                    most = max(most, memory().rss)

            assert most - before < 10 * 1024 * 1024
            proxy.until_closed(client)


@pytest.mark.parametrize("segments", [1, 2])
@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_a_client_that_leaves_is_heard_behind_a_request_that_came_early(
    origin: Origin, tmp_path: Path, loop: str, segments: int
) -> None:
    waits = b"POST /never HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\na"
    with start_proxy(tmp_path, origin.url, "--loop", loop) as started:
        port = int(started.url.rsplit(":", 1)[1])
        with socket.create_connection((HOST, port), PATIENCE) as client:
            client.sendall(waits + ASK if segments == 1 else waits)
            origin.until("waiting", 1)
            if segments == 2:
                client.sendall(ASK)
        origin.until_none("waiting")


def test_a_client_that_asks_for_too_much_before_it_has_an_answer_is_cut_off(hasty: Running) -> None:
    with connected(hasty) as client, contextlib.suppress(OSError):
        client.sendall(ASK + b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 900000\r\n\r\n" + bytes(900_000))
        while client.recv(65536):
            pass

    assert said_in_time(hasty, ASK[:-2] + b"Connection: close\r\n\r\n").startswith(b"HTTP/1.1 200 ")


def test_a_client_that_keeps_an_idle_connection_does_not_hold_up_the_end(origin: Origin, tmp_path: Path) -> None:
    with start_proxy(tmp_path, origin.url) as started:
        with socket.create_connection((HOST, int(started.url.rsplit(":", 1)[1])), PATIENCE) as client:
            client.sendall(b"GET /asked HTTP/1.1\r\nHost: h\r\n\r\n")
            assert client.recv(4096).startswith(b"HTTP/1.1 200")

            assert started.process.terminate() == 0
        assert "ERROR" not in started.process.said()


def answer_or_nothing(port: int) -> bytes:
    try:
        return talk(port, b"GET /x HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", seconds=PATIENCE)
    except ConnectionError:
        return b""


@pytest.fixture(params=["uvloop", "asyncio"])
def crowded(request: pytest.FixtureRequest, origin: Origin, tmp_path: Path) -> Iterator[Crowded]:
    """A proxy that has places for two clients."""
    with start_proxy(tmp_path, origin.url, "--loop", request.param, "--max-connections", "2") as started:
        with contextlib.ExitStack() as clients:
            yield Crowded(port=int(started.url.rsplit(":", 1)[1]), log=started.process.said, clients=clients)
        assert "Traceback" not in started.process.said()


class TestCaps:
    """How many connections may be open."""

    @pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
    def test_a_process_out_of_descriptors_turns_others_away_and_answers_for_its_health(
        self, tmp_path: Path, loop: str
    ) -> None:
        upstream, front, health = Recorder({}), free_port(), free_port()
        flags = (
            f"--loop {loop} --head-timeout 4 --listen {HOST}:{front} --health {HOST}:{health} --upstream {upstream.url}"
        )
        program = f"ulimit -n 64; exec {sys.executable} -m otel_sessions.cli proxy {flags}"
        with running("proxy", ["bash", "-c", program], tmp_path, PATIENT) as process:
            until_answers(f"http://{HOST}:{health}/healthz", process)
            began = time.monotonic()
            with contextlib.ExitStack() as silent:
                process.pause()  # so that it meets all of them at once
                for _ in range(70):
                    silent.enter_context(socket.create_connection((HOST, front), PATIENCE))
                process.resume()
                for _ in range(10):
                    assert (
                        httpx2.get(f"http://{HOST}:{health}/healthz", trust_env=False, timeout=PATIENCE).status_code
                        == 200
                    )
                    assert answer_or_nothing(front)[:12] in (b"", b"HTTP/1.1 200", b"HTTP/1.1 503")
                until(lambda: answer_or_nothing(front), lambda said: said.startswith(b"HTTP/1.1 200"))
            lines = process.said().splitlines()

        upstream.close()
        refusals = [line for line in lines if "connections refused" in line]
        assert 1 <= len(refusals) <= time.monotonic() - began + 1
        assert "Traceback" not in "\n".join(lines)

    def test_many_idle_connections_in_few_descriptors_refuse_no_client_and_no_health_check(
        self, tmp_path: Path
    ) -> None:
        upstream = Recorder({})
        front, health = free_port(), free_port()
        flags = f"--listen {HOST}:{front} --health {HOST}:{health} --upstream {upstream.url}"
        program = f"ulimit -n 64; exec {sys.executable} -m otel_sessions.cli proxy {flags}"
        with running("proxy", ["bash", "-c", program], tmp_path, PATIENT) as process:
            until_answers(f"http://{HOST}:{health}/healthz", process)
            with contextlib.ExitStack() as idle:
                for _ in range(70):
                    client = idle.enter_context(socket.create_connection((HOST, front), PATIENCE))
                    client.sendall(ASK)
                    assert status_of(client) == 200
                for _ in range(40):
                    client = idle.enter_context(socket.create_connection((HOST, health), PATIENCE))
                    client.sendall(b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n")
                    assert status_of(client) == 200
            log = process.said()

        upstream.close()
        assert "idle connections closed for new ones" in log
        assert "connections refused" not in log

    def test_a_new_connection_at_the_limit_closes_the_connection_that_has_idled_longest(self, crowded: Crowded) -> None:
        first, second = crowded.idle(), crowded.idle()
        first.sendall(ASK)
        assert status_of(first) == 200

        third = crowded.idle()

        assert second.recv(1000) == b""
        for client in (first, third):
            client.sendall(ASK)
            assert status_of(client) == 200
        assert "idle connections closed for new ones: 1; 2 are open, which is --max-connections" in crowded.log()
        assert "connections refused" not in crowded.log()

    def test_a_hundred_clients_that_idle_one_after_another_are_all_served_at_the_limit(self, crowded: Crowded) -> None:
        for _ in range(100):
            crowded.idle()

        assert "connections refused" not in crowded.log()

    def test_at_the_limit_clients_with_requests_under_way_stay_and_a_new_one_is_refused(
        self, crowded: Crowded, origin: Origin
    ) -> None:
        waiting = [crowded.asks(b"GET /held HTTP/1.1\r\nHost: h\r\n\r\n") for _ in range(2)]
        origin.until("held", 2)

        refused = crowded.connect().recv(1000)
        origin.release()

        assert refused.startswith(b"HTTP/1.1 503 ")
        assert b"\r\nretry-after: 1\r\n" in refused
        assert [status_of(client) for client in waiting] == [200, 200]
        assert "connections refused: 1; 2 are open, which is --max-connections" in crowded.log()
        until(lambda: status_of(crowded.asks(ASK)), lambda status: status == 200)

    @pytest.mark.parametrize(
        ("asked", "rest"),
        [
            pytest.param(b"GET /half HTTP/1.1\r\nHo", b"st: h\r\n\r\n", id="half a head"),
            pytest.param(b"\r\nG", b"ET /half HTTP/1.1\r\nHost: h\r\n\r\n", id="a letter"),
            pytest.param(b"POST /half HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\na", b"b", id="half a body"),
        ],
    )
    def test_at_the_limit_a_client_in_the_midst_of_its_next_request_is_never_closed(
        self, crowded: Crowded, origin: Origin, asked: bytes, rest: bytes
    ) -> None:
        clients = [crowded.idle() for _ in range(2)]
        for client in clients:
            client.sendall(asked)
        until(lambda: status_of(crowded.connect()), lambda status: status == 503)
        for client in clients:
            client.sendall(rest)
            assert status_of(client) == 200

    def test_at_the_limit_a_client_that_has_not_read_all_of_its_answer_gets_the_rest(self, crowded: Crowded) -> None:
        large = b"GET /large?mib=16 HTTP/1.1\r\nHost: h\r\n\r\n"
        readers = [crowded.asks(large) for _ in range(2)]
        until(lambda: status_of(crowded.connect()), lambda status: status == 503)

        for reader in readers:
            said = b""
            while not said.endswith(b"\r\n0\r\n\r\n"):
                more = reader.recv(1024 * 1024)
                assert more
                said = said[-8:] + more

    def test_a_websocket_never_gives_way_to_a_new_connection(self, crowded: Crowded) -> None:
        handshake = (
            b"GET /echo HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        sockets = [crowded.asks(handshake) for _ in range(2)]
        assert all(client.recv(1000).startswith(b"HTTP/1.1 101 ") for client in sockets)

        assert status_of(crowded.connect()) == 503

        for client in sockets:
            client.sendall(b"\x89\x80" + bytes(4))
            assert client.recv(1000) == b"\x8a\x00"
