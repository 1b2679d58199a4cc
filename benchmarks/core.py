"""What the session manager costs, beside what one would use instead: `make bench`, or `python -m benchmarks.core`.

Every round measures every contestant at every size once, in a process of its own and in an order of its own. A missed
target is said and fails nothing, since machines are noisy; a contestant that goes wrong ends the run with status 1.
"""

import argparse
import json
import os
import random
import subprocess
import sys
from pathlib import Path

from otel_sessions._program.arguments import count

from . import picture, report
from .contestants import ALL
from .machine import machine
from .progress import progress
from .results import Measured, targets

RESULTS = Path(__file__).parent / "results"
SIZES, QUICK_SIZES = (1_000, 100_000, 1_000_000), (1_000, 100_000)
ROUNDS, QUICK_ROUNDS = 5, 1
PACKAGES = ("cachebox", "cachetools", "moka-py", "anyio", "opentelemetry-api", "opentelemetry-sdk")
"""Whose versions belong to the numbers."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="under a minute: no million, one round")
    parser.add_argument("--rounds", type=count, help=f"{ROUNDS}, or {QUICK_ROUNDS} with --quick")
    parser.add_argument("--seed", type=int, default=1, help="orders the contestants and picks the sessions")
    parser.add_argument("--results", type=Path, help="where JSON and picture go; with --quick nowhere unless said")
    options = parser.parse_args(arguments)
    rounds = options.rounds or (QUICK_ROUNDS if options.quick else ROUNDS)
    sizes = QUICK_SIZES if options.quick else SIZES
    folder = options.results or (None if options.quick else RESULTS)
    measured = run(sizes, rounds, random.Random(options.seed))
    if measured is None:
        return 1
    show(measured, rounds, folder)
    return 0


def run(sizes: tuple[int, ...], rounds: int, dice: random.Random) -> Measured | None:
    """Measure, and return the numbers; None after saying which contestant failed."""
    measured: Measured = {kind.name: {size: {} for size in sizes} for kind in ALL}
    for number in range(rounds):
        turns = [(kind.name, size) for kind in ALL for size in sizes]
        dice.shuffle(turns)
        for done, (name, size) in enumerate(turns):
            progress(f"round {number + 1} of {rounds}, {done} of {len(turns)}: {name} at {size:,}")
            numbers = measure(name, size, dice.randrange(2**32))
            if numbers is None:
                print(f"{name} failed at {size:,} sessions", file=sys.stderr)
                return None
            for key, value in numbers.items():
                if value is not None:
                    measured[name][size].setdefault(key, []).append(value)
    progress("")
    return measured


def measure(name: str, size: int, seed: int) -> dict[str, float | None] | None:
    """Measure one contestant in a process of its own, without the environment's say on telemetry; None if it fails."""
    environ = {key: value for key, value in os.environ.items() if not key.startswith(("OTEL_", "PYTHON"))}
    command = [sys.executable, "-m", "benchmarks.measure", name, str(size), str(seed)]
    done = subprocess.run(command, stdout=subprocess.PIPE, env=environ, text=True, check=False)
    if done.returncode:
        return None
    numbers: dict[str, float | None] = json.loads(done.stdout)
    return numbers


def show(measured: Measured, rounds: int, folder: Path | None) -> None:
    reached = list(targets(measured))
    measured_on = machine(*PACKAGES)
    about = ", ".join(f"{key} {value}" for key, value in measured_on.items())
    print(f"{rounds} rounds, {report.EXPLAINED}\n{about}")
    for line in (*report.table(measured), *report.verdicts(reached, measured)):
        print(line)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        report.write_json(folder / "core.json", measured, reached, measured_on)
        picture.draw(folder / "core.svg", measured)
        print(f"written: {folder / 'core.json'} and core.svg beside it")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
