"""Several proxies in front of one upstream, each a process of its own: any of them finds every session."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import trustme
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.exchanges import INITIALIZE
from tests.processes import HOST, clean_environ
from tests.waiting import PATIENCE

from .certificates import issued, written
from .conftest import Origin, Proxy, start_origin
from .fleets import Fleet, start_fleet

pytestmark = pytest.mark.processes

MCP = {"content-type": "application/json", "accept": "application/json, text/event-stream"}


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Origin]:
    """An origin of these tests' own: what is killed here leaves sessions behind, which other tests would count."""
    with start_origin(tmp_path_factory.mktemp("origin")) as origin:
        yield origin


@pytest.fixture(scope="module")
def fleet(origin: Origin, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with start_fleet(tmp_path_factory.mktemp("fleet"), origin.url) as fleet:
        yield fleet


def address_of_peers(folder_of: Proxy, name: str) -> str:
    """Return where the peers' own listener of a process is."""
    lines = (folder_of.process.log.parent / "peers").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines)[name]


def opened(http: httpx2.Client, proxy: Proxy) -> str:
    answer = http.post(f"{proxy.url}/mcp", content=INITIALIZE, headers=MCP)
    assert answer.status_code == 200
    return str(answer.headers["mcp-session-id"])


def used(http: httpx2.Client, proxy: Proxy, session_id: str) -> httpx2.Response:
    headers = {**MCP, "mcp-session-id": session_id}
    return http.post(f"{proxy.url}/mcp", content=b'{"jsonrpc":"2.0","id":1,"method":"tools/list"}', headers=headers)


def test_an_mcp_session_is_found_from_every_proxy_and_ended_at_the_upstream(
    fleet: Fleet, origin: Origin, http: httpx2.Client
) -> None:
    before = origin.counts()["sessions"]
    ids = {name: opened(http, proxy) for name, proxy in fleet.items()}
    for name, session_id in ids.items():
        assert session_id.startswith(f"{name}.")
        for proxy in fleet.values():
            answer = used(http, proxy, session_id)
            assert (answer.status_code, answer.json()) == (200, {"result": "used"})
    assert origin.counts()["sessions"] == before + 2
    for name, proxy in (("w1", fleet["w2"]), ("w2", fleet["w1"])):
        ended = http.delete(f"{proxy.url}/mcp", headers={"mcp-session-id": ids[name]})
        assert ended.status_code == 204
        fleet[name].until_active(0)
    assert origin.counts()["sessions"] == before


def test_the_upstream_sees_the_clients_address_and_no_trace_of_the_peer(
    origin: Origin, tmp_path: Path, http: httpx2.Client
) -> None:
    trusting = ("--trusted-proxy", HOST, "--matcher", "header:x-id")
    with start_fleet(tmp_path, origin.url, ("w1", "w2"), *trusting) as fleet:
        session_id = http.get(f"{fleet['w1'].url}/a").headers["x-id"]
        headers = {"x-id": session_id, "x-forwarded-for": "192.0.2.7", "x-forwarded-proto": "https"}
        said = [http.get(f"{proxy.url}/a%2F?b=", headers=headers).json() for proxy in fleet.values()]
        for one in said:
            one["headers"] = [[key, value] for key, value in one["headers"] if key not in ("host", "x-forwarded-host")]
        assert said[0] == said[1]
        assert ["x-forwarded-for", f"192.0.2.7, {HOST}"] in said[1]["headers"]
        assert ["x-forwarded-proto", "https"] in said[1]["headers"]


def test_an_event_stream_and_a_websocket_pass_through_the_wrong_proxy(origin: Origin, tmp_path: Path) -> None:
    with (
        start_fleet(tmp_path, origin.url, ("w1", "w2"), "--matcher", "cookie") as fleet,
        httpx2.Client(trust_env=False, timeout=PATIENCE) as http,
    ):
        cookie = http.get(f"{fleet['w1'].url}/a").headers["set-cookie"].partition(";")[0]
        http.cookies.clear()
        with http.stream("GET", f"{fleet['w2'].url}/events", headers={"cookie": cookie}) as stream:
            assert next(stream.iter_lines()) == "id: 1"
        url = f"ws{fleet['w2'].url.removeprefix('http')}/echo"
        with connect(url, additional_headers={"cookie": cookie}, proxy=None, open_timeout=PATIENCE) as socket:
            assert isinstance(socket, ClientConnection)
            socket.send("x" * 100_000)
            assert socket.recv() == "x" * 100_000
        assert fleet["w1"].said_of_itself()["created"] == 1
        assert fleet["w2"].said_of_itself()["created"] == 0


