"""Balancers that go by the hint in the id, configured as the documentation shows."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.exchanges import INITIALIZE
from tests.processes import HOST, ROOT, free_port
from tests.waiting import PATIENCE

from .conftest import Origin, Proxy, start_origin, start_proxy
from .fronts import FRONTS, address, program, started

pytestmark = pytest.mark.processes

PAGE = ROOT / "docs" / "how-to" / "balancers.md"
MCP = {"content-type": "application/json", "accept": "application/json, text/event-stream"}


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Origin]:
    """An origin of these tests' own: what is killed here leaves sessions behind, which other tests would count."""
    with start_origin(tmp_path_factory.mktemp("origin")) as origin:
        yield origin


@contextlib.contextmanager
def proxies_that_cannot_pass_on(folder: Path, origin: Origin) -> Iterator[list[Proxy]]:
    """Start two proxies that answer 404 where they should pass a request on, since nobody listens at their peers."""
    secret = folder / "secret"
    secret.write_text("a secret of the whole fleet\n")
    peers = [part for name in ("w1", "w2") for part in ("--peers", f"{name}=http://{HOST}:1")]
    with contextlib.ExitStack() as exits:
        found = []
        for name in ("w1", "w2"):
            own = ("--peer-name", name, "--peer-listen", f"{HOST}:{free_port()}", "--peer-secret-file", str(secret))
            found.append(exits.enter_context(start_proxy(folder, origin.url, *peers, *own)))
        yield found


@pytest.mark.parametrize("front", FRONTS)
def test_a_balancer_that_reads_the_hint_leads_every_request_to_its_process(
    front: str, origin: Origin, tmp_path: Path
) -> None:
    program(front)
    with proxies_that_cannot_pass_on(tmp_path, origin) as (w1, w2):
        ports = {written: int(proxy.url.rpartition(":")[2]) for written, proxy in ((8081, w1), (8082, w2))}
        with started(front, tmp_path, ports, PAGE) as port, httpx2.Client(trust_env=False, timeout=PATIENCE) as http:
            url = f"{address(port)}/mcp"
            ids = [http.post(url, content=INITIALIZE, headers=MCP).headers["mcp-session-id"] for _ in range(8)]
            assert {session_id.partition(".")[0] for session_id in ids} == {"w1", "w2"}
            for session_id in ids * 2:
                answer = http.post(url, content=b"{}", headers={**MCP, "mcp-session-id": session_id})
                assert answer.status_code == 200
            w1.process.kill()
            for session_id in ids:
                answer = http.post(url, content=b"{}", headers={**MCP, "mcp-session-id": session_id})
                assert answer.status_code == (404 if session_id.startswith("w1.") else 200)
