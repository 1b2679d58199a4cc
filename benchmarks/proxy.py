"""What the reference proxy costs: wrk against an nginx behind it, past it, and behind an nginx that proxies.

Ours is measured twice: with every request in a session, and with requests that have nothing to do with sessions. The
difference of their CPU time is what session handling costs. Rounds are interleaved; medians are shown, and how far the
rounds lie apart. Needs wrk and nginx on the PATH: `apt-get install wrk nginx-light`.
"""

import argparse
import contextlib
import json
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import httpx2
import psutil

from .arguments import count

HOST = "127.0.0.1"
RESULT = Path(__file__).parent / "results" / "proxy.json"
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


@dataclass(frozen=True, kw_only=True)
class Round:
    """What wrk measured, and the proxy's CPU time for each request; seconds and requests a second."""

    rate: float
    p50: float
    p99: float
    cpu: float


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where wrk sends requests, with which header, and whose CPU time counts."""

    name: str
    url: str
    header: str
    process: psutil.Process


def measure(target: Target, connections: int, seconds: int) -> Round:
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-H", target.header, target.url]
    before = cpu_of(target.process)
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    spent = cpu_of(target.process) - before
    if "Non-2xx" in said or "Socket errors" in said:
        raise SystemExit(f"{target.name} failed:\n{said}")
    requests = float(re.findall(r"(\d+) requests in", said)[0])
    latencies = {share: in_seconds(value) for share, value in re.findall(r"(50|99)% +(\S+)", said)}
    rate = float(re.findall(r"Requests/sec: +(\S+)", said)[0])
    return Round(rate=rate, p50=latencies["50"], p99=latencies["99"], cpu=spent / requests)


def in_seconds(text: str) -> float:
    number, unit = re.fullmatch(r"([\d.]+)(us|ms|s)", text).groups()  # type: ignore[union-attr]
    return float(number) * {"us": 1e-6, "ms": 1e-3, "s": 1.0}[unit]


def cpu_of(process: psutil.Process) -> float:
    """Return the CPU time of a process and its workers."""
    times = [one.cpu_times() for one in (process, *process.children())]
    return sum(time.user + time.system for time in times)


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


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=count, default=5)
    parser.add_argument("--seconds", type=count, default=4, help="how long a round takes")
    parser.add_argument("--connections", type=count, default=16)
    options = parser.parse_args(arguments)
    missing = [program for program in ("wrk", "nginx") if not shutil.which(program)]
    if missing:
        sys.exit(f"bench-proxy needs {' and '.join(missing)}: apt-get install wrk nginx-light")
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as started:
        folder = Path(name)
        origin, origin_process = started.enter_context(nginx(folder, "origin", ORIGIN))
        behind = f"upstream origin {{ server {origin.removeprefix('http://')}; keepalive 64; }}"
        proxied = 'location / { proxy_pass http://origin; proxy_http_version 1.1; proxy_set_header Connection ""; }'
        peer, peer_process = started.enter_context(nginx(folder, "peer", proxied, behind))
        mine, my_process = started.enter_context(ours(origin))
        session_id = httpx2.post(f"{mine}/mcp", json={}, trust_env=False).headers["mcp-session-id"]
        in_session, without = f"mcp-session-id: {session_id}", "mcp-protocol-version: 2026-07-28"
        targets = [
            Target(name="direct", url=origin, header=without, process=origin_process),
            Target(name="nginx", url=peer, header=without, process=peer_process),
            Target(name="ours, no session", url=mine, header=without, process=my_process),
            Target(name="ours, in a session", url=mine, header=in_session, process=my_process),
        ]
        rounds = {target.name: [] for target in targets}  # type: dict[str, list[Round]]
        for target in targets:
            measure(target, options.connections, 1)  # warm
        for number in range(options.rounds):
            for target in targets if number % 2 else reversed(targets):
                rounds[target.name].append(measure(target, options.connections, options.seconds))
    report(rounds, options.connections)
    return 0


def report(rounds: dict[str, list[Round]], connections: int) -> None:
    """Print the table, and write it beside the machine's description."""
    direct = median(one.rate for one in rounds["direct"])
    print(f"{connections} connections, {len(next(iter(rounds.values())))} rounds; medians (lowest to highest)")
    print(f"{'':<20}{'requests/s':>24}{'of direct':>11}{'p50 ms':>9}{'p99 ms':>9}{'CPU us a request':>18}")
    for name, measured in rounds.items():
        rates = [one.rate for one in measured]
        print(
            f"{name:<20}{median(rates):>9.0f} ({min(rates):.0f} to {max(rates):.0f})".ljust(44)
            + f"{median(rates) / direct:>11.2f}{median(one.p50 for one in measured) * 1e3:>9.2f}"
            f"{median(one.p99 for one in measured) * 1e3:>9.2f}{median(one.cpu for one in measured) * 1e6:>18.0f}"
        )
    with_session, without = (
        median(one.cpu for one in rounds[name]) for name in ("ours, in a session", "ours, no session")
    )
    share = (with_session - without) / with_session
    print(f"session handling: {(with_session - without) * 1e6:.1f} us, {share:.1%} of a proxied request (target: 3 %)")
    machine = {"processor": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()}
    result = {"machine": machine, "connections": connections, "share_of_sessions": share}
    RESULT.write_text(
        json.dumps(
            {**result, "rounds": {name: [asdict(one) for one in measured] for name, measured in rounds.items()}},
            indent=2,
        )
        + "\n"
    )


if __name__ == "__main__":
    sys.exit(main())
