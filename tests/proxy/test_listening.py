"""Where the proxy listens, on TCP and on Unix sockets, and an upstream on a Unix socket, on both loops."""

import asyncio
import contextlib
import json
import re
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import uvloop
from websockets.asyncio.client import connect, unix_connect

from otel_sessions.proxy import Proxy as InProcess
from otel_sessions.proxy import Settings
from otel_sessions.proxy.door import Door
from tests.processes import HOST, Running, free_port, running_module, until_answers
from tests.waiting import PATIENCE, until

from .conftest import Origin, Proxy, StartProxy, start_proxy
from .recorder import OK, Recorder, statuses

pytestmark = [pytest.mark.processes, pytest.mark.no_cover]

ASK = b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n"
on_both_loops = pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
in_both_loops = pytest.mark.parametrize(
    "anyio_backend",
    [
        pytest.param(("asyncio", {"loop_factory": uvloop.new_event_loop}), id="uvloop"),
        pytest.param(("asyncio", {}), id="asyncio"),
    ],
)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder whose paths are short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="sessions-") as name:
        yield Path(name)


def over(path: Path) -> httpx2.Client:
    """Return a client over a Unix socket."""
    return httpx2.Client(transport=httpx2.HTTPTransport(uds=str(path)), timeout=PATIENCE)


def headers_of(answer: httpx2.Response) -> dict[str, str]:
    return dict(answer.json()["headers"])


def port_of(proxy: Proxy) -> int:
    return int(proxy.url.rsplit(":", 1)[1])


@on_both_loops
def test_each_listener_answers_and_the_log_names_them_with_the_ports_that_were_chosen(
    start: StartProxy, folder: Path, http: httpx2.Client, loop: str
) -> None:
    path = folder / "p"
    listeners = ("--listen", f"unix:{path}", "--listen", f"{HOST}:0")
    with start("--loop", loop, *listeners) as proxy:
        said = re.search(rf"listening on {HOST}:(\d+) and unix:{path} and {HOST}:(\d+), for ", proxy.process.said())
        assert said is not None
        assert said[1] == str(port_of(proxy))
        with over(path) as local:
            for answer in (
                http.get(f"http://{HOST}:{said[1]}/asked"),
                http.get(f"http://{HOST}:{said[2]}/asked"),
                local.get("http://h/asked"),
            ):
                assert answer.status_code == 200
        assert proxy.process.terminate() == 0
        assert not path.exists()


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="the system has no IPv6")
@on_both_loops
def test_the_address_of_all_serves_both_families_and_names_clients_of_ipv4_so(
    start: StartProxy, http: httpx2.Client, loop: str
) -> None:
    port = free_port()
    with start("--loop", loop, "--listen", f"[::]:{port}"):
        old, new = http.get(f"http://{HOST}:{port}/asked"), http.get(f"http://[::1]:{port}/asked")

    assert headers_of(old)["x-forwarded-for"] == HOST
    assert headers_of(new)["x-forwarded-for"] == "::1"


@on_both_loops
def test_all_listeners_together_have_one_limit_of_connections(start: StartProxy, folder: Path, loop: str) -> None:
    path = folder / "p"
    with (
        start("--loop", loop, "--max-connections", "2", "--listen", f"unix:{path}") as proxy,
        contextlib.ExitStack() as clients,
    ):

        def client(place: tuple[str, int] | str) -> socket.socket:
            made = clients.enter_context(socket.socket(socket.AF_UNIX if isinstance(place, str) else socket.AF_INET))
            made.settimeout(PATIENCE)
            made.connect(place)
            return made

        places: list[tuple[str, int] | str] = [(HOST, port_of(proxy)), str(path)]
        for place in places:
            streaming = client(place)
            streaming.sendall(b"GET /events HTTP/1.1\r\nHost: h\r\n\r\n")
            assert streaming.recv(1)  # it is under way, so that nobody else gets its place
        for place in places:
            assert statuses(client(place).recv(1000)) == [503]


