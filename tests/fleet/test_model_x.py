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
    run_state_machine_as_test(Sound, settings=settings(max_examples=1500, stateful_step_count=40, deadline=None, phases=PHASES, report_multiple_bugs=False))

def test_z():
    import collections
    print(COUNT)
import collections
from tests.fleet import world
COUNT = collections.Counter()
orig = world.World._run
def run(self, flight):
    a = orig(self, flight)
    n = flight.call.script.name
    COUNT[n, a[0]] += 1
    if n == "claim" and len(a) > 2: COUNT["claimed"] += 1
    if n == "reclaim" and a[0] == b"OK": COUNT.update(("re", bytes(x)[:1]) for x in a[2:])
    if n == "put" and a[0] == b"OK": COUNT.update(("put", bytes(x)[:1]) for x in a[1:])
    if n == "page": COUNT["page"] += 1
    if n == "settle": COUNT.update(("settle", x) for x in a[1:])
    return a
world.World._run = run
