"""What several workers cost beside one: requests per CPU second, in rounds that take turns; part of `make bench-proxy`.

Clients that keep their connection stay with one worker. If a connection leads anywhere, most clients come to a worker
that does not have their session, and passes their requests on. If each request leads anywhere, no worker gets the same
head again either. Only the CPU time of the proxy's processes counts. Needs wrk and nginx.
"""

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import psutil

from otel_sessions._program.arguments import count

from .machine import machine
from .progress import progress
from .proxies import crowds
from .proxies.cpu import CpuClock, cpu_clock
from .proxies.crowds import CLIENTS, Crowd, NoSession
from .proxies.results import Target, at_least
from .proxies.servers import NotStarted, origin, ours
from .proxies.wrk import Load, LoadFailed, Round, load_with
from .spread import Spread

RESULTS: Final = Path(__file__).parent / "results" / "workers.json"
WORKERS: Final = (1, 2, 4)
LEAST: Final = {Crowd.KEPT: 0.9, Crowd.ANYWHERE: 0.5, Crowd.SPREAD: 0.5}
"""What share of one worker's requests per CPU second several workers reach, as the design wants it."""
ROUNDS, SECONDS = 5, 2

Rounds = Mapping[Crowd, Mapping[int, list[Round]]]
"""By crowd and number of workers."""


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """A proxy that runs, and what wrk runs against it."""

    url: str
    process: psutil.Process
    scripts: Mapping[Crowd, str]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="under a minute: two rounds of one second")
    parser.add_argument("--rounds", type=count, help=f"{ROUNDS}")
    parser.add_argument("--results", type=Path, help="the file for JSON; with --quick none unless said")
    options = parser.parse_args(arguments)
    missing = [program for program in ("wrk", "nginx") if not shutil.which(program)]
    if missing:
        sys.exit(f"the benchmark of workers needs {' and '.join(missing)}: apt-get install wrk nginx-light")
    clock, seconds = cpu_clock(), 1 if options.quick else SECONDS
    try:
        rounds = run(options.rounds or (2 if options.quick else ROUNDS), seconds, clock)
    except (LoadFailed, NoSession, NotStarted) as error:
        print(f"the benchmark of workers failed: {error}", file=sys.stderr)
        return 1
    for line in lines(rounds):
        print(line)
    results = options.results or (None if options.quick else RESULTS)
    if results is not None:
        how = {"seconds": seconds, "clients": CLIENTS, "sessions": crowds.SPREAD_OVER, "cpu": clock.name}
        document = {"machine": machine("httptools", "uvicorn", "uvloop"), **how, **described(rounds)}
        results.write_text(json.dumps(document, indent=1) + "\n")
        print(f"written: {results}")
    return 0


def run(rounds: int, seconds: int, clock: CpuClock) -> Rounds:
    """Measure, after a first round that only warms. Raises `LoadFailed`, `NoSession` or `NotStarted`."""
    found: dict[Crowd, dict[int, list[Round]]] = {crowd: {workers: [] for workers in WORKERS} for crowd in Crowd}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as running:
        behind = running.enter_context(origin(Path(folder)))
        contestants: dict[int, Contestant] = {}
        for workers in WORKERS:
            flags = ("--workers", str(workers), "--max-sessions", "10000")
            server = running.enter_context(ours(f"workers-{workers}", behind.url, Path(folder), *flags))
            ids = list(crowds.opened(server.url))
            scripts = {
                Crowd.KEPT: crowds.kept(),
                Crowd.ANYWHERE: crowds.anywhere(ids),
                Crowd.SPREAD: crowds.spread(ids),
            }
            contestants[workers] = Contestant(url=server.url, process=server.process, scripts=scripts)
        for number in range(rounds + 1):
            for crowd in Crowd:
                for workers in WORKERS if number % 2 else reversed(WORKERS):
                    progress(f"round {number} of {rounds}: {workers} workers, {crowd}")
                    one = contestants[workers]
                    round_ = load_with(one.scripts[crowd], one.url, one.process, Load(CLIENTS, CLIENTS, seconds), clock)
                    if number:
                        found[crowd][workers].append(round_)
    progress("")
    return found


def ratio(rounds: Rounds, crowd: Crowd, workers: int) -> Spread:
    """Return what share of one worker's requests per CPU second several workers reach, in the same rounds."""
    by_workers = rounds[crowd]
    return Spread.of([one.cpu / beside.cpu for one, beside in zip(by_workers[1], by_workers[workers], strict=True)])


def targets(rounds: Rounds) -> Iterator[Target]:
    for crowd, least in LEAST.items():
        for workers in WORKERS[1:]:
            yield at_least(f"{workers} workers, {crowd}", least, "of one worker's", ratio(rounds, crowd, workers))


def lines(rounds: Rounds) -> Iterator[str]:
    """Yield the table, and the targets as met or missed."""
    for crowd, by_workers in rounds.items():
        yield ""
        yield f"{crowd:<40}{'a second':>10}{'CPU us each':>14}{'of one worker':>16}"
        for workers, measured in by_workers.items():
            rate, cpu = Spread.of([one.rate for one in measured]), Spread.of([one.cpu * 1e6 for one in measured])
            share = ratio(rounds, crowd, workers).median
            yield f"  --workers {workers:<28}{rate.median:>10.0f}{cpu.median:>14.0f}{share:>16.2f}"
    yield ""
    for target in targets(rounds):
        yield f"{target.verdict:<10}{target.what:<48}{target.wanted:<32}{target.found or ''}"


def described(rounds: Rounds) -> dict[str, Any]:
    """Return the targets and every round, ready for JSON."""
    return {
        "targets": [asdict(target) for target in targets(rounds)],
        "rounds": {
            crowd: {str(workers): [asdict(one) for one in measured] for workers, measured in by_workers.items()}
            for crowd, by_workers in rounds.items()
        },
    }


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
