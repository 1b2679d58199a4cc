"""TLS at the front and towards the upstream, with real clients and real certificates, on both loops."""

import asyncio
import contextlib
import socket
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
import trustme
import uvloop
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from otel_sessions._commands import run as command
from otel_sessions.proxy import Proxy as InProcess
from otel_sessions.proxy import Settings
from tests.processes import HOST, free_port, running_module, until_listens
from tests.waiting import NEVER, PATIENCE, until

from .certificates import Files, issued, trusting, written
from .conftest import Origin, Proxy, start_proxy
from .readers import Reading, read_slowly
from .recorder import Recorder, statuses

pytestmark = [pytest.mark.processes, pytest.mark.no_cover]

AUTHORITY = trustme.CA()
TRUSTING = trusting(AUTHORITY)
LARGE = 16 * 1024 * 1024
IDLE = 5
"""Seconds: the deadline of clients and upstreams that are idle, where a test waits for it."""
ASK = b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n"
ANSWERS = {"/large": b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % LARGE + bytes(LARGE)}
LAST = b"GET /large HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
HELLO = bytes.fromhex("16030102000100")
"""The beginning of a ClientHello of 512 bytes."""
on_both_loops = pytest.mark.parametrize("loop", ["uvloop", "asyncio"])


@dataclass(frozen=True, kw_only=True)
class Front:
    """A proxy with TLS."""

    proxy: Proxy

    @property
    def port(self) -> int:
        return int(self.proxy.url.rsplit(":", 1)[1])

    @property
    def url(self) -> str:
        return self.proxy.url.replace("http://", "https://")

    def bare(self) -> socket.socket:
        """Return a connection without a handshake."""
        return socket.create_connection((HOST, self.port), PATIENCE)

    def client(self) -> ssl.SSLSocket:
        """Return a connection whose end must come with a goodbye."""
        return TRUSTING.wrap_socket(self.bare(), server_hostname=HOST, suppress_ragged_eofs=False)

    def said(self, *parts: bytes) -> bytes:
        """Send each part in a record of its own, and return all that is said until the goodbye."""
        with self.client() as client:
            for part in parts:
                client.sendall(part)
            return b"".join(iter(lambda: client.recv(65536), b""))

    def get(self, path: str, **headers: str) -> httpx2.Response:
        with httpx2.Client(verify=TRUSTING, trust_env=False, timeout=PATIENCE) as http:
            return http.get(f"{self.url}{path}", headers=headers)


@contextlib.contextmanager
def fronted(folder: Path, upstream: str, *flags: str) -> Iterator[Front]:
    with start_proxy(folder, upstream, *written(folder, issued(AUTHORITY)).flags, *flags) as proxy:
        yield Front(proxy=proxy)