@pytest.mark.anyio
@in_both_loops
async def test_a_flood_at_one_listener_keeps_nobody_waiting_at_another(
    anyio_backend: tuple[str, dict[str, Any]],
) -> None:
    flood, door = 300, None
    accepted: list[str] = []

    class Noted(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            accepted.append(str(transport.get_extra_info("sockname")))

    with contextlib.ExitStack() as sockets:
        listeners = [sockets.enter_context(socket.create_server((HOST, 0), backlog=flood)) for _ in range(2)]
        names = [str(listener.getsockname()) for listener in listeners]
        for _ in range(flood):
            sockets.enter_context(socket.create_connection(listeners[0].getsockname()))
        sockets.enter_context(socket.create_connection(listeners[1].getsockname()))
        try:
            door = Door(listeners, Noted, lambda: 0, lambda: False, flood * 2)
            async with asyncio.timeout(PATIENCE):
                while names[1] not in accepted:  # noqa: ASYNC110  # the door tells nobody
                    await asyncio.sleep(0)
        finally:
            assert door is not None
            door.close()
            await asyncio.sleep(0)

    assert accepted.count(names[0]) < flood / 2


@pytest.mark.anyio
@in_both_loops
async def test_listeners_that_accept_at_once_stay_within_their_limit(
    anyio_backend: tuple[str, dict[str, Any]],
) -> None:
    most, accepted = 5, 0

    class Counted(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            nonlocal accepted
            accepted += 1

    with contextlib.ExitStack() as sockets:
        listeners = [sockets.enter_context(socket.create_server((HOST, 0), backlog=20)) for _ in range(4)]
        clients = [
            sockets.enter_context(socket.create_connection(listener.getsockname(), PATIENCE))
            for listener in listeners
            for _ in range(10)
        ]
        door = Door(listeners, Counted, lambda: accepted, lambda: False, most)
        refused = 0
        for client in clients:
            client.setblocking(False)
        async with asyncio.timeout(PATIENCE):
            while accepted + refused < len(clients):
                await asyncio.sleep(0.01)
                refused = sum(map(is_refused, clients))
        door.close()
        await asyncio.sleep(0)

    assert accepted == most


def is_refused(client: socket.socket) -> bool:
    try:
        return client.recv(1000, socket.MSG_PEEK).startswith(b"HTTP/1.1 503")
    except BlockingIOError:
        return False


@pytest.mark.anyio
@in_both_loops
async def test_an_embedder_names_a_unix_socket_by_its_path(
    anyio_backend: tuple[str, dict[str, Any]], origin: Origin, folder: Path
) -> None:
    path = folder / "p"
    async with InProcess(Settings(upstream=origin.url, listen=(path, (HOST, 0)))) as proxy:
        assert proxy.addresses == (path, proxy.address)
        async with httpx2.AsyncClient(transport=httpx2.AsyncHTTPTransport(uds=str(path))) as http:
            assert (await http.get("http://h/asked")).status_code == 200
    assert not path.exists()
    async with InProcess(Settings(upstream=origin.url, listen=path)) as proxy:
        with pytest.raises(RuntimeError, match="on Unix sockets only"):
            _ = proxy.address


class TestSocketPath:
    """What may be at the path of a Unix socket."""

    def test_a_proxy_that_was_killed_leaves_a_path_that_the_next_one_takes(
        self, start: StartProxy, folder: Path
    ) -> None:
        path = folder / "p"
        with start("--listen", f"unix:{path}") as proxy:
            proxy.process.kill()
        assert path.is_socket()
        with start("--listen", f"unix:{path}"), over(path) as local:
            assert local.get("http://h/asked").status_code == 200

    def test_a_path_that_another_proxy_has_is_an_error_and_stays_with_it(
        self, start: StartProxy, folder: Path, tmp_path: Path
    ) -> None:
        path = folder / "p"
        flags = ("--upstream", "http://127.0.0.1:1", "--listen", f"unix:{path}")
        with start("--listen", f"unix:{path}"), over(path) as local:
            with running_module("cli", tmp_path, "proxy", *flags, name="other") as other:
                assert other.end() == 2
                assert f"otel-sessions: --listen unix:{path}: Address already in use" in other.said()
            assert local.get("http://h/asked").status_code == 200


async def headers_behind(path: Path, headers: dict[str, str]) -> dict[str, str]:
    """Return what headers a WebSocket's handshake has at the upstream."""
    async with unix_connect(str(path), "ws://h/echo", additional_headers=headers) as behind:
        await behind.send("headers")
        return dict(json.loads(await behind.recv()))


class TestUnixSocketClients:
    """Who connects over a Unix socket."""

    @on_both_loops
    @pytest.mark.parametrize("trusted", [(), ("--trusted-proxy", "unix"), ("--trusted-proxy", HOST)])
    def test_a_peer_on_a_unix_socket_is_trusted_only_if_unix_is(
        self, start: StartProxy, folder: Path, http: httpx2.Client, loop: str, trusted: tuple[str, ...]
    ) -> None:
        path = folder / "p"
        forged = {"x-forwarded-for": "203.0.113.7, 198.51.100.1", "x-forwarded-proto": "https"}
        with start("--loop", loop, "--listen", f"unix:{path}", *trusted) as proxy, over(path) as local:
            over_unix = headers_of(local.get("http://h/asked", headers=forged))
            over_tcp = headers_of(http.get(f"{proxy.url}/asked", headers=forged))
            upgraded = asyncio.run(headers_behind(path, forged))

        kept, dropped = ("203.0.113.7, 198.51.100.1", "https"), ("unknown", "http")
        expected = kept if "unix" in trusted else dropped
        assert (over_unix["x-forwarded-for"], over_unix["x-forwarded-proto"]) == expected
        assert (upgraded["x-forwarded-for"], upgraded["x-forwarded-proto"]) == expected
        assert over_tcp["x-forwarded-for"] == (f"{kept[0]}, {HOST}" if HOST in trusted else HOST)


@pytest.fixture
def local_origin(folder: Path, tmp_path: Path) -> Iterator[Path]:
    path = folder / "origin"
    with running_module("proxy.origin", tmp_path, str(path)) as process:
        until(lambda: answers(path, process), bool)
        yield path


def answers(path: Path, process: Running) -> bool:
    assert process.process.poll() is None, process.said()
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0


async def echo_once(proxy: Proxy) -> str | bytes:
    async with connect(f"{proxy.url.replace('http', 'ws')}/echo", proxy=None, open_timeout=PATIENCE) as client:
        await client.send("hello")
        return await client.recv()


class TestUnixSocketUpstreams:
    """An upstream that listens on a Unix socket."""

    @on_both_loops
    def test_an_upstream_on_a_unix_socket_gets_requests_and_websockets(
        self, local_origin: Path, tmp_path: Path, http: httpx2.Client, loop: str
    ) -> None:
        with start_proxy(tmp_path, f"unix:{local_origin}", "--loop", loop) as proxy:
            passed = http.get(f"{proxy.url}/asked?a=b", headers={"host": "app.example"})
            echoed = asyncio.run(echo_once(proxy))
            assert f"for unix:{local_origin}" in proxy.process.said()

        assert headers_of(passed)["host"] == "app.example"
        assert passed.json()["query"] == "a=b"
        assert echoed == "hello"

    @on_both_loops
    def test_an_upstream_on_a_unix_socket_is_localhost_to_itself(self, folder: Path, tmp_path: Path, loop: str) -> None:
        location = b"HTTP/1.1 302 Found\r\nlocation: http://localhost/there\r\ncontent-length: 0\r\n\r\n"
        upstream = Recorder({"/here": location}, folder / "u")
        flags = ("--loop", loop, "--rewrite-host", "--allow-host", "app.example")
        with (
            start_proxy(tmp_path, upstream.url, *flags) as proxy,
            httpx2.Client(trust_env=False, timeout=PATIENCE) as http,
        ):
            answer = http.get(f"{proxy.url}/here", headers={"host": "app.example"}, timeout=PATIENCE)
        upstream.close()

        [seen] = upstream.taken()
        assert seen.values("host") == ["localhost"]
        assert answer.headers["location"] == "http://app.example/there"

    @on_both_loops
    def test_an_upstream_whose_path_is_not_there_is_a_502(self, folder: Path, tmp_path: Path, loop: str) -> None:
        with start_proxy(tmp_path, f"unix:{folder / 'no'}", "--loop", loop) as proxy:
            with httpx2.Client(trust_env=False, timeout=PATIENCE) as http:
                gone = http.get(f"{proxy.url}/x", timeout=PATIENCE)
            upstream = Recorder({"/x": OK}, folder / "no")
            until_answers(f"{proxy.url}/x", proxy.process)
            upstream.close()
            said = proxy.process.said()

        assert gone.status_code == 502
        assert "FileNotFoundError" in said
        assert "Traceback" not in said
