"""The scripts and what drives them, under random schedules: the fleet's invariants, after every step."""

import os
from typing import Final

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.fleet.doubts import Doubts
from tests.fleet.machine import Machine
from tests.fleet.mutants import METHODS, MUTANTS, Method, Mutant
from tests.fleet.python_mutants import PROCESS_MUTANTS
from tests.fleet.valkey import Server, StoreError

EXAMPLES: Final = int(os.environ.get("FLEET_EXAMPLES", "0"))
"""So many random schedules run in a soak: `make soak PART=model`. Otherwise the same few run each time."""
FEW: Final = 40
BOUND: Final = 300
STEPS: Final = 12
"""A story is one step."""
FOR_DOUBTS: Final = {"a suspect dies anew", "a fence stands for hooks", "an audit ignores the fence"}
"""Guards of scripts whose loss the stories of processes in doubt show."""
CAUGHT: Final = (AssertionError, StoreError, LookupError, ValueError)
"""What is wrong in the world, what a server refuses, or what a process does not understand."""


SCHEDULES: Final = settings(
    max_examples=EXAMPLES or FEW,
    derandomize=not EXAMPLES,
    database=None,
    stateful_step_count=STEPS,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


def run(server: Server, chosen: settings, machine: type[Machine | Doubts] = Machine) -> None:
    machine.server = server
    run_state_machine_as_test(type("Fleet", (machine,), {}), settings=chosen)


def run_until_caught(server: Server, machine: type[Machine | Doubts] = Machine) -> None:
    chosen = settings(
        max_examples=BOUND,
        stateful_step_count=STEPS,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        print_blob=False,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    with pytest.raises(CAUGHT):
        run(server, chosen, machine)


@pytest.mark.no_cover
def test_the_fleet_keeps_its_books_and_its_cap_whatever_happens(server: Server) -> None:
    run(server, SCHEDULES)


@pytest.mark.no_cover
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_the_model_catches_a_script_that_lacks_a_guard(server: Server, mutant: Mutant) -> None:
    server.mutants = mutant.scripts()
    run_until_caught(server, Doubts if mutant.name in FOR_DOUBTS else Machine)


@pytest.mark.no_cover
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_the_model_catches_a_process_that_lacks_a_guard(
    server: Server, method: Method, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(method.owner, method.method, method.changed())
    run_until_caught(server)


@pytest.mark.no_cover
def test_processes_in_doubt_serve_nothing_twice_and_lose_nothing(server: Server) -> None:
    run(server, SCHEDULES, Doubts)


@pytest.mark.no_cover
@pytest.mark.parametrize("method", PROCESS_MUTANTS, ids=lambda method: method.name)
def test_stories_of_processes_in_doubt_catch_a_process_that_lacks_a_guard(
    server: Server, method: Method, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(method.owner, method.method, method.changed())
    run_until_caught(server, Doubts)
