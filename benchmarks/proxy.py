"""What the reference proxy costs, beside nginx and the proxies of others: `make bench-proxy`.

Each round measures every contestant once in each workload; every other round begins with the last one. What counts is
the CPU time of the contestant's processes, as a multiple of nginx' in the same round. What a session costs is measured
in pairs of short rounds. Needs wrk and nginx on the PATH: `apt-get install wrk nginx-light`. Peers that are not there
are named, and a missed target fails nothing; a contestant of ours that goes wrong ends the run with status 1.
"""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import anyio

from otel_sessions._program.arguments import at_least, count

from .machine import machine
from .progress import progress
from .proxies import events, memory, picture, table, wrk
from .proxies.asked import Workload
from .proxies.cpu import CpuClock, cpu_clock
from .proxies.field import DIRECT, NGINX, ON_ASYNCIO, OURS, WITHOUT, Field, started_field
from .proxies.handling import FEWEST, Pair, in_turns
from .proxies.peers import HOMES, PEERS
from .proxies.results import Measured, Memory, Rounds
from .proxies.servers import NotStarted, resident
from .proxies.wrk import LoadFailed, Round, Target
from .unit import Unit

RESULTS = Path(__file__).parent / "results"
NEEDED = (DIRECT, NGINX, OURS, WITHOUT, ON_ASYNCIO)
"""Those without whom a run says nothing."""
PAIR_CONNECTIONS = 4
"""Enough to keep the proxy busy; requests that a round leaves unfinished are not counted, but took time."""
UNITS = 5
"""How often u is read."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much is measured: rounds of so many seconds, pairs of one second, with so many connections or streams."""

    rounds: int = 5
    seconds: int = 2
    pairs: int = 40
    connections: int = 4
    streams: int = 32


QUICK = Plan(rounds=1, seconds=1, pairs=FEWEST)


def main(arguments: list[str] | None = None) -> int:
    usual = Plan()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"two minutes: one round, {FEWEST} pairs, few seconds")
    parser.add_argument("--rounds", type=count, help=f"of the table; {usual.rounds}")
    parser.add_argument("--seconds", type=count, help=f"how long a round takes; {usual.seconds}")
    parser.add_argument("--pairs", type=at_least(FEWEST), help=f"of rounds of one second; {usual.pairs}")
    parser.add_argument("--results", type=Path, help="where JSON and picture go; with --quick nowhere unless said")
    options = parser.parse_args(arguments)
    usual = QUICK if options.quick else usual
    plan = Plan(
        rounds=options.rounds or usual.rounds,
        seconds=options.seconds or usual.seconds,
        pairs=options.pairs or usual.pairs,
    )
    missing = [program for program in ("wrk", "nginx") if not shutil.which(program)]
    if missing:
        sys.exit(f"bench-proxy needs {' and '.join(missing)}: apt-get install wrk nginx-light")
    clock = cpu_clock()
    try:
        measured = run(plan, clock)
    except (LoadFailed, NotStarted) as error:
        print(f"bench-proxy failed: {error}", file=sys.stderr)
        return 1
    show(measured, plan, clock, options.results or (None if options.quick else RESULTS))
    return 0


def run(plan: Plan, clock: CpuClock) -> Measured:
    """Measure. Raises `LoadFailed` or `NotStarted` if a contestant that is needed goes wrong."""
    progress("starting all")
    with tempfile.TemporaryDirectory() as folder, started_field(Path(folder), HOMES) as field:
        rounds = compared(field, plan, clock)
        pairs = paired(field.targets[Workload.POST], plan.pairs, clock)
        progress("memory, and u")
        used = {
            name: Memory(at_start=server.at_start, after=resident(server.process))
            for name, server in field.servers.items()
        }
        kept = memory.after_abandoned(field.origin, Path(folder))
        absent = dict(field.absent)
    progress("")
    abandoned = dict(zip(memory.MARKS, kept, strict=True))
    return Measured(rounds=rounds, pairs=pairs, u=anyio.run(unit), memory=used, abandoned=abandoned, absent=absent)


def compared(field: Field, plan: Plan, clock: CpuClock) -> Rounds:
    """Run the rounds, after a first one that only warms. A peer that fails leaves that workload."""
    rounds: Rounds = {workload: {name: [] for name in targets} for workload, targets in field.targets.items()}
    for number in range(plan.rounds + 1):
        for workload, targets in field.targets.items():
            names = list(targets) if number % 2 else list(reversed(targets))
            for name in names:
                progress(f"round {number} of {plan.rounds}: {workload}, {name}")
                round_ = tried(field, workload, name, plan, clock)
                if round_ is not None and number:
                    rounds[workload][name].append(round_)
    return {
        workload: {name: measured for name, measured in by_name.items() if measured}
        for workload, by_name in rounds.items()
    }


def tried(field: Field, workload: Workload, name: str, plan: Plan, clock: CpuClock) -> Round | None:
    """Run one round. Returns None for a peer that fails, or that has left."""
    target = field.targets[workload].get(name)
    if target is None:
        return None
    try:
        if workload is Workload.EVENT:
            round_ = events.load(target, plan.streams, plan.seconds, clock)
            events.end_all(field.origin)
            return round_
        # A call takes others' proxies so long that few fit into a round.
        return wrk.load(target, plan.connections, plan.seconds * (2 if workload is Workload.CALL else 1), clock)
    except LoadFailed as error:
        if name in NEEDED:
            raise LoadFailed(f"{name}, {workload}: {error}") from error
        field.leave(workload, name, str(error))
        return None


def paired(targets: Mapping[str, Target], pairs: int, clock: CpuClock) -> list[Pair]:
    """Run so many pairs of ours, in rounds of one second: the same request in a session, and for a skipped path."""
    progress(f"{pairs} pairs of rounds")

    def load_for_a_second(name: str) -> Round:
        return wrk.load(targets[name], PAIR_CONNECTIONS, 1, clock)

    return in_turns(lambda: load_for_a_second(OURS), lambda: load_for_a_second(WITHOUT), pairs)


async def unit() -> float:
    """Return what u takes, in seconds."""
    bare = await Unit.ready()
    return median([await bare.seconds() for _ in range(UNITS)])


def show(measured: Measured, plan: Plan, clock: CpuClock, folder: Path | None) -> None:
    how = {"seconds": plan.seconds, "connections": plan.connections, "streams": plan.streams, "cpu": clock.name}
    print(f"{plan.rounds} rounds; {', '.join(f'{key} {value}' for key, value in how.items())}")
    for line in table.tables(measured):
        print(line)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        table.write_json(folder / "proxy.json", measured, described(measured.absent), how)
        picture.draw(folder / "proxy.svg", measured)
        print(f"written: {folder / 'proxy.json'} and proxy.svg beside it")


def described(absent: Mapping[str, str]) -> dict[str, Any]:
    """Describe the machine, and which packages of ours and of the peers were measured."""
    return {**machine("httptools", "uvicorn", "uvloop", "fastmcp"), "peers": packages(absent)}


def packages(absent: Mapping[str, str]) -> dict[str, Sequence[str]]:
    return {peer.name: peer.packages for peer in PEERS if peer.name not in absent}


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
