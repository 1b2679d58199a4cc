"""The servers that are put under load, as processes of their own on loopback: nginx, the origins, and our proxy."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from .asked import EVENTS, IN_SESSION, LARGE, NO_SESSION, TOOLS

HOST: Final = "127.0.0.1"
NGINX: Final = """
daemon off; worker_processes 1; pid {folder}/{name}.pid; error_log stderr crit;
events {{ worker_connections 1024; }}
http {{
    access_log off; keepalive_requests 1000000; client_body_temp_path {folder}/{name}.body;
    proxy_temp_path {folder}/{name}.proxy; fastcgi_temp_path {folder}/{name}.f;
    uwsgi_temp_path {folder}/{name}.u; scgi_temp_path {folder}/{name}.s;
    proxy_http_version 1.1; proxy_set_header Connection "";
    {upstreams}
    server {{ listen {host}:{port}; {server} }}
}}
"""
ORIGIN: Final = f"""
    location / {{ return 200 "a small answer"; }}
    location /mcp {{ add_header mcp-session-id $request_id; return 200 "{{}}"; }}
    location {IN_SESSION} {{ return 200 "a small answer"; }}
    location {NO_SESSION} {{ return 200 "a small answer"; }}
    location {LARGE} {{ root {{folder}}; default_type text/plain; }}
    location {EVENTS} {{ proxy_pass http://events; proxy_buffering off; }}
    location {TOOLS} {{ proxy_pass http://tools; proxy_buffering off; }}
"""
PROXIED: Final = f"""
    location / {{ proxy_pass http://origin; }}
    location {EVENTS} {{ proxy_pass http://origin; proxy_buffering off; }}
    location {TOOLS} {{ proxy_pass http://origin; proxy_buffering off; }}
"""
"""What an nginx in front says: it holds answers back, which is cheaper, but for those that are streams."""
LARGE_BYTES: Final = 16384

_START_SECONDS: Final = 120
"""How long a server may take to listen. Some make a database first."""


class NotStarted(Exception):
    """A server that ended, or that does not listen in time. Says the last line that it printed."""


@dataclass(frozen=True, kw_only=True)
class Server:
    """A server that listens, its process, and the bytes that were resident once it listened."""

    url: str
    process: psutil.Process
    at_start: int


def free_port() -> int:
    with socket.create_server((HOST, 0)) as listener:
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def running(
    name: str, command: Sequence[str], port: int, folder: Path, environ: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """Run a server until the block ends. Its output goes to a file in `folder`. Raises `NotStarted`."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("OTEL_")}
    log = folder / f"{name}.log"
    with (
        log.open("wb") as output,
        subprocess.Popen(command, env=inherited | dict(environ or {}), stdout=output, stderr=output) as process,
    ):
        try:
            if not _listens(port, process):
                raise NotStarted(last_line(log.read_text(errors="replace")))
            whole = psutil.Process(process.pid)
            yield Server(url=f"http://{HOST}:{port}", process=whole, at_start=resident(whole))
        finally:
            _end(process)


def resident(process: psutil.Process) -> int:
    """Return the resident bytes of a process with its children. What they share counts for each."""
    total = 0
    for one in (process, *process.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):  # it has ended since
            total += one.memory_info().rss
    return total


def last_line(text: str) -> str:
    """Return the last line with a word in it, cut to 200 characters."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines else "it said nothing"


def _listens(port: int, process: "subprocess.Popen[bytes]") -> bool:
    """Return whether it listens before it ends. It does not tell, so it is asked ten times a second."""
    for _ in range(10 * _START_SECONDS):
        with contextlib.suppress(OSError), socket.create_connection((HOST, port), 1.0):
            return True
        if process.poll() is not None:
            return False
        time.sleep(0.1)
    return False


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()


def nginx(
    folder: Path, name: str, server: str, upstreams: Mapping[str, str]
) -> contextlib.AbstractContextManager[Server]:
    """Run an nginx with one worker. `upstreams` are URLs by name."""
    port = free_port()
    behind = "\n    ".join(
        f"upstream {upstream} {{ server {url.removeprefix('http://')}; keepalive 64; }}"
        for upstream, url in upstreams.items()
    )
    config = folder / f"{name}.conf"
    config.write_text(NGINX.format(folder=folder, name=name, host=HOST, port=port, server=server, upstreams=behind))
    return running(name, ["nginx", "-p", str(folder), "-c", str(config)], port, folder)


@contextlib.contextmanager
def origin(folder: Path) -> Iterator[Server]:
    """Run what the proxies stand in front of: an nginx that answers, and leads to events and to an MCP server."""
    (folder / LARGE.strip("/")).write_text("x" * LARGE_BYTES)
    folder.chmod(0o755)  # nginx' worker may be another user
    events, tools = free_port(), free_port()
    with (
        running("events", _module("benchmarks.proxies.streaming", str(events)), events, folder) as streams,
        running("tools", _module("benchmarks.proxies.tools", str(tools)), tools, folder) as mcp,
        nginx(
            folder, "origin", ORIGIN.replace("{folder}", str(folder)), {"events": streams.url, "tools": mcp.url}
        ) as server,
    ):
        yield server


def ours(name: str, upstream: str, folder: Path, *flags: str) -> contextlib.AbstractContextManager[Server]:
    """Run our proxy. It puts no request for the path `NO_SESSION` in a session."""
    port = free_port()
    addresses = ("--upstream", upstream, "--listen", f"{HOST}:{port}", "--skip", NO_SESSION)
    return running(name, _module("otel_sessions.cli", "proxy", *addresses, *flags), port, folder)


def _module(name: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", name, *arguments]
