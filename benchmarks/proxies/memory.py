"""What the proxy keeps: resident bytes before and after many sessions that clients open and abandon."""

import contextlib
import http.client
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import httpx2

from . import asked
from .servers import HOST, Server, free_port, ours, resident

MARKS: Final = (2_000, 10_000)
"""After how many abandoned sessions the bytes are read."""
BATCH: Final = 1_000
"""Sessions that are opened one after another; the marks are multiples."""
_IDLE: Final = ("--max-idle-time", "0.5", "--cleanup-interval", "0.5", "--max-sessions", "10000")
_PATIENCE: Final = 120
"""Seconds within which abandoned sessions must have ended."""


def after_abandoned(upstream: str, folder: Path, marks: Sequence[int] = MARKS) -> list[int]:
    """Return the resident bytes of a fresh proxy at each mark, once its idle limit has ended every session."""
    health = f"{HOST}:{free_port()}"
    with ours("ours-memory", upstream, folder, *_IDLE, "--health", health) as server:
        return list(_at_marks(server, f"http://{health}/healthz", marks))


def _at_marks(server: Server, health: str, marks: Sequence[int]) -> Iterator[int]:
    """Open sessions in batches: else a faster machine would have more of them live at once."""
    for opened in range(BATCH, max(marks) + 1, BATCH):
        _open(server.url, BATCH)
        _wait_until_ended(health)
        if opened in marks:
            yield resident(server.process)


def _open(url: str, count: int) -> None:
    """Open so many sessions, over one connection, and forget them."""
    request = asked.initialize("/mcp")
    with contextlib.closing(http.client.HTTPConnection(urlsplit(url).netloc)) as connection:
        for _ in range(count):
            connection.request(request.method, request.path, request.body, dict(request.headers))
            answer = connection.getresponse()
            answer.read()
            if answer.status != 200 or answer.headers["mcp-session-id"] is None:
                raise SystemExit(f"our proxy opens no session, it answers {answer.status}")


def _wait_until_ended(health: str) -> None:
    end = time.monotonic() + _PATIENCE
    while httpx2.get(health, trust_env=False).json()["active"]:
        if time.monotonic() > end:
            raise SystemExit(f"abandoned sessions are still there after {_PATIENCE} s")
        time.sleep(0.1)
