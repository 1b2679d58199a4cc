"""What the reference proxy costs: wrk against an nginx behind it, past it, and behind an nginx that proxies.

Ours is measured twice: with every request in a session, and with requests that have nothing to do with sessions. A
table compares all four; the two of ours are then run in pairs of short rounds, whose differences in CPU time are what
session handling costs. Needs wrk and nginx on the PATH: `apt-get install wrk nginx-light`.
"""

import argparse
import contextlib
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from statistics import median

import httpx2

from otel_sessions._program.arguments import at_least, count

from .cpu import CpuClock, cpu_clock
from .handling import FEWEST, Pair, cost, in_turns
from .machine import machine
from .progress import progress
from .servers import ORIGIN, nginx, ours
from .wrk import Round, Target, load

RESULTS = Path(__file__).parent / "results"
IN_SESSION, WITHOUT = "ours, in a session", "ours, no session"
PAIR_CONNECTIONS = 4
"""Enough to keep the proxy busy; requests that a round leaves unfinished are not counted, but took time."""
Rounds = dict[str, list[Round]]
"""By target."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=count, default=5, help="of the table")
    parser.add_argument("--seconds", type=count, default=4, help="how long a round of the table takes")
    parser.add_argument("--pairs", type=at_least(FEWEST), default=40, help="of rounds of one second")
    parser.add_argument("--connections", type=count, default=16, help="of the table")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the JSON goes")
    options = parser.parse_args(arguments)
    missing = [program for program in ("wrk", "nginx") if not shutil.which(program)]
    if missing:
        sys.exit(f"bench-proxy needs {' and '.join(missing)}: apt-get install wrk nginx-light")
    clock = cpu_clock()
    with tempfile.TemporaryDirectory() as folder, started(Path(folder)) as targets:
        for target in targets.values():
            load(target, options.connections, 1, clock)  # warm
        rounds = compared(targets, options.rounds, options.connections, options.seconds, clock)
        pairs = paired(targets, options.pairs, clock)
    print(f"{options.connections} connections; CPU time is {clock.name}")
    for line in (*table(rounds), "", f"{len(pairs)} pairs, {PAIR_CONNECTIONS} connections", *cost(pairs).lines()):
        print(line)
    options.results.mkdir(parents=True, exist_ok=True)
    write(options.results / "proxy.json", rounds, pairs, options.connections, clock)
    return 0


@contextlib.contextmanager
def started(folder: Path) -> Iterator[dict[str, Target]]:
    """Run everything that is measured, in the order of the table, until the block ends."""
    with contextlib.ExitStack() as running:
        origin, origin_process = running.enter_context(nginx(folder, "origin", ORIGIN))
        behind = f"upstream origin {{ server {origin.removeprefix('http://')}; keepalive 64; }}"
        proxied = 'location / { proxy_pass http://origin; proxy_http_version 1.1; proxy_set_header Connection ""; }'
        peer, peer_process = running.enter_context(nginx(folder, "peer", proxied, behind))
        mine, my_process = running.enter_context(ours(origin))
        session_id = httpx2.post(f"{mine}/mcp", json={"method": "initialize"}, trust_env=False).headers[
            "mcp-session-id"
        ]
        in_session, without = f"mcp-session-id: {session_id}", "mcp-protocol-version: 2026-07-28"
        targets = [
            Target(name="direct", url=origin, header=without, process=origin_process),
            Target(name="nginx", url=peer, header=without, process=peer_process),
            Target(name=WITHOUT, url=mine, header=without, process=my_process),
            Target(name=IN_SESSION, url=mine, header=in_session, process=my_process),
        ]
        yield {target.name: target for target in targets}


def compared(targets: dict[str, Target], count: int, connections: int, seconds: int, clock: CpuClock) -> Rounds:
    """Run so many rounds of every target; every other round begins with the last one."""
    rounds: Rounds = {name: [] for name in targets}
    for number in range(count):
        progress(f"round {number + 1} of {count}")
        for name in targets if number % 2 else reversed(targets):
            rounds[name].append(load(targets[name], connections, seconds, clock))
    progress("")
    return rounds


def paired(targets: dict[str, Target], count: int, clock: CpuClock) -> list[Pair]:
    """Run so many pairs of ours, in rounds of one second."""
    progress(f"{count} pairs of rounds")

    def load_for_a_second(name: str) -> Round:
        return load(targets[name], PAIR_CONNECTIONS, 1, clock)

    pairs = in_turns(lambda: load_for_a_second(IN_SESSION), lambda: load_for_a_second(WITHOUT), count)
    progress("")
    return pairs


def table(rounds: Rounds) -> Iterator[str]:
    direct = median(one.rate for one in rounds["direct"])
    yield f"{len(rounds['direct'])} rounds; medians (lowest to highest)"
    yield f"{'':<20}{'requests/s':>24}{'of direct':>11}{'p50 ms':>9}{'p99 ms':>9}{'CPU us a request':>18}"
    for name, measured in rounds.items():
        rates = [one.rate for one in measured]
        p50, p99 = median(one.p50 for one in measured), median(one.p99 for one in measured)
        cpu = median(one.cpu for one in measured)
        yield (
            f"{name:<20}{median(rates):>9.0f} ({min(rates):.0f} to {max(rates):.0f})".ljust(44)
            + f"{median(rates) / direct:>11.2f}{p50 * 1e3:>9.2f}{p99 * 1e3:>9.2f}{cpu * 1e6:>18.0f}"
        )


def write(path: Path, rounds: Rounds, pairs: list[Pair], connections: int, clock: CpuClock) -> None:
    """Write every round, beside the machine's description."""
    sessions = cost(pairs)
    document = {
        "machine": machine("httptools", "httpx2", "uvicorn", "uvloop"),
        "connections": connections,
        "cpu": clock.name,
        "sessions": {**asdict(sessions), "share": sessions.share, "verdict": sessions.verdict},
        "rounds": {name: [asdict(one) for one in measured] for name, measured in rounds.items()},
        "pairs": [asdict(pair) for pair in pairs],
    }
    path.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
