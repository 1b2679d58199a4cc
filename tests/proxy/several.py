"""Several workers of a proxy, as a user starts them, and requests that any of them may take."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2

from tests.exchanges import INITIALIZE
from tests.waiting import PATIENCE

from .conftest import Proxy, start_proxy

MCP = {"content-type": "application/json", "accept": "application/json, text/event-stream"}
LIST = b'{"jsonrpc":"2.0","id":1,"method":"tools/list"}'
WORKERS = 4


@contextlib.contextmanager
def start_workers(folder: Path, upstream: str, *flags: str, count: int = WORKERS, **environ: str) -> Iterator[Proxy]:
    temporary = folder / "t"
    temporary.mkdir(exist_ok=True)
    environ = {"TMPDIR": str(temporary), **environ}
    with start_proxy(folder, upstream, "--workers", str(count), *flags, **environ) as proxy:
        proxy.until_whole(count)
        yield proxy


def asked(method: str, url: str, **settings: Any) -> httpx2.Response:
    """Ask over a connection of its own, which any worker may take."""
    return httpx2.request(method, url, trust_env=False, timeout=PATIENCE, **settings)


def opened(proxy: Proxy) -> str:
    answer = asked("POST", f"{proxy.url}/mcp", content=INITIALIZE, headers=MCP)
    assert answer.status_code == 200, answer.text
    return str(answer.headers["mcp-session-id"])


def used(proxy: Proxy, session_id: str) -> httpx2.Response:
    return asked("POST", f"{proxy.url}/mcp", content=LIST, headers={**MCP, "mcp-session-id": session_id})


def hint_of(session_id: str) -> str:
    return session_id.partition(".")[0]


def workers_of(proxy: Proxy) -> list[int]:
    """Return the processes of the workers."""
    children = Path(f"/proc/{proxy.process.process.pid}/task/{proxy.process.process.pid}/children").read_text()
    return [int(child) for child in children.split()]
