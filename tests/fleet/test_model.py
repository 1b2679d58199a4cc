"""The scripts and what drives them, under random schedules: DESIGN's invariants of the fleet, after every step."""

from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.fleet.machine import Machine
from tests.fleet.valkey import Server

PHASES=[Phase.generate]

def test_the_fleet_keeps_its_books_and_its_cap_whatever_happens(server: Server) -> None:
    class Sound(Machine):
        pass

    Sound.server = server
    run_state_machine_as_test(Sound, settings=settings(max_examples=60, stateful_step_count=40, deadline=None, phases=PHASES, report_multiple_bugs=False))
