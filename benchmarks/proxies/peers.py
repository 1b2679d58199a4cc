"""The proxies of others: installed each into an environment of its own, and started as their documentation says.

`python -m benchmarks.proxies.peers` installs what is not there yet. A peer that cannot be installed or started is named
with the reason, and the benchmark goes on without it.
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx2

from .asked import TOOLS
from .servers import HOST, NotStarted, Server, free_port, last_line, running

HOMES: Final = Path(__file__).parents[2] / "build" / "peers"
_INSTALL_SECONDS: Final = 900
_SECRET: Final = "a-secret-of-the-benchmark-that-is-long-enough"  # noqa: S105 - protects nothing, on loopback
_USER: Final = "benchmark@example.com"
_UVICORN: Final = ("--host", HOST, "--no-access-log", "--log-level", "error", "--lifespan", "off")
_HERE: Final = Path(__file__).parent


class Absent(Exception):
    """A peer that cannot take part. Says why."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """How a peer's MCP server is called: its path, the name of the tool, and what a client has to send."""

    path: str = TOOLS
    tool: str = "add"
    headers: Mapping[str, str] = field(default_factory=dict)


Started = tuple[Server, Entry]
Start = Callable[[Path, str, Path], contextlib.AbstractContextManager[Started]]
"""Starts a peer from its environment, in front of an upstream, with a folder for its files."""


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A proxy of others. `speaks_mcp`: it ends MCP itself, and passes nothing else on."""

    name: str
    packages: tuple[str, ...]
    start: Start
    speaks_mcp: bool = False

    def home(self, homes: Path) -> Path:
        return homes / self.packages[0].partition("==")[0]


@contextlib.contextmanager
def _asgiproxy(home: Path, upstream: str, folder: Path) -> Iterator[Started]:
    with _uvicorn("asgiproxied", home, upstream, folder) as server:
        yield server, Entry()


@contextlib.contextmanager
def _recipe(home: Path, upstream: str, folder: Path) -> Iterator[Started]:
    with _uvicorn("recipe", home, upstream, folder) as server:
        yield server, Entry()


def _uvicorn(app: str, home: Path, upstream: str, folder: Path) -> contextlib.AbstractContextManager[Server]:
    port = free_port()
    command = [str(home / "bin" / "uvicorn"), "--app-dir", str(_HERE), f"{app}:app", "--port", str(port), *_UVICORN]
    return running(app, command, port, folder, {"UPSTREAM": upstream})


@contextlib.contextmanager
def _mcp_proxy(home: Path, upstream: str, folder: Path) -> Iterator[Started]:
    """Run two of them: from HTTP to standard input, and from there to HTTP."""
    port, program = free_port(), str(home / "bin" / "mcp-proxy")
    inner = [program, "--transport", "streamablehttp", upstream + TOOLS]
    command = [program, "--host", HOST, "--port", str(port), "--log-level", "ERROR", "--", *inner]
    with running("mcp-proxy", command, port, folder) as server:
        yield server, Entry(path="/mcp")


@contextlib.contextmanager
def _context_forge(home: Path, upstream: str, folder: Path) -> Iterator[Started]:
    """Run it with SQLite and a cache in memory, without plugins, pages and limits on the rate."""
    port = free_port()
    environ = {
        "JWT_SECRET_KEY": _SECRET,
        "AUTH_ENCRYPTION_SECRET": _SECRET[::-1],
        "PLATFORM_ADMIN_EMAIL": _USER,
        "PLATFORM_ADMIN_PASSWORD": f"{_SECRET}-A1",
        "BASIC_AUTH_PASSWORD": f"{_SECRET}-B2",
        "DATABASE_URL": f"sqlite:///{folder / 'context-forge.sqlite'}",
        "CACHE_TYPE": "memory",
        "MCPGATEWAY_UI_ENABLED": "false",
        "MCPGATEWAY_ADMIN_API_ENABLED": "false",
        "PLUGINS_ENABLED": "false",
        "RATE_LIMITING_ENABLED": "false",
        "LOG_LEVEL": "ERROR",
        "SSRF_ALLOW_LOCALHOST": "true",
        "SSRF_ALLOW_PRIVATE_NETWORKS": "true",
    }
    command = [str(home / "bin" / "mcpgateway"), "--host", HOST, "--port", str(port), "--no-access-log"]
    with running("context-forge", command, port, folder, environ) as server:
        entry = Entry(path="/mcp/", tool="origin-add", headers={"authorization": f"Bearer {_token(home, environ)}"})
        tools = {"name": "origin", "url": upstream + TOOLS, "transport": "STREAMABLEHTTP"}
        with httpx2.Client(trust_env=False, timeout=60) as http:
            answer = http.post(f"{server.url}/gateways", json=tools, headers=dict(entry.headers))
        if not answer.is_success:
            raise NotStarted(f"it does not take the MCP server: {answer.status_code} {answer.text[:150]}")
        yield server, entry


def _token(home: Path, environ: Mapping[str, str]) -> str:
    command = [str(home / "bin" / "python"), "-m", "mcpgateway.utils.create_jwt_token"]
    arguments = ["--username", _USER, "--exp", "600", "--secret", _SECRET]
    done = subprocess.run([*command, *arguments], env=os.environ | environ, capture_output=True, text=True, check=False)
    said = done.stdout.split()
    if not said:
        raise NotStarted(f"it makes no token: {last_line(done.stderr)}")
    return said[-1]


ASGIPROXY: Final = "asgiproxy"
PEERS: Final = (
    Peer(
        name=ASGIPROXY, packages=("asgiproxy==0.2.0", "aiohttp==3.14.5", "uvicorn[standard]==0.54.0"), start=_asgiproxy
    ),
    Peer(
        name="Starlette + httpx",
        packages=("starlette==1.10.0", "httpx==0.28.1", "uvicorn[standard]==0.54.0"),
        start=_recipe,
    ),
    Peer(name="mcp-proxy", packages=("mcp-proxy==0.13.0",), start=_mcp_proxy, speaks_mcp=True),
    Peer(
        name="context-forge",
        packages=("mcp-contextforge-gateway==1.0.7.post20260921",),
        start=_context_forge,
        speaks_mcp=True,
    ),
)


@contextlib.contextmanager
def started(peer: Peer, homes: Path, upstream: str, folder: Path) -> Iterator[Started]:
    """Run a peer until the block ends. Raises `Absent` if it is not installed or does not start."""
    home = peer.home(homes)
    if not _is_installed(peer, home):
        reason = _failure(home)
        raise Absent(f"not installed: {reason.read_text()}" if reason.exists() else "not installed")
    with contextlib.ExitStack() as running_peer:
        try:
            server = running_peer.enter_context(peer.start(home, upstream, folder))
        except (NotStarted, OSError, httpx2.HTTPError) as error:
            raise Absent(f"did not start: {error}") from error
        yield server


def install(peer: Peer, homes: Path) -> str | None:
    """Install a peer where it is not yet. Returns None, or why it cannot be installed, which is also kept in a file."""
    home = peer.home(homes)
    if _is_installed(peer, home):
        return None
    homes.mkdir(parents=True, exist_ok=True)
    commands = [
        [sys.executable, "-m", "venv", "--clear", str(home)],
        [
            str(home / "bin" / "python"),
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            *peer.packages,
        ],
    ]
    for command in commands:
        failed = _failed(command)
        if failed is not None:
            _failure(home).write_text(failed)
            return failed
    _stamp(home).write_text("\n".join(peer.packages))
    _failure(home).unlink(missing_ok=True)
    return None


def _failed(command: list[str]) -> str | None:
    """Run a command. Returns None if it succeeds, or the last line that it said."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_INSTALL_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return last_line(done.stderr or done.stdout) if done.returncode else None


def _is_installed(peer: Peer, home: Path) -> bool:
    stamp = _stamp(home)
    return stamp.exists() and stamp.read_text() == "\n".join(peer.packages)


def _stamp(home: Path) -> Path:
    return home / "packages.txt"


def _failure(home: Path) -> Path:
    return home.with_name(f"{home.name}.failed")


def main() -> None:
    """Install all peers, and name those that cannot be installed."""
    for peer in PEERS:
        reason = install(peer, HOMES)
        if reason is not None:
            print(f"{peer.name} takes no part, it cannot be installed: {reason}", file=sys.stderr)


if __name__ == "__main__":
    main()
