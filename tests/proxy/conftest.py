"""An origin and a proxy in front of it, each a process of its own."""

import contextlib
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.fleet.servers import Program, program, valkey_program
from tests.processes import HOST, Running, free_port, running_module, until_answers
from tests.waiting import NEVER, PATIENCE, until


@dataclass(frozen=True, kw_only=True)
class Origin:
    """The server behind, asked past the proxy."""

    url: str
    process: Running

    def counts(self) -> dict[str, int]:
        counts: dict[str, int] = httpx2.get(f"{self.url}/counts", trust_env=False, timeout=PATIENCE).json()
        return counts

    def until(self, what: str, count: int) -> None:
        until(lambda: self.counts()[what], lambda counted: counted == count)

    def until_none(self, what: str) -> None:
        self.until(what, 0)

    def release(self) -> None:
        """Let those that it holds go on."""
        httpx2.post(f"{self.url}/release", trust_env=False, timeout=PATIENCE)


@dataclass(frozen=True, kw_only=True)
class Proxy:
    """The proxy, and what its health endpoint says."""

    url: str
    health: str
    process: Running

    def said_of_itself(self) -> dict[str, Any]:
        said: dict[str, Any] = httpx2.get(f"{self.health}/healthz", trust_env=False, timeout=PATIENCE).json()
        return said

    def until_active(self, count: int) -> None:
        until(lambda: self.said_of_itself()["active"], lambda active: active == count)

    def until_it_shuts_down(self) -> None:
        """Wait until the proxy takes no connection any more: then its manager takes no session."""
        until(self.said_of_itself, lambda said: said["status"] == "shutting down")
        until(self.takes_connections, lambda takes: not takes)

    def until_whole(self, workers: int) -> None:
        """Wait until all workers answer."""
        until(self.said_of_itself, lambda said: (said["status"], said["workers"]) == ("ok", workers))

    def takes_connections(self) -> bool:
        host, port = self.url.removeprefix("http://").rsplit(":", 1)
        try:
            socket.create_connection((host, int(port))).close()
        except ConnectionRefusedError:
            return False
        return True


PATIENT = {
    "OTEL_SESSIONS_CLOSE_TIMEOUT_SECS": NEVER,
    "OTEL_SESSIONS_SHUTDOWN_TIMEOUT_SECS": NEVER,
    "OTEL_SESSIONS_PROXY_CONNECT_TIMEOUT": NEVER,
}

StartProxy = Callable[..., contextlib.AbstractContextManager[Proxy]]


@pytest.fixture(scope="session")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Origin]:
    with start_origin(tmp_path_factory.mktemp("origin")) as origin:
        yield origin


@pytest.fixture
def own_origin(tmp_path: Path) -> Iterator[Origin]:
    """An origin of a test's own, which counts the sessions that nobody has ended."""
    with start_origin(tmp_path) as origin:
        yield origin


@pytest.fixture
def store() -> Iterator[Program]:
    """A Valkey of a test's own."""
    with program(valkey_program()) as started:
        yield started


@contextlib.contextmanager
def start_origin(folder: Path, port: int | None = None) -> Iterator[Origin]:
    port = free_port() if port is None else port
    with running_module("proxy.origin", folder, str(port)) as process:
        until_answers(f"http://{HOST}:{port}/counts", process)
        yield Origin(url=f"http://{HOST}:{port}", process=process)


@contextlib.contextmanager
def start_proxy(folder: Path, upstream: str, *flags: str, **environ: str) -> Iterator[Proxy]:
    """Start a proxy, whose limits on others' slowness are far away where a test sets none."""
    front, health = free_port(), free_port()
    addresses = ("--upstream", upstream, "--listen", f"{HOST}:{front}", "--health", f"{HOST}:{health}")
    limits = {**PATIENT, **environ}
    with running_module("cli", folder, "proxy", *addresses, *flags, name=f"proxy-{front}", **limits) as process:
        until_answers(f"http://{HOST}:{health}/healthz", process)
        yield Proxy(url=f"http://{HOST}:{front}", health=f"http://{HOST}:{health}", process=process)
        if process.process.poll() is None:  # in order, so that the upstream hears of what is left
            process.terminate()


@pytest.fixture
def start(origin: Origin, tmp_path: Path) -> StartProxy:
    """Start a proxy in front of the origin, with flags."""

    def start(*flags: str, upstream: str = origin.url, **environ: str) -> contextlib.AbstractContextManager[Proxy]:
        return start_proxy(tmp_path, upstream, *flags, **environ)

    return start


@pytest.fixture(scope="session")
def proxy(origin: Origin, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """A proxy with its usual settings, for tests that leave nothing behind in it."""
    with start_proxy(tmp_path_factory.mktemp("proxy"), origin.url) as proxy:
        yield proxy


@pytest.fixture
def http() -> Iterator[httpx2.Client]:
    with httpx2.Client(trust_env=False, timeout=PATIENCE) as http:
        yield http