@pytest.fixture(scope="module", params=["uvloop", "asyncio"])
def front(request: pytest.FixtureRequest, origin: Origin, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    """A proxy whose deadlines never come."""
    patient = ("--head-timeout", NEVER, "--idle-timeout", NEVER, "--matcher", "cookie", "--max-body", "2000000")
    with fronted(tmp_path_factory.mktemp("front"), origin.url, "--loop", request.param, *patient) as front:
        yield front
        assert front.proxy.process.terminate() == 0
        assert "Traceback" not in front.proxy.process.said()


@pytest.fixture(scope="module", params=["uvloop", "asyncio"])
def hasty(request: pytest.FixtureRequest, origin: Origin, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    """A proxy that leaves a client early in its handshake, and nobody needs to end one."""
    flags = ("--loop", request.param, "--head-timeout", "1")
    with fronted(tmp_path_factory.mktemp("hasty"), origin.url, *flags) as front:
        yield front
        assert "Traceback" not in front.proxy.process.said()


@pytest.fixture(scope="module", params=["uvloop", "asyncio"])
def stuck(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    """A proxy that leaves a client early that takes nothing."""
    upstream, flags = Recorder(ANSWERS), ("--loop", request.param, "--head-timeout", NEVER, "--idle-timeout", str(IDLE))
    with fronted(tmp_path_factory.mktemp("stuck"), upstream.url, *flags) as front:
        yield front
        assert "Traceback" not in front.proxy.process.said()
    upstream.close()


class TestWhatPasses:
    """What passes through TLS."""

    def test_requests_pass_and_are_known_to_have_come_over_tls(self, front: Front) -> None:
        answer = front.get("/asked")
        headers = dict(answer.json()["headers"])

        assert headers["x-forwarded-proto"] == "https"
        assert headers["x-forwarded-for"] == HOST
        assert "; Secure" in answer.headers["set-cookie"]

    def test_the_protocol_is_http_1_1_under_tls_1_3(self, front: Front) -> None:
        offering = trusting(AUTHORITY)
        offering.set_alpn_protocols(["h2", "http/1.1"])
        with offering.wrap_socket(front.bare(), server_hostname=HOST) as client:
            assert (client.version(), client.selected_alpn_protocol()) == ("TLSv1.3", "http/1.1")

    def test_large_bodies_pass_both_ways(self, front: Front) -> None:
        with httpx2.Client(verify=TRUSTING, trust_env=False, timeout=PATIENCE) as http:
            assert http.post(f"{front.url}/count", content=bytes(1_500_000)).json() == {"size": 1_500_000}
            assert len(http.get(f"{front.url}/large?mib=20").content) == 20 * 1024 * 1024

    def test_websockets_pass(self, front: Front) -> None:
        async def story() -> None:
            url = front.url.replace("https", "wss")
            async with connect(f"{url}/echo", ssl=TRUSTING, proxy=None, max_size=None, open_timeout=PATIENCE) as client:
                for message in ("hello", b"x" * 1_000_000):
                    await client.send(message)
                    assert await client.recv() == message

        asyncio.run(asyncio.wait_for(story(), PATIENCE))


def status_or_none(front: Front) -> int | None:
    try:
        return front.get("/asked").status_code
    except httpx2.HTTPError:
        return None


class TestLeavingClients:
    """Clients that leave, or never come."""

    @pytest.mark.parametrize("goodbye", [True, False])
    def test_a_client_that_leaves_is_heard_with_or_without_a_goodbye(
        self, front: Front, origin: Origin, goodbye: bool
    ) -> None:
        client = front.client()
        client.sendall(b"GET /never HTTP/1.1\r\nHost: h\r\n\r\n")
        origin.until("waiting", 1)
        if goodbye:
            client.setblocking(False)
            with contextlib.suppress(ssl.SSLWantReadError):
                client.unwrap()
        client.close()

        origin.until_none("waiting")

    @pytest.mark.parametrize(
        "said",
        [ASK, b"hello\r\n\r\n", b"\x16\x03\x01" + b"\xff" * 100, bytes(100), b""],
        ids=["http", "text", "a bad record", "zeros", "nothing"],
    )
    def test_what_is_no_tls_is_closed_without_a_traceback(self, front: Front, said: bytes) -> None:
        with front.bare() as client, contextlib.suppress(ConnectionResetError):
            client.sendall(said)
            if not said:
                client.shutdown(socket.SHUT_WR)
            while client.recv(1000):
                pass

        assert front.get("/asked").status_code == 200
        assert "Traceback" not in front.proxy.process.said()

    def test_clients_that_stall_in_their_handshake_keep_nobody_waiting(self, front: Front) -> None:
        with contextlib.ExitStack() as stalled:
            for number in range(40):
                client = stalled.enter_context(front.bare())
                client.sendall(HELLO[: number % len(HELLO)])
            for _ in range(3):
                assert front.get("/asked").status_code == 200

    @pytest.mark.parametrize("said", [b"", HELLO[:3], HELLO])
    def test_a_handshake_that_stalls_is_ended_by_the_deadline_of_heads(self, hasty: Front, said: bytes) -> None:
        with hasty.bare() as client:
            client.sendall(said)
            with contextlib.suppress(ConnectionResetError):
                assert client.recv(1000) == b""

    def test_a_handshake_that_drips_is_ended_by_the_deadline_of_heads(self, hasty: Front) -> None:
        end = time.monotonic() + PATIENCE
        with hasty.bare() as client, contextlib.suppress(ConnectionError):
            client.sendall(HELLO)
            while time.monotonic() < end:
                client.sendall(b"x")
                time.sleep(0.2)
            pytest.fail("the connection stays open")

    @on_both_loops
    def test_handshakes_count_as_connections_until_they_end(self, tmp_path: Path, origin: Origin, loop: str) -> None:
        flags = ("--loop", loop, "--head-timeout", NEVER, "--max-connections", "2")
        with fronted(tmp_path, origin.url, *flags) as front:
            with front.bare(), front.bare(), front.bare() as third, contextlib.suppress(ConnectionResetError):
                assert third.recv(1000) == b""
            until(lambda: status_or_none(front), lambda status: status == 200)

            assert "--max-connections" in front.proxy.process.said()

    @on_both_loops
    def test_handshakes_that_are_under_way_do_not_hold_up_the_end(
        self, tmp_path: Path, origin: Origin, loop: str
    ) -> None:
        with fronted(tmp_path, origin.url, "--loop", loop, "--head-timeout", NEVER) as front:
            with front.bare() as silent, front.bare() as begun, front.client() as idle:
                begun.sendall(HELLO)
                idle.sendall(b"GET /asked HTTP/1.1\r\nHost: h\r\n\r\n")
                assert idle.recv(4096).startswith(b"HTTP/1.1 200")

                assert front.proxy.process.terminate() == 0
                for client in (silent, begun):
                    with contextlib.suppress(ConnectionResetError):
                        assert client.recv(1000) == b""
            assert "Traceback" not in front.proxy.process.said()


def is_connected(front: Front, client: socket.socket) -> bool:
    """Return whether the proxy's side of a connection is there."""
    there = client.getsockname()
    open_now = psutil.Process(front.proxy.process.process.pid).net_connections("tcp")
    return there[1] in [one.raddr[1] for one in open_now if len(one.raddr)]


class TestEndOfAConnection:
    """How a connection with TLS ends."""

    @pytest.mark.parametrize(
        ("parts", "answers"),
        [
            ([ASK[:-2] + b"Connection: close\r\n\r\n"], [200]),
            ([ASK, ASK[:-2] + b"Connection: close\r\n\r\n"], [200, 200]),
            ([b"POST /../x HTTP/1.1\r\nHost: h\r\nContent-Length: 400000\r\n\r\nab"], [400]),
            ([b"NONSENSE\r\n\r\n"], [400]),
        ],
        ids=lambda value: repr(value)[:60],
    )
    def test_a_connection_that_the_proxy_ends_ends_with_a_goodbye(
        self, front: Front, parts: list[bytes], answers: list[int]
    ) -> None:
        assert statuses(front.said(*parts)) == answers

    def test_a_client_that_still_sends_gets_the_answer_that_refuses_it(self, front: Front) -> None:
        with front.client() as client:
            client.sendall(b"POST /count HTTP/1.1\r\nHost: h\r\nContent-Length: 90000000\r\n\r\n")
            with contextlib.suppress(OSError):
                for _ in range(20):
                    client.sendall(bytes(65536))

            assert statuses(client.recv(65536)) == [413]

    def test_a_client_that_does_not_read_its_answer_is_left(self, stuck: Front) -> None:
        with stuck.client() as client:
            client.sendall(LAST)

            until(lambda: is_connected(stuck, client), lambda still: not still)

    def test_a_client_that_reads_slowly_gets_all_of_its_answer(self, stuck: Front) -> None:
        """For longer than any deadline, most of it after the proxy has written everything."""

        def read() -> Reading:
            with stuck.client() as client:
                client.sendall(LAST)
                return read_slowly(client, 65536, lambda size: 0.5 if size > LARGE - 1_000_000 else 0.0)

        assert until(read, lambda reading: reading.longest < IDLE / 2).size > LARGE


def answers(http: httpx2.Client, front: Front) -> bool:
    with contextlib.suppress(httpx2.HTTPError):
        return http.get(f"{front.url}/asked").status_code == 200
    return False


class TestNewCertificate:
    """A new certificate is used without a restart."""

    @pytest.mark.anyio
    @pytest.mark.parametrize(
        "anyio_backend",
        [
            pytest.param(("asyncio", {"loop_factory": uvloop.new_event_loop}), id="uvloop"),
            pytest.param(("asyncio", {}), id="asyncio"),
        ],
    )
    async def test_a_new_certificate_is_for_new_connections_and_drops_no_other(
        self, anyio_backend: tuple[str, dict[str, Any]], origin: Origin, tmp_path: Path
    ) -> None:
        files, other = written(tmp_path, issued(AUTHORITY)), trustme.CA()
        cert, key = str(files.cert), str(files.key)
        async with InProcess(Settings(upstream=origin.url, listen=(HOST, 0), tls_cert=cert, tls_key=key)) as proxy:
            assert proxy._certificate is not None
            reader, writer = await asyncio.open_connection(*proxy.address, ssl=TRUSTING, server_hostname=HOST)
            files.replace(issued(other))
            for _ in range(2):
                proxy._certificate.look()
            with pytest.raises(ssl.SSLCertVerificationError):
                await asyncio.open_connection(*proxy.address, ssl=TRUSTING, server_hostname=HOST)
            new, closing = await asyncio.open_connection(*proxy.address, ssl=trusting(other), server_hostname=HOST)
            for stream, sink in ((reader, writer), (new, closing)):
                sink.write(b"GET /asked HTTP/1.1\r\nHost: h\r\n\r\n")
                assert (await stream.readline()).startswith(b"HTTP/1.1 200")
                sink.transport.abort()

    @on_both_loops
    def test_files_are_read_again_by_a_proxy_that_runs(self, tmp_path: Path, origin: Origin, loop: str) -> None:
        files, other = written(tmp_path, issued(AUTHORITY)), trustme.CA()
        with start_proxy(tmp_path, origin.url, *files.flags, "--loop", loop) as proxy:
            front = Front(proxy=proxy)
            assert front.get("/asked").status_code == 200
            files.replace(issued(other))
            with httpx2.Client(verify=trusting(other), trust_env=False, timeout=PATIENCE) as http:
                until(lambda: answers(http, front), bool)

            assert f"read again from {files.cert}" in proxy.process.said()


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return written(tmp_path, issued(AUTHORITY))


class TestSettings:
    """Settings of TLS that are wrong."""

    @pytest.mark.parametrize(
        ("flags", "says"),
        [
            (["--tls-cert", "CERT"], "--tls-cert needs --tls-key"),
            (["--tls-key", "KEY"], "--tls-key needs --tls-cert"),
            (["--tls-cert", "CERT", "--tls-key", "KEY", "--listen", "unix:a"], "--tls-cert needs a --listen HOST:PORT"),
            (["--tls-cert", "KEY", "--tls-key", "CERT"], "--tls-cert KEY: the file has no certificate in PEM"),
            (["--tls-cert", "/no", "--tls-key", "KEY"], "--tls-cert /no: No such file or directory"),
            (["--tls-cert", "CERT", "--tls-key", "/no"], "--tls-key /no: No such file or directory"),
            (["--upstream-ca", "CERT"], "--upstream-ca needs an --upstream that starts with https://"),
            (["--upstream", "https://h", "--upstream-ca", "/no"], "--upstream-ca /no: No such file or directory"),
            (["--upstream", "https://h", "--upstream-ca", "/"], "--upstream-ca /: Is a directory"),
            (["--upstream", "https://h", "--upstream-ca", "/dev/null"], "the file has no certificate in PEM"),
            (["--upstream", "https://h", "--upstream-ca", "KEY"], "the file has no certificate in PEM"),
            (["--upstream", "unix:"], "--upstream: takes a path after unix:"),
            (["--upstream", "ftp://h"], "--upstream: takes a URL that starts with http:// or https://, or unix:PATH"),
            (["--listen", "unix:"], "--listen: takes a path after unix:, not unix:"),
            (["--listen", "unix:/"], "--listen unix:/: the path is there, and is no socket"),
            (["--listen", "h:1", "--listen", "8080"], "--listen: takes HOST:PORT or unix:PATH"),
            (["--health", "unix:/a"], "--health: takes HOST:PORT"),
            (["--admin", "unix:/a"], "no Unix socket for it, and TLS belongs in front of it"),
            (["--admin", "https://127.0.0.1:1"], "TLS belongs in front of it"),
        ],
        ids=lambda value: " ".join(value) if isinstance(value, list) else "",
    )
    def test_a_wrong_setting_is_named_and_leaves_nothing_behind(
        self,
        files: Files,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
        flags: list[str],
        says: str,
    ) -> None:
        monkeypatch.setattr("logging.basicConfig", lambda **_: None)  # it would stay for the tests after this
        monkeypatch.chdir(files.cert.parent)
        paths = {"CERT": str(files.cert), "KEY": str(files.key)}
        usual = [] if "--listen" in flags else ["--listen", f"{HOST}:0", "--listen", "unix:p"]
        given = [paths.get(flag, flag) for flag in flags]
        try:
            status: object = command(["proxy", "--upstream", "http://h", *usual, *given])
        except SystemExit as error:
            status = error.code

        assert status == 2
        for name, path in paths.items():
            says = says.replace(name, path)
        assert says in capsys.readouterr().err
        assert not Path("p").exists()


def upstream_of(authority: trustme.CA, name: str = HOST) -> Recorder:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return Recorder({}, tls=context)


class TestUpstreamBehindTLS:
    """An upstream that speaks TLS."""

    @on_both_loops
    @pytest.mark.parametrize(
        ("name", "known", "system", "status", "why"),
        [
            (HOST, True, False, 200, ""),
            (HOST, True, True, 200, ""),
            (HOST, False, True, 502, "unable to get local issuer certificate"),
            ("other.example", True, False, 502, "IP address mismatch, certificate is not valid for '127.0.0.1'"),
        ],
    )
    def test_an_upstream_is_checked_against_the_authorities_that_are_given(
        self,
        tmp_path: Path,
        http: httpx2.Client,
        loop: str,
        name: str,
        known: bool,
        system: bool,
        status: int,
        why: str,
    ) -> None:
        """And the authorities of the system count no more."""
        upstream, file, ours = upstream_of(AUTHORITY, name), tmp_path / "ca.pem", tmp_path / "system.pem"
        (AUTHORITY if known else trustme.CA()).cert_pem.write_to_path(file)
        (AUTHORITY if system else trustme.CA()).cert_pem.write_to_path(ours)
        flags = ("--loop", loop, "--upstream-ca", str(file))
        with start_proxy(tmp_path, upstream.url, *flags, SSL_CERT_FILE=str(ours)) as proxy:
            answer = http.get(f"{proxy.url}/x", headers={"authorization": "Bearer secret"})
            said = proxy.process.said()
        upstream.close()

        assert answer.status_code == status
        assert why in said
        assert "Traceback" not in said
        assert "secret" not in said

    @on_both_loops
    def test_websockets_to_the_upstream_use_the_same_authorities(self, tmp_path: Path, loop: str) -> None:
        authority, port = trustme.CA(), free_port()
        authority.cert_pem.write_to_path(tmp_path / "ca.pem")
        trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
        authority.issue_cert(HOST).private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")

        async def echo_once(proxy: Proxy) -> str | bytes:
            async with connect(f"{proxy.url.replace('http', 'ws')}/echo", proxy=None, open_timeout=PATIENCE) as client:
                await client.send("hello")
                return await client.recv()

        with running_module("proxy.origin", tmp_path, str(port), str(tmp_path / "server.pem")) as server:
            until_listens(port, server)
            url = f"https://{HOST}:{port}"
            with start_proxy(tmp_path, url, "--loop", loop, "--upstream-ca", str(tmp_path / "ca.pem")) as proxy:
                assert asyncio.run(echo_once(proxy)) == "hello"
            with start_proxy(tmp_path, url, "--loop", loop, "--upstream-ca", str(tmp_path / "other.pem")) as proxy:
                with pytest.raises(InvalidStatus, match="502"):
                    asyncio.run(echo_once(proxy))
                said = proxy.process.said()

        assert "handshake with the upstream failed: SSLCertVerificationError, " in said
        assert "Traceback" not in said
