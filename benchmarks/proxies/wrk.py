"""One round of load: wrk sends a target the same request for some seconds, and what that took the target's process."""

import json
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import psutil

from .asked import Request
from .cpu import CpuClock, spent


class LoadFailed(Exception):
    """A target did not answer as it should. Says what came instead."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where requests go, which, and whose CPU time counts."""

    name: str
    url: str
    request: Request
    process: psutil.Process


@dataclass(frozen=True, kw_only=True)
class Said:
    """What wrk says: how many requests were answered, at how many a second, and latencies in seconds."""

    requests: int
    rate: float
    p50: float
    p99: float


@dataclass(frozen=True, kw_only=True)
class Round:
    """Answers (or events) a second, and the seconds of CPU time that one took. Events have no latencies."""

    rate: float
    cpu: float
    p50: float | None = None
    p99: float | None = None


class Load(NamedTuple):
    """How many threads send, over how many connections, for how many seconds. Each thread runs the script alone."""

    threads: int
    connections: int
    seconds: int


def load(target: Target, connections: int, seconds: int, clock: CpuClock) -> Round:
    """Put a target under load. Raises `LoadFailed` if a request fails."""
    return load_with(script(target.request), target.url, target.process, Load(1, connections, seconds), clock)


def load_with(lua: str, url: str, process: psutil.Process, much: Load, clock: CpuClock) -> Round:
    """Put a URL under the load that a script of wrk describes. Raises `LoadFailed` if a request fails."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "request.lua"
        path.write_text(lua)
        command = ["wrk", f"-t{much.threads}", f"-c{much.connections}", f"-d{much.seconds}s", "--latency"]
        before = clock.read(process)
        text = subprocess.run([*command, "-s", str(path), url], capture_output=True, text=True, check=True).stdout
        took = spent(before, clock.read(process))
    if "Non-2xx" in text or "Socket errors" in text:
        raise LoadFailed(_what_failed(text))
    said = read(text)
    if not said.requests:
        raise LoadFailed("no answer within the round")
    return Round(rate=said.rate, p50=said.p50, p99=said.p99, cpu=took / said.requests)


def script(request: Request) -> str:
    """Return the request as a script for wrk, in Lua."""
    headers = [f"wrk.headers[{_quoted(name)}] = {_quoted(value)}" for name, value in request.headers.items()]
    named = {"method": request.method, "path": request.path} | ({"body": request.body} if request.body else {})
    return "\n".join([*(f"wrk.{name} = {_quoted(value)}" for name, value in named.items()), *headers, ""])


def _quoted(text: str) -> str:
    """Return printable ASCII as a string of Lua, which has JSON's escapes for it."""
    if not (text.isascii() and text.isprintable()):
        raise ValueError(f"a script for wrk takes printable ASCII only, not {text!r}")
    return json.dumps(text)


def read(text: str) -> Said:
    """Read what wrk printed."""
    latencies = {share: in_seconds(value) for share, value in re.findall(r"(50|99)% +(\S+)", text)}
    return Said(
        requests=int(re.findall(r"(\d+) requests in", text)[0]),
        rate=float(re.findall(r"Requests/sec: +(\S+)", text)[0]),
        p50=latencies["50"],
        p99=latencies["99"],
    )


def _what_failed(text: str) -> str:
    return "; ".join(line.strip() for line in text.splitlines() if "Non-2xx" in line or "Socket errors" in line)


def in_seconds(text: str) -> float:
    number, unit = re.fullmatch(r"([\d.]+)(us|ms|s|m)", text).groups()  # type: ignore[union-attr]  # wrk's own format
    return float(number) * {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}[unit]
