import pytest, time, os
from hypothesis import Phase, settings, Verbosity
from hypothesis.stateful import run_state_machine_as_test
from tests.fleet.machine import Machine
from tests.fleet.mutants import CAUGHT_BY_THE_MODEL
from tests.fleet.valkey import Server
import collections

@pytest.mark.parametrize("m", CAUGHT_BY_THE_MODEL, ids=lambda m: m.name)
def test_m(server: Server, m) -> None:
    n = [0]
    class Unsound(Machine):
        def __init__(self):
            n[0] += 1
            super().__init__()
    Unsound.server = server
    server.mutants = m.scripts()
    t = time.time()
    try:
        run_state_machine_as_test(Unsound, settings=settings(max_examples=250, stateful_step_count=40, deadline=None, derandomize=True, database=None, phases=[Phase.generate], report_multiple_bugs=False, suppress_health_check=list(__import__("hypothesis").HealthCheck)))
        why="MISSED"
    except BaseException as e:
        why=repr(e)[:90]
    print("\nMM", m.name, n[0], round(time.time()-t,1), why)
