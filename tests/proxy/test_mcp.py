"""The MCP Python SDK's own clients and servers through the proxy: the newest, and the last with a 1 in front."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.processes import HOST, clean_environ, free_port, running, until_answers
from tests.waiting import PATIENCE, until

from .conftest import Proxy, start_proxy
from .fleets import start_crosswise

pytestmark = pytest.mark.processes

SDK = Path(__file__).parent / "sdk"
OLD = "mcp==1.30.0"
ONE_PLACE = ("--max-sessions", "1", "--emergency-idle-time", "0.1")
"""Limits by which a session that nobody uses any more makes room for the next one."""
ABOUT = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
HEADERS = {"accept": "application/json, text/event-stream", "content-type": "application/json"}


@pytest.fixture(scope="session")
def old_sdk() -> str:
    """Where the old SDK is, with all that it needs, in a cache beside the checkouts; installed at the first call."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "otel-sessions"
    folder = cache / f"{OLD.replace('==', '-')}-{sys.implementation.cache_tag}"
    if not folder.exists():
        unfinished = folder.with_suffix(".unfinished")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--upgrade", "--target", str(unfinished), OLD]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = f"this test needs {OLD}, and it cannot be installed: {done.stderr[-300:]}"
            if os.environ.get("CI"):
                pytest.fail(reason, pytrace=False)
            pytest.skip(reason)
        unfinished.rename(folder)
    return str(folder)


@pytest.fixture(params=["newest", "old"])
def sdk(request: pytest.FixtureRequest) -> Mapping[str, str]:
    """The environment in which a program finds an SDK."""
    return {} if request.param == "newest" else {"PYTHONPATH": request.getfixturevalue("old_sdk")}


StartProxy = Callable[..., contextlib.AbstractContextManager[Proxy]]


@pytest.fixture(params=[start_proxy, start_crosswise], ids=["at its owner", "through another process"])
def started(request: pytest.FixtureRequest) -> StartProxy:
    """Starts a proxy, or two proxies where each request in a session comes to the wrong one."""
    start: StartProxy = request.param
    return start


@dataclass(frozen=True, kw_only=True)
class Server:
    url: str

    def sessions(self) -> int:
        count: int = httpx2.get(f"{self.url}/sessions", trust_env=False, timeout=PATIENCE).json()["sessions"]
        return count


@contextlib.contextmanager
def start_server(folder: Path, sdk: Mapping[str, str]) -> Iterator[Server]:
    port = free_port()
    command = [sys.executable, str(SDK / "server.py"), str(port)]
    with running("mcp-server", command, folder, sdk) as process:
        until_answers(f"http://{HOST}:{port}/sessions", process)
        yield Server(url=f"http://{HOST}:{port}")


@pytest.fixture
def server(tmp_path: Path, sdk: Mapping[str, str]) -> Iterator[Server]:
    with start_server(tmp_path, sdk) as server:
        yield server


def client(proxy: Proxy, mode: str, sdk: Mapping[str, str]) -> dict[str, Any]:
    """Run a client to its end, and return what it got."""
    command = [sys.executable, str(SDK / "client.py"), f"{proxy.url}/mcp", mode]
    environ = {**clean_environ(), **sdk}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr
    got: dict[str, Any] = json.loads(done.stdout)
    return got


def test_tools_and_notifications_arrive_and_the_clients_goodbye_ends_both_sessions(
    tmp_path: Path, server: Server, sdk: Mapping[str, str], started: StartProxy
) -> None:
    with started(tmp_path, server.url) as proxy:
        got = client(proxy, "legacy", sdk)

        assert got == {"revision": "2025-11-25", "tools": ["add", "announce"], "sum": "5"}
        assert proxy.said_of_itself() == {"status": "ok", "active": 0, "created": 1}
        assert server.sessions() == 0


