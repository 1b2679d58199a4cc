"""The long form of the fault matrix: `python -m tests.fleet.soak [--quick] [PART...]`, or `make soak`.

It writes the results, from which `make settings` writes the tables of the page on the fault matrix. A row that goes
wrong ends the run with status 1. `--quick` takes a tenth of the sessions and records.
"""

import argparse
import os
import subprocess
import sys
import time
from dataclasses import asdict
from typing import Final

import pytest

from tests.fleet.servers import valkey_program
from tests.waiting import until

from . import creating, simulated
from .results import figures, write
from .rows import ROWS, Row
from .servers import found, version_of

PARTS: Final = ("rows", "sessions", "records", "creates", "model")
_LONG: Final = 3600.0
"""Seconds that a condition of the long form may take."""


def say(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def run_rows() -> bool:
    """Run each row on each server that is here. Return whether all rows hold."""
    hold = [run_row(server, row) for server in found() for row in ROWS]
    return all(hold)


def run_row(server: str, row: Row) -> bool:
    begun, version = time.monotonic(), version_of(server)
    try:
        verdict = row.run(server)
    except pytest.skip.Exception as why:
        write("rows", f"{version}: {row.name}", {"skipped": str(why)})
        say(version, row.name, "skipped:", why)
        return True
    write("rows", f"{version}: {row.name}", figures(verdict))
    say(version, row.name, f"{time.monotonic() - begun:.1f} s", "holds" if row.holds(verdict) else verdict)
    return row.holds(verdict)


def run_sessions(sessions: int) -> bool:
    """Run five replicas with many sessions, and kill one of them."""
    processes = 5
    wanted = sessions // processes
    verdict = ROWS[0].run(
        valkey_program(),
        processes=processes,
        before=wanted,
        wanted=wanted,
        cap=sessions * 11 // 10,
        shards=16,
        lease=15.0,
        creators=64,
        serves=50,
    )
    write("sessions", "replica killed", figures(verdict))
    say("sessions", verdict if not ROWS[0].holds(verdict) else f"hold: {verdict.made} made, {verdict.hooks} orphans")
    return ROWS[0].holds(verdict)


def run_records(records: int) -> None:
    for server in found():
        cost = simulated.measure(server, records, seconds=30)
        write("records", version_of(server), asdict(cost))
        say(version_of(server), cost)


def run_creates() -> None:
    for server in found():
        times = creating.measure(server, 5_000)
        write("creates", version_of(server), asdict(times))
        say(version_of(server), times)


def run_model(schedules: int) -> bool:
    """Run the model of the scripts on so many random schedules of each kind. Return whether all hold."""
    tests = ("tests/fleet/test_model.py", "-k", "whatever_happens or processes_in_doubt_serve")
    command = [sys.executable, "-m", "pytest", "-q", "-n", "2", *tests]
    done = subprocess.run(command, env=os.environ | {"FLEET_EXAMPLES": str(schedules)}, check=False)
    say("model", schedules, "holds" if done.returncode == 0 else "fails")
    return done.returncode == 0


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.fleet.soak")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("parts", nargs="*", metavar="PART", default=list(PARTS), help=", ".join(PARTS))
    told = parser.parse_args()
    until.__defaults__ = (_LONG,)
    tenth = 10 if told.quick else 1
    holds = True
    if "rows" in told.parts:
        holds &= run_rows()
    if "sessions" in told.parts:
        holds &= run_sessions(100_000 // tenth)
    if "records" in told.parts:
        run_records(1_000_000 // tenth)
    if "creates" in told.parts:
        run_creates()
    if "model" in told.parts:
        holds &= run_model(3_000 // tenth)
    sys.exit(0 if holds else 1)


if __name__ == "__main__":
    main()