def tls_of(folder: Path, authority: trustme.CA, trusted: trustme.CA) -> list[str]:
    """Return the flags of a fleet whose certificates an authority has issued, and which trusts an authority."""
    files = written(folder, issued(authority))
    trusted.cert_pem.write_to_path(str(folder / "ca.pem"))
    return ["--peer-tls-cert", str(files.cert), "--peer-tls-key", str(files.key), "--peer-ca", str(folder / "ca.pem")]


def test_peers_pass_on_over_tls_and_take_nothing_without_it(origin: Origin, tmp_path: Path) -> None:
    authority = trustme.CA()
    flags = ("--matcher", "cookie", *tls_of(tmp_path, authority, authority))
    with (
        start_fleet(tmp_path, origin.url, ("w1", "w2"), *flags, scheme="https") as fleet,
        httpx2.Client(trust_env=False, timeout=PATIENCE) as http,
    ):
        cookie = http.get(f"{fleet['w1'].url}/a").headers["set-cookie"].partition(";")[0]
        http.cookies.clear()
        assert "set-cookie" not in http.get(f"{fleet['w2'].url}/a", headers={"cookie": cookie}).headers
        with connect(
            f"ws{fleet['w2'].url.removeprefix('http')}/echo",
            additional_headers={"cookie": cookie},
            proxy=None,
            open_timeout=PATIENCE,
        ) as socket:
            socket.send("hello")
            assert socket.recv() == "hello"
        assert fleet["w2"].said_of_itself()["created"] == 0
        with pytest.raises(httpx2.TransportError):
            http.get(address_of_peers(fleet["w1"], "w1").replace("https", "http"))


def test_a_peer_whose_certificate_is_not_trusted_is_503(origin: Origin, tmp_path: Path, http: httpx2.Client) -> None:
    flags = tls_of(tmp_path, trustme.CA(), trustme.CA())
    with start_fleet(tmp_path, origin.url, ("w1", "w2"), *flags, scheme="https") as fleet:
        session_id = opened(http, fleet["w1"])
        assert used(http, fleet["w2"], session_id).status_code == 503
        assert used(http, fleet["w1"], session_id).status_code == 200


@pytest.mark.parametrize("forged", ["w1.forged", "w9.forged", "forged", ".forged"])
def test_a_forged_hint_is_404(fleet: Fleet, http: httpx2.Client, forged: str) -> None:
    assert used(http, fleet["w2"], forged).status_code == 404


def test_a_client_cannot_send_the_header_of_peers(fleet: Fleet, http: httpx2.Client) -> None:
    answer = http.get(f"{fleet['w1'].url}/a", headers={"otel-sessions-fleet": "x"})
    assert answer.status_code == 200
    assert "otel-sessions-fleet" not in {name for name, _ in answer.json()["headers"]}


@pytest.mark.parametrize("headers", [{}, {"otel-sessions-fleet": "x"}, {"otel-sessions-fleet": "x.y"}])
def test_the_address_of_peers_takes_only_what_they_sign(
    fleet: Fleet, http: httpx2.Client, headers: dict[str, str]
) -> None:
    session_id = opened(http, fleet["w1"])
    private = address_of_peers(fleet["w1"], "w1")
    answer = http.post(f"{private}/mcp", content=INITIALIZE, headers={**MCP, "mcp-session-id": session_id, **headers})
    assert answer.status_code == 403
    with pytest.raises(InvalidStatus) as refused:
        connect(f"ws{private.removeprefix('http')}/echo", additional_headers=headers, proxy=None, open_timeout=PATIENCE)
    assert refused.value.response.status_code == 403


def test_sessions_of_a_killed_process_are_404_and_the_others_go_on(
    origin: Origin, tmp_path: Path, http: httpx2.Client
) -> None:
    with start_fleet(tmp_path, origin.url, ("w1", "w2", "w3")) as fleet:
        lost, kept = opened(http, fleet["w1"]), opened(http, fleet["w3"])
        assert used(http, fleet["w2"], lost).status_code == 200
        fleet["w1"].process.kill()
        assert used(http, fleet["w2"], lost).status_code == 404
        assert used(http, fleet["w2"], kept).status_code == 200


