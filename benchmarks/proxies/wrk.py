"""One round of load: wrk asks a target for some seconds, and what that took the process that answers."""

import re
import subprocess
from dataclasses import dataclass

import psutil

from .cpu import CpuClock, spent


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where wrk sends requests, with which header, and whose CPU time counts."""

    name: str
    url: str
    header: str
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
    """Requests a second, latencies in seconds, and the seconds of CPU time that a request took."""

    rate: float
    p50: float
    p99: float
    cpu: float


def load(target: Target, connections: int, seconds: int, clock: CpuClock) -> Round:
    """Put a target under load. A request that fails ends the program."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-H", target.header, target.url]
    before = clock.read(target.process)
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    took = spent(before, clock.read(target.process))
    if "Non-2xx" in text or "Socket errors" in text:
        raise SystemExit(f"{target.name} failed:\n{text}")
    said = read(text)
    return Round(rate=said.rate, p50=said.p50, p99=said.p99, cpu=took / said.requests)


def read(text: str) -> Said:
    """Read what wrk printed."""
    latencies = {share: in_seconds(value) for share, value in re.findall(r"(50|99)% +(\S+)", text)}
    return Said(
        requests=int(re.findall(r"(\d+) requests in", text)[0]),
        rate=float(re.findall(r"Requests/sec: +(\S+)", text)[0]),
        p50=latencies["50"],
        p99=latencies["99"],
    )


def in_seconds(text: str) -> float:
    number, unit = re.fullmatch(r"([\d.]+)(us|ms|s)", text).groups()  # type: ignore[union-attr]  # wrk's own format
    return float(number) * {"us": 1e-6, "ms": 1e-3, "s": 1.0}[unit]
