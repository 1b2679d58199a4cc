"""Several proxies that share one cap and one set of books in a real Valkey."""

import contextlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Protocol

import httpx2
import pytest

from tests.exchanges import INITIALIZE
from tests.fleet.processes import books
from tests.fleet.servers import Program
from tests.fleet.valkey import Server
from tests.processes import HOST, free_port
from tests.waiting import until

from .conftest import Proxy, start_proxy

SECRET: Final = "a secret of the whole fleet"
LONG: Final = "60"
"""Seconds; a lease that no test outlasts. A call to the store then has a third of it."""
SHORT: Final = "8"
"""Seconds; the lease where a test waits for the death of a proxy."""
CAP: Final = 40
_MCP: Final = {"content-type": "application/json", "accept": "application/json, text/event-stream"}
_USE: Final = b'{"jsonrpc":"2.0","id":1,"method":"tools/list"}'


class Store(Protocol):
    """What a proxy needs to know of a store."""

    @property
    def url(self) -> str: ...


@contextlib.contextmanager
def start_member(
    folder: Path, store: Store, upstream: str, *flags: str, secret: str = SECRET, lease: str = LONG, **environ: str
) -> Iterator[Proxy]:
    """Start a proxy of the fleet. `books_in` reads what the store has counted for this fleet."""
    port = free_port()
    variables = variables_of(store, f"http://{HOST}:{port}", secret=secret, lease=lease)
    listen = ("--peer-listen", f"{HOST}:{port}")
    with start_proxy(folder, upstream, *listen, *flags, **{**variables, **environ}) as proxy:
        yield proxy


def variables_of(store: Store, address: str, *, secret: str = SECRET, lease: str = LONG) -> dict[str, str]:
    """Return the variables of a proxy of the fleet that peers reach at an address."""
    fleet = {"url": store.url, "name": "f", "address": address, "secret": secret, "lease": lease}
    fleet |= {"shards": "2", "max_sessions": str(CAP)}
    return {f"OTEL_SESSIONS_FLEET_{key.upper()}": value for key, value in fleet.items()}


def opening(http: httpx2.Client, proxy: Proxy, target: str = "/mcp", **headers: str) -> httpx2.Response:
    return http.post(f"{proxy.url}{target}", content=INITIALIZE, headers={**_MCP, **headers})


def opened(http: httpx2.Client, proxy: Proxy, **headers: str) -> str:
    answer = opening(http, proxy, **headers)
    assert answer.status_code == 200
    return str(answer.headers["mcp-session-id"])


def used(http: httpx2.Client, proxy: Proxy, session_id: str) -> int:
    return http.post(f"{proxy.url}/mcp", content=_USE, headers={**_MCP, "mcp-session-id": session_id}).status_code


def refused(answer: httpx2.Response) -> bool:
    """Return whether an opening was refused for now, as _MCP's clients understand it."""
    return answer.status_code == 503 and int(answer.headers["retry-after"]) > 0 and "error" in answer.json()


def books_in(store: Program) -> Counter[str]:
    """Return what the store has counted, with `active` for its records."""
    server = Server(store.path)
    try:
        return books(server)
    finally:
        server.close()


def until_counted(store: Program, **wanted: int) -> None:
    """Wait until the store has counted so many sessions by these words, and its books balance."""
    counted = until(lambda: books_in(store), lambda found: all(found[word] == count for word, count in wanted.items()))
    assert counted["created"] == counted.total() - counted["created"]


def said(proxy: Proxy) -> str:
    """Return the log of a proxy, which shows neither a secret nor credentials."""
    text = proxy.process.said()
    if SECRET in text or "Bearer" in text:
        pytest.fail("the log shows the secret")
    return text
