"""Workers that share a port, under the servers that start workers, and what tests ask them."""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from tests.processes import HOST, Running, free_port, running, until_listens
from tests.waiting import PATIENCE, until

SERVERS = {
    "uvicorn": ["uvicorn", "--workers", "3", "--host", HOST, "--port", "{port}", "{app}"],
    "uvicorn with a prefix": [
        *("uvicorn", "--workers", "3", "--root-path", "/a b", "--host", HOST, "--port", "{port}", "{app}")
    ],
    "gunicorn": ["gunicorn", "-w", "3", "-k", "uvicorn_worker.UvicornWorker", "-b", f"{HOST}:{{port}}", "{app}"],
    "gunicorn, forked late": [
        *("gunicorn", "--preload", "-w", "3", "-k", "uvicorn_worker.UvicornWorker", "-b", f"{HOST}:{{port}}", "{app}")
    ],
    "hypercorn": ["hypercorn", "--workers", "3", "--bind", f"{HOST}:{{port}}", "{app}"],
}
WORKERS = 3


@contextlib.contextmanager
def workers_under(
    server: str, folder: Path, app: str = "fastapi", **environ: str
) -> Iterator[tuple[str, Running]]:  # only read
    """Run three workers under a server, and return their URL once all of them have started.

    Their sockets are in the folder `workers`. `environ` says which fleet they make, as `worker.py` reads it.
    """
    port = free_port()
    command = [part.format(port=port, app=f"tests.fleet.worker:{app}") for part in SERVERS[server]]
    command = [sys.executable, "-m", *command]
    with running("server", command, folder, {"FOLDER": str(folder / "workers"), **environ}) as process:
        until_listens(port, process)
        if environ.get("ADDRESS", "").startswith("http"):
            books(f"http://{HOST}:{port}")
        else:
            until(lambda: sockets_in(folder / "workers"), lambda found: len(found) == WORKERS)
        try:
            yield f"http://{HOST}:{port}", process
        finally:
            process.process.terminate()
            with contextlib.suppress(Exception):
                process.process.wait(PATIENCE)


def sockets_in(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.sock"))


@dataclass(frozen=True, kw_only=True)
class Killed:
    """A worker that was killed: its process, the clients of all workers, and the sockets before and after."""

    url: str
    victim: int
    clients: list[tuple[dict[str, str], dict[str, Any]]]
    before: list[Path]
    after: list[Path]

    @property
    def lost(self) -> list[dict[str, Any]]:
        """What the clients of the victim were told of their sessions."""
        return [made for _, made in self.clients if made["process"] == self.victim]

    def check_the_others(self) -> None:
        """Each client of the victim has a new session elsewhere, and all others have theirs."""
        for headers, made in self.clients:
            answer = asked(f"{self.url}/items/a", headers=headers)
            if made["process"] == self.victim:
                assert answer.json()["process"] != self.victim
                assert "set-cookie" in answer.headers
            else:
                assert answer.json() == made


def killed_one(url: str, folder: Path) -> Killed:
    """Kill the worker of the first of twelve clients, and wait until another worker has started in its place."""
    clients = [opened(url) for _ in range(12)]
    victim: int = clients[0][1]["process"]
    before = sockets_in(folder / "workers")
    os.kill(victim, signal.SIGKILL)
    after = until(lambda: sockets_in(folder / "workers"), lambda now: len(now) == WORKERS and now != before)
    return Killed(url=url, victim=victim, clients=clients, before=before, after=after)


def asked(url: str, method: str = "GET", **settings: Any) -> httpx2.Response:
    """Ask over a connection of its own, which any worker may take."""
    with httpx2.Client(trust_env=False, timeout=PATIENCE) as http:
        return http.request(method, url, **settings)


def opened(url: str) -> tuple[dict[str, str], dict[str, Any]]:
    answer = asked(f"{url}/items/a")
    assert answer.status_code == 200, answer.text
    return {"cookie": answer.headers["set-cookie"].partition(";")[0]}, answer.json()


def books(url: str) -> dict[int, dict[str, int]]:
    """Return the books of every worker, by its process."""
    found: dict[int, dict[str, int]] = {}

    def look() -> int:
        said = asked(f"{url}/books").json()
        found[said["process"]] = said
        return len(found)

    until(look, lambda count: count == WORKERS)
    return found