def test_sessions_of_a_stopped_process_are_503_until_it_goes_on(
    origin: Origin, tmp_path: Path, http: httpx2.Client
) -> None:
    with start_fleet(tmp_path, origin.url) as fleet:
        session_id = opened(http, fleet["w1"])
        fleet["w1"].process.pause()
        answer = used(http, fleet["w2"], session_id)
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) > 0
        fleet["w1"].process.resume()
        assert used(http, fleet["w2"], session_id).status_code == 200


def test_a_head_of_the_largest_size_passes_through_the_wrong_proxy(fleet: Fleet, http: httpx2.Client) -> None:
    session_id = opened(http, fleet["w1"])
    headers = {**MCP, "mcp-session-id": session_id, "x-large": "x" * 65_000}
    for proxy in fleet.values():
        assert http.post(f"{proxy.url}/mcp", content=b"{}", headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--peer-name", "w1"], "--peer-name needs --peers, --peers-file, --peers-dns or --fleet"),
        (["--peer-listen", "127.0.0.1:0"], "--peer-listen needs --peers"),
        (["--peer-ca", "x"], "--peer-ca needs --peers"),
        (
            [
                *("--peers-dns", "http://h:1", "--peer-secret-file", "x", "--peer-listen", "127.0.0.1:0"),
                *("--peer-tls-cert", "x"),
            ],
            "--peer-tls-cert needs --peer-tls-key",
        ),
        (
            [
                *("--peers-dns", "http://h:1", "--peer-secret-file", "x", "--peer-listen", "unix:/nowhere/x"),
                *("--peer-tls-cert", "x", "--peer-tls-key", "x"),
            ],
            "--peer-tls-cert needs a --peer-listen HOST:PORT",
        ),
        (
            [
                *("--peers-dns", "http://h:1", "--peer-secret-file", __file__, "--peer-listen", "127.0.0.1:0"),
                *("--peer-tls-cert", "/nowhere/cert", "--peer-tls-key", "x"),
            ],
            "--peer-tls-cert /nowhere/cert",
        ),
        (
            [
                *("--peers-dns", "http://h:1", "--peer-secret-file", __file__, "--peer-listen", "127.0.0.1:0"),
                *("--peer-ca", "/nowhere/ca"),
            ],
            "--peer-ca /nowhere/ca",
        ),
        (["--peers", "w1=http://x"], "a fleet needs --peer-listen"),
        (["--peers", "w1=http://x", "--peer-listen", "127.0.0.1:0"], "a fleet needs --peer-secret-file"),
        (["--peers", "w1=http://x", "--peers-file", "x"], "give one of them"),
        (["--peers", "w1"], "argument --peers: takes a process and its address"),
        (["--peers-dns", "unix:/x"], "argument --peers-dns: takes a URL"),
        (["--peer-name", "w.1"], "argument --peer-name: takes 1 to 32 letters"),
        (
            ["--peers", "w1=http://x", "--peer-listen", "127.0.0.1:0", "--peer-secret-file", "/nowhere/secret"],
            "a list of peers needs --peer-name",
        ),
        (
            [
                *("--peers", "w1=http://x", "--peer-listen", "127.0.0.1:0", "--peer-secret-file", "/nowhere/secret"),
                *("--peer-name", "w1"),
            ],
            "/nowhere/secret cannot be read",
        ),
        (
            [
                *("--peers-file", "/nowhere/peers", "--peer-listen", "127.0.0.1:0", "--peer-secret-file", "x"),
                *("--peer-name", "w1"),
            ],
            "/nowhere/peers cannot be read",
        ),
    ],
)
def test_a_fleet_that_is_described_wrongly_is_an_error_that_says_so(flags: list[str], complaint: str) -> None:
    command = [sys.executable, "-m", "otel_sessions", "proxy", "--upstream", "http://127.0.0.1:1", *flags]
    command += ["--listen", f"{HOST}:0"]
    done: Any = subprocess.run(
        command, env=clean_environ(), capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 2
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr
