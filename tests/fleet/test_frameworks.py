"""Forwarding in apps of frameworks, under the servers that embedders use: each process is a process."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.processes import HOST, free_port, running, until_listens
from tests.waiting import PATIENCE

pytestmark = pytest.mark.processes

SERVERS = {
    "uvicorn": ["uvicorn", "--lifespan", "on", "--host", HOST, "--port", "{port}", "{app}"],
    "uvicorn behind a prefix": ["uvicorn", "--lifespan", "on", "--root-path", "/api", "--port", "{port}", "{app}"],
    "hypercorn": ["hypercorn", "--bind", f"{HOST}:{{port}}", "{app}"],
    "granian": ["granian", "--interface", "asgi", "--host", HOST, "--port", "{port}", "{app}"],
}


@contextlib.contextmanager
def fleet_under(server: str, app: str, folder: Path) -> Iterator[dict[str, str]]:
    """Run two processes of a fleet under a server, and return their URLs by name."""
    ports = {name: free_port() for name in ("w1", "w2")}
    file = folder / "peers"
    file.write_text("".join(f"{name}=http://{HOST}:{port}\n" for name, port in ports.items()))
    with contextlib.ExitStack() as started:
        for name, port in ports.items():
            command = [part.format(port=port, app=f"tests.fleet.embedded:{app}") for part in SERVERS[server]]
            environ = {"PEERS": str(file), "WORKER": name}
            process = started.enter_context(running(name, [sys.executable, "-m", *command], folder, environ))
            until_listens(port, process)
        yield {name: f"http://{HOST}:{port}" for name, port in ports.items()}


@pytest.mark.parametrize("server", list(SERVERS))
def test_a_request_at_the_wrong_process_reaches_the_routes_of_the_owner(server: str, tmp_path: Path) -> None:
    with (
        fleet_under(server, "fastapi", tmp_path) as urls,
        httpx2.Client(trust_env=False, timeout=PATIENCE) as http,
    ):
        cookie = http.get(f"{urls['w1']}/items/a%20b?x=1").headers["set-cookie"].partition(";")[0]
        http.cookies.clear()
        for url in urls.values():
            got = http.post(f"{url}/items/a%20b?x=1", headers={"cookie": cookie}, content=b"x" * 100_000)
            assert got.json() == {"process": "w1", "item": "a b", "x": "1", "size": 100_000}


def test_an_app_under_a_mount_is_reached_through_the_same_mount(tmp_path: Path) -> None:
    with (
        fleet_under("uvicorn", "mounted", tmp_path) as urls,
        httpx2.Client(trust_env=False, timeout=PATIENCE) as http,
    ):
        cookie = http.get(f"{urls['w1']}/inside/items/a").headers["set-cookie"].partition(";")[0]
        http.cookies.clear()
        got = http.get(f"{urls['w2']}/inside/items/a", headers={"cookie": cookie})
        assert got.json()["process"] == "w1"