def test_a_client_that_vanishes_leaves_no_session_here_nor_there(
    tmp_path: Path, server: Server, sdk: Mapping[str, str], started: StartProxy
) -> None:
    with started(tmp_path, server.url, *ONE_PLACE) as proxy:
        client(proxy, "vanish", sdk)
        assert proxy.said_of_itself()["created"] == 1

        until(lambda: call({}, proxy, "initialize", 0, **ABOUT).status_code, lambda status: status == 200)
    until(server.sessions, lambda count: count == 0)


def test_the_revision_without_sessions_needs_none(tmp_path: Path) -> None:
    with start_server(tmp_path, {}) as server, start_proxy(tmp_path, server.url) as proxy:
        got = client(proxy, "auto", {})

        assert (got["revision"], got["sum"]) == ("2026-07-28", "5")
        assert proxy.said_of_itself()["created"] == 0


@pytest.mark.parametrize("client_is_old", [True, False])
def test_clients_and_servers_of_different_ages_meet(
    tmp_path: Path, old_sdk: str, client_is_old: bool, started: StartProxy
) -> None:
    old = {"PYTHONPATH": old_sdk}
    with (
        start_server(tmp_path, {} if client_is_old else old) as server,
        started(tmp_path, server.url) as proxy,
    ):
        assert client(proxy, "legacy", old if client_is_old else {})["sum"] == "5"
        assert proxy.said_of_itself()["active"] == 0


@pytest.mark.parametrize(("mode", "theirs"), [([], 0), (["bare"], 20)])
def test_abandoned_sessions_in_one_process_stay_in_the_sdk_only_if_it_is_not_told(
    sdk: Mapping[str, str], mode: list[str], theirs: int
) -> None:
    command = [sys.executable, str(SDK / "embedded.py"), *mode]
    environ = {**clean_environ(), **sdk}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {"ours": 0, "theirs": theirs, "created": 20, "errors": 0}


def call(session: dict[str, str], proxy: Proxy, method: str, number: int | None, **parameters: Any) -> httpx2.Response:
    message = {"jsonrpc": "2.0", "method": method, "params": parameters} | ({} if number is None else {"id": number})
    headers = {**HEADERS, **session}
    return httpx2.post(f"{proxy.url}/mcp", json=message, headers=headers, trust_env=False, timeout=PATIENCE)


def test_a_client_that_comes_back_gets_what_it_has_missed(
    tmp_path: Path, server: Server, sdk: Mapping[str, str], started: StartProxy
) -> None:
    def read(parts: Iterator[bytes], events: int) -> list[tuple[str, str]]:
        """Return (id, method) of the first events that carry a message."""
        said, found = b"", []
        for part in parts:
            said += part
            texts = [text for text in said.decode().replace("\r\n", "\n").split("\n\n")[:-1] if '"method"' in text]
            found = [dict(line.split(": ", 1) for line in text.splitlines()) for text in texts]
            if len(found) >= events:
                break
        return [(event["id"], json.loads(event["data"])["method"]) for event in found]

    changed = "notifications/tools/list_changed"
    with started(tmp_path, server.url) as proxy, httpx2.Client(trust_env=False, timeout=PATIENCE) as http:
        answer = call({}, proxy, "initialize", 0, **ABOUT)
        session = {"mcp-session-id": answer.headers["mcp-session-id"], "mcp-protocol-version": "2025-06-18"}
        call(session, proxy, "notifications/initialized", None)
        stream = {**HEADERS, **session}
        with http.stream("GET", f"{proxy.url}/mcp", headers=stream) as answer:
            call(session, proxy, "tools/call", 1, name="announce", arguments={})
            ((seen, method),) = read(answer.iter_raw(), 1)
        call(session, proxy, "tools/call", 2, name="announce", arguments={})
        with http.stream("GET", f"{proxy.url}/mcp", headers={**stream, "last-event-id": seen}) as answer:
            ((missed, again),) = read(answer.iter_raw(), 1)

        assert (method, again) == (changed, changed)
        assert int(missed) > int(seen)
        assert http.delete(f"{proxy.url}/mcp", headers=stream).status_code == 200
