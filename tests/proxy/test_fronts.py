"""The proxy behind nginx and behind HAProxy, each configured as the documentation shows."""

import asyncio
import contextlib
import http.client
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import psutil
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from tests.processes import HOST
from tests.waiting import PATIENCE, until

from .conftest import Origin, Proxy, start_proxy
from .fronts import FRONTS, address, program, started
from .recorder import Recorder, Seen, heard, statuses

pytestmark = pytest.mark.processes

TRUSTING = ("--trusted-proxy", HOST)
MIB = 1024 * 1024
GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood"
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n"
LAST = b"GET /last HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
AFTER = [f"/after-{number}" for number in range(3)]
CHUNKED = b"0\r\n\r\n" + SMUGGLED


@dataclass(frozen=True, kw_only=True)
class Chain:
    """A client's view of a front, and the proxy behind it."""

    port: int
    proxy: Proxy

    @property
    def url(self) -> str:
        return address(self.port)


StartChain = Callable[..., contextlib.AbstractContextManager[Chain]]


@pytest.fixture(params=FRONTS)
def front(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def chain(front: str, tmp_path: Path) -> StartChain:
    """Start a front, with the proxy behind it, in front of an upstream."""

    @contextlib.contextmanager
    def start(upstream: str, *flags: str, **changes: str) -> Iterator[Chain]:
        with start_proxy(tmp_path, upstream, *TRUSTING, *flags) as proxy:
            ports = {8080: port_of(proxy.url), 8081: port_of(proxy.health)}
            with started(front, tmp_path, ports, changes=changes) as port:
                yield Chain(port=port, proxy=proxy)

    return start


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    recorder = Recorder({"/good": GOOD, "/hinted": b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + GOOD})
    yield recorder
    recorder.close()


def port_of(url: str) -> int:
    return int(url.rsplit(":", 1)[1])


def asked(port: int, path: str, sender: str = HOST, **headers: str) -> bytes:
    """Ask from an address of loopback, and return all that is said."""
    lines = [f"GET {path} HTTP/1.1", "Connection: close", *(f"{name}: {value}" for name, value in headers.items())]
    with socket.create_connection((HOST, port), PATIENCE, source_address=(sender, 0)) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        said = b""
        while more := connection.recv(65536):
            said += more
    return said


def test_the_upstream_is_told_the_clients_own_address_and_host_and_no_claim(
    chain: StartChain, recorder: Recorder
) -> None:
    claims = {"X-Forwarded-For": "6.6.6.6", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "evil.example"}
    with chain(recorder.url) as behind:
        asked(
            behind.port,
            "/good",
            "127.0.0.2",
            Host="shop.example:8443",
            Forwarded="for=6.6.6.6;host=evil.example",
            **claims,
        )
    [seen] = requests(recorder)
    assert seen.values("host") == ["shop.example:8443"]
    assert seen.values("x-forwarded-host") == ["shop.example:8443"]
    assert seen.values("x-forwarded-proto") == ["http"]
    assert [value.split(",")[0] for value in seen.values("x-forwarded-for")] == ["127.0.0.2"]
    assert not [value for _, value in seen.headers if "6.6.6.6" in value or "evil" in value]


def requests(recorder: Recorder) -> list[Seen]:
    """Return what the upstream has seen but for checks."""
    return [seen for seen in recorder.taken() if not seen.line.startswith("OPTIONS ")]


def test_the_cap_of_a_client_counts_by_the_address_behind_the_front(chain: StartChain, recorder: Recorder) -> None:
    flags = ("--matcher", "header:x-session-id", "--max-sessions-per-client", "1")
    with chain(recorder.url, *flags) as behind:

        def status(sender: str, claimed: str) -> list[int]:
            return statuses(asked(behind.port, "/good", sender, Host="h", **{"X-Forwarded-For": claimed}))

        assert status("127.0.0.2", "1.1.1.1") == [200]
        assert status("127.0.0.2", "2.2.2.2") == [503]
        assert status("127.0.0.3", "1.1.1.1") == [200]


def test_connections_between_front_and_proxy_are_kept(chain: StartChain, recorder: Recorder) -> None:
    with chain(recorder.url) as behind, contextlib.closing(http.client.HTTPConnection(HOST, behind.port)) as client:
        used = set()
        for _ in range(5):
            client.request("GET", "/good")
            assert client.getresponse().read() == b"good"
            used |= clients_of(behind.proxy)
    assert len(used) == 1


def clients_of(proxy: Proxy) -> set[int]:
    """Return the remote ports of the connections that the proxy has with clients."""
    connections = psutil.Process(proxy.process.process.pid).net_connections("tcp")
    return {
        one.raddr.port
        for one in connections
        if one.status == psutil.CONN_ESTABLISHED and one.laddr.port == port_of(proxy.url)
    }


def test_an_event_passes_while_the_upstream_holds_the_next_one(chain: StartChain, origin: Origin) -> None:
    with (
        chain(origin.url) as behind,
        httpx2.stream("GET", f"{behind.url}/halting?held", trust_env=False, timeout=PATIENCE) as answer,
    ):
        parts = answer.iter_bytes()
        assert next(parts) == b"data: 1\n\n"
        origin.until("held", 1)
        origin.release()
        assert b"".join(parts) == b"data: 2 goes on\n\n"


def test_a_client_that_leaves_its_stream_at_the_front_is_noticed_at_the_back(chain: StartChain, origin: Origin) -> None:
    with chain(origin.url) as behind:
        with httpx2.stream("GET", f"{behind.url}/events", trust_env=False, timeout=PATIENCE) as answer:
            parts = answer.iter_bytes()
            next(parts)
            origin.until("streams", 1)
        origin.until_none("streams")


def test_a_websocket_passes_and_so_does_the_code_of_its_close(chain: StartChain, origin: Origin) -> None:
    async def story(port: int) -> None:
        async with connect(f"ws://{HOST}:{port}/echo", proxy=None, open_timeout=PATIENCE) as client:
            for message in ("text: ä", b"\x00\xff", "x" * MIB):
                await client.send(message)
                assert await client.recv() == message
            await client.send("close 4001")
            with pytest.raises(ConnectionClosed) as closed:
                await client.recv()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 4001

    with chain(origin.url) as behind:
        asyncio.run(asyncio.wait_for(story(behind.port), PATIENCE))


def test_large_bodies_pass_both_ways_with_a_length_and_in_chunks(chain: StartChain, origin: Origin) -> None:
    def parts() -> Iterator[bytes]:
        for _ in range(20):
            yield b"x" * MIB

    with chain(origin.url) as behind, httpx2.Client(trust_env=False, timeout=PATIENCE) as client:
        for body in (b"x" * 20 * MIB, parts()):
            assert client.post(f"{behind.url}/count", content=body).json() == {"size": 20 * MIB}
        assert len(client.get(f"{behind.url}/large?mib=20").content) == 20 * MIB


def test_a_client_that_waits_for_100_is_told_to_go_on(chain: StartChain, recorder: Recorder) -> None:
    with chain(recorder.url) as behind, socket.create_connection((HOST, behind.port), PATIENCE) as client:
        client.sendall(b"POST /good HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
        assert heard(client, b"\r\n\r\n").startswith(b"HTTP/1.1 100 ")
        client.sendall(b"a b c")
        assert statuses(heard(client, b"good")) == [200]
    assert [seen.body for seen in requests(recorder)] == [b"a b c"]


def test_hints_before_an_answer_leave_the_answer_alone(chain: StartChain, recorder: Recorder) -> None:
    with chain(recorder.url) as behind:
        assert statuses(asked(behind.port, "/hinted", Host="h"))[-1:] == [200]
        assert asked(behind.port, "/good", Host="h").endswith(b"good")


def test_an_answer_before_the_body_has_ended_reaches_the_client_at_once(chain: StartChain) -> None:
    with socket.create_server((HOST, 0)) as upstream:
        upstream.settimeout(PATIENCE)
        with (
            chain(address(upstream.getsockname()[1])) as behind,
            socket.create_connection((HOST, behind.port), PATIENCE) as client,
        ):
            client.sendall(b"POST /large HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 1000)
            with upstream.accept()[0] as back:
                back.settimeout(PATIENCE)
                heard(back, b"\r\n\r\n")
                back.sendall(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno")
                assert statuses(heard(client, b"no")) == [401]


@dataclass(frozen=True, kw_only=True)
class Together:
    """A front and a proxy for many byte strings, and the upstream that looks at what comes through."""

    port: int
    upstream: Recorder

    def said(self, raw: bytes) -> bytes:
        """Send bytes with a last request behind them, and return all that is said."""
        with socket.create_connection((HOST, self.port), PATIENCE) as connection:
            connection.sendall(raw + LAST)
            said = b""
            with contextlib.suppress(ConnectionResetError):
                while more := connection.recv(65536):
                    said += more
        return said


@pytest.fixture(scope="module", params=FRONTS)
def together(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Together]:
    own = {path: b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n" + path.encode() for path in AFTER}
    folder, upstream = tmp_path_factory.mktemp("together"), Recorder(own)
    with start_proxy(folder, upstream.url, *TRUSTING) as proxy:
        ports = {8080: port_of(proxy.url), 8081: port_of(proxy.health)}
        with started(request.param, folder, ports) as port:
            yield Together(port=port, upstream=upstream)
    upstream.close()


@pytest.mark.parametrize(
    "raw",
    [
        b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKED,
        b"POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n" + CHUNKED,
        b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nTransfer_Encoding: chunked\r\n\r\n" + CHUNKED[:5],
        b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % len(SMUGGLED) + SMUGGLED,
        b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\nContent-Length: %d\r\n\r\n" % len(SMUGGLED) + SMUGGLED,
        b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: +0\r\n\r\n" + SMUGGLED,
        b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 0, 41\r\n\r\n" + SMUGGLED,
        b"POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: xchunked\r\n\r\n" + CHUNKED,
        b"POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n\r\n" + CHUNKED,
        b"POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: identity\r\nContent-Length: %d\r\n\r\n" % len(SMUGGLED)
        + SMUGGLED,
        b"POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding:\x0bchunked\r\n\r\n" + CHUNKED,
        b"POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0;\nx\r\n\r\n" + SMUGGLED,
        b"POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000000\r\n" + SMUGGLED,
        b"GET /a HTTP/1.1\r\nHost: h\r\nX-A: b\rGET /smuggled HTTP/1.1\r\n\r\n",
        b"GET /a HTTP/1.1\r\nHost: h\r\nX-A: b\r\n GET /smuggled HTTP/1.1\r\n\r\n",
        b"GET /a HTTP/1.1\r\nHost: h\r\nHost: other\r\n\r\n",
        b"GET /a HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: %d\r\n\r\n"
        % len(SMUGGLED)
        + SMUGGLED,
        b"GET /a HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: %d\r\n\r\n"
        % len(SMUGGLED)
        + SMUGGLED,
    ],
)
def test_bytes_that_could_be_read_in_two_ways_are_read_alike_on_the_whole_way(together: Together, raw: bytes) -> None:
    answered = statuses(together.said(raw)).count(200)
    others = [asked(together.port, path, Host="h") for path in AFTER]
    seen = [one.line.split()[1] for one in requests(together.upstream)]

    assert [said.endswith(path.encode()) for said, path in zip(others, AFTER, strict=True)] == [True] * 3
    assert seen[-3:] == AFTER
    assert len(seen[:-3]) == answered
    assert seen[:-3] in ([], ["/a"], ["/last"], ["/a", "/last"], ["/a", "/smuggled", "/last"])


@pytest.mark.parametrize("check", ["option httpchk GET /healthz", "option httpchk"])
def test_haproxys_checks_find_the_proxy_well(tmp_path: Path, recorder: Recorder, check: str) -> None:
    plain = check == "option httpchk"
    changes = {"option httpchk GET /healthz": check, "check port 8081": "check"} if plain else {}
    with start_proxy(tmp_path, recorder.url, *TRUSTING) as proxy:
        ports = {8080: port_of(proxy.url), 8081: port_of(proxy.health)}
        with started("haproxy", tmp_path, ports, changes=changes) as port:
            if plain:
                checks = until(recorder.taken, bool)
                assert {(seen.line, *seen.values("host")) for seen in checks} == {
                    ("OPTIONS / HTTP/1.1", recorder.url.removeprefix("http://"))
                }
            assert asked(port, "/good", Host="h").endswith(b"good")


def test_haproxy_sends_nothing_more_once_the_proxy_says_that_it_shuts_down(tmp_path: Path, origin: Origin) -> None:
    with start_proxy(tmp_path, origin.url, *TRUSTING) as proxy:
        ports = {8080: port_of(proxy.url), 8081: port_of(proxy.health)}
        with (
            started("haproxy", tmp_path, ports) as port,
            httpx2.stream("GET", f"http://{HOST}:{port}/halting?held", trust_env=False, timeout=PATIENCE) as answer,
        ):
            parts = answer.iter_bytes()
            next(parts)
            proxy.process.process.terminate()
            until(lambda: statuses(asked(port, "/counts", Host="h")), lambda said: said == [503])
            origin.release()
            assert b"".join(parts) == b"data: 2 goes on\n\n"


@pytest.mark.parametrize(("ci", "outcome"), [("", "Skipped"), ("true", "Failed")])
def test_a_front_that_is_not_installed_skips_its_tests_and_fails_them_in_ci(
    monkeypatch: pytest.MonkeyPatch, ci: str, outcome: str
) -> None:
    monkeypatch.setenv("CI", ci)
    with pytest.raises(BaseException, match="this test needs no-such-front: apt-get install") as raised:
        program("no-such-front")
    assert type(raised.value).__name__ == outcome
