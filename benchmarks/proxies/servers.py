"""The servers that are put under load, as processes of their own on loopback: nginx, and the reference proxy."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import psutil

HOST = "127.0.0.1"
NGINX = """
daemon off; worker_processes 1; pid {folder}/{name}.pid; error_log stderr crit;
events {{ worker_connections 1024; }}
http {{
    access_log off; keepalive_requests 1000000; client_body_temp_path {folder}/{name}.body;
    proxy_temp_path {folder}/{name}.proxy; fastcgi_temp_path {folder}/{name}.f;
    uwsgi_temp_path {folder}/{name}.u; scgi_temp_path {folder}/{name}.s;
    {upstream}
    server {{ listen {host}:{port}; {server} }}
}}
"""
ORIGIN = """
    location / { return 200 "a small answer"; }
    location /mcp { add_header mcp-session-id of-the-origin; return 200 "{}"; }
"""


def free_port() -> int:
    with socket.create_server((HOST, 0)) as listener:
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def running(command: list[str], url: str) -> Iterator[psutil.Process]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    with subprocess.Popen(command, env=environ, stderr=subprocess.DEVNULL) as process:
        try:
            wait_for(url)
            yield psutil.Process(process.pid)
        finally:
            process.terminate()


def wait_for(url: str) -> None:
    """Return as soon as it answers, which it does not tell: it is asked ten times a second, for ten seconds."""
    for _ in range(100):
        with contextlib.suppress(httpx2.HTTPError):
            httpx2.get(url, trust_env=False)
            return
        time.sleep(0.1)
    raise SystemExit(f"{url} does not answer")


@contextlib.contextmanager
def nginx(folder: Path, name: str, server: str, upstream: str = "") -> Iterator[tuple[str, psutil.Process]]:
    port = free_port()
    config = folder / f"{name}.conf"
    config.write_text(NGINX.format(folder=folder, name=name, host=HOST, port=port, server=server, upstream=upstream))
    with running(["nginx", "-p", str(folder), "-c", str(config)], f"http://{HOST}:{port}/") as process:
        yield f"http://{HOST}:{port}", process


@contextlib.contextmanager
def ours(upstream: str) -> Iterator[tuple[str, psutil.Process]]:
    port = free_port()
    command = [sys.executable, "-m", "otel_sessions.cli", "proxy", "--upstream", upstream, "--listen", f"{HOST}:{port}"]
    with running(command, f"http://{HOST}:{port}/") as process:
        yield f"http://{HOST}:{port}", process
