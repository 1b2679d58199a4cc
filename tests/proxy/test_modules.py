"""What a proxy imports at its start: what its configuration needs, and nothing else. Modules are resident memory."""

import subprocess
import sys
from typing import Final

import pytest

from tests.processes import ROOT, clean_environ
from tests.waiting import PATIENCE

pytestmark = pytest.mark.processes

STARTED: Final = """
import asyncio, sys
import otel_sessions._commands
from otel_sessions.proxy.command import Proxy, Settings

async def main():
    async with Proxy(Settings(upstream="http://127.0.0.1:1", listen=("127.0.0.1", 0))):
        print(*sys.modules)

asyncio.run(main())
"""
OTHERS: Final = {
    *("anyio", "click", "httptools", "idna", "opentelemetry", "otel_sessions", "sniffio", "typing_extensions"),
    "uvicorn",
}
"""The packages that are not Python's own."""
WATCHING: Final = "watchfiles"
"""uvicorn imports it where it is installed."""
NOT_NEEDED: Final = {
    *("email.message", "importlib.metadata", "opentelemetry.sdk", "urllib.request", "zipfile"),
    *("otel_sessions.admin", "otel_sessions.demo", "otel_sessions.fleet.peers", "otel_sessions.fleet.static"),
    *("otel_sessions.proxy.client_socket", "otel_sessions.proxy.fellows", "otel_sessions.proxy.orphans"),
    *("otel_sessions.proxy.upstream_socket", "otel_sessions.proxy.websocket", "otel_sessions.proxy.worker"),
    *("otel_sessions.proxy.workers", "otel_sessions.proxy.workers_command", "otel_sessions.proxy.workers_parent"),
    *("uvicorn.protocols.http.httptools_impl", "uvicorn.protocols.websockets", "websockets"),
}
"""What only WebSockets, peers, workers, the admin API or an exporter need."""


@pytest.fixture(scope="module")
def loaded() -> set[str]:
    command = [sys.executable, "-c", STARTED]
    said = subprocess.run(
        command, env=clean_environ(), cwd=ROOT, capture_output=True, text=True, check=True, timeout=PATIENCE
    )
    return set(said.stdout.split())


def test_a_proxy_starts_without_what_only_other_configurations_need(loaded: set[str]) -> None:
    assert loaded & NOT_NEEDED == set()


def test_a_proxy_starts_with_few_packages_besides_pythons_own(loaded: set[str]) -> None:
    packages = {name.partition(".")[0] for name in loaded} - sys.stdlib_module_names - {WATCHING, "cython_runtime"}

    assert {package for package in packages if not package.startswith("_")} <= OTHERS
