"""The middleware and `RunManager` under each server, in a process of its own: DESIGN, section 7.8."""

import sys
from pathlib import Path

import httpx2
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.processes import HOST, free_port, running, until_listens
from tests.waiting import PATIENCE

pytestmark = [pytest.mark.processes, pytest.mark.no_cover]

APP = "tests.asgi.served:app"
SERVERS = {
    "uvicorn": ["uvicorn", "--lifespan", "on", "--host", HOST, "--port", "{port}", APP],
    "hypercorn on asyncio": ["hypercorn", "--worker-class", "asyncio", "--bind", HOST + ":{port}", APP],
    "hypercorn on trio": ["hypercorn", "--worker-class", "trio", "--bind", HOST + ":{port}", APP],
    "granian": ["granian", "--interface", "asgi", "--loop", "asyncio", "--host", HOST, "--port", "{port}", APP],
}


@pytest.mark.parametrize("server", SERVERS)
def test_a_session_lasts_over_requests_and_ends_with_the_server(server: str, tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", *(word.format(port=port) for word in SERVERS[server])]

    with running("server", command, tmp_path) as process, httpx2.Client(trust_env=False, timeout=PATIENCE) as http:
        until_listens(port, process)
        first = http.get(f"http://{HOST}:{port}/")
        told = {"x-session-id": first.headers["x-session-id"]}
        second = http.get(f"http://{HOST}:{port}/", headers=told)
        unknown = http.get(f"http://{HOST}:{port}/", headers={"x-session-id": "unknown"})
        with connect(f"ws://{HOST}:{port}/", additional_headers=told, proxy=None, open_timeout=PATIENCE) as socket:
            socket.send("message")
            said = socket.recv(PATIENCE)
        with pytest.raises(InvalidStatus) as refused:
            connect(
                f"ws://{HOST}:{port}/",
                additional_headers={"x-session-id": "unknown"},
                proxy=None,
                open_timeout=PATIENCE,
            )
        process.terminate()

    assert (first.text, second.text, said) == ("1", "2", "message of 4")
    assert (unknown.status_code, refused.value.response.status_code in (403, 404)) == (404, True)
    assert "made 1, ended {'shutdown': 1}, left 0" in process.said()
