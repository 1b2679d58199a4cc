"""A proxy that is killed now and then, in turns with others."""

import signal
import subprocess
import sys

import pytest

from otel_sessions.demo.processes.mortal import Turn, seconds_left, turn
from tests.waiting import PATIENCE


@pytest.mark.parametrize(
    ("number", "now", "seconds"),
    [(1, 0.0, 180.0), (1, 1.0, 179.0), (1, 179.5, 0.5), (2, 0.0, 60.0), (2, 60.0, 180.0), (3, 60.0, 60.0)],
)
def test_a_turn_begins_with_a_minute_of_its_own(number: int, now: float, seconds: float) -> None:
    assert seconds_left(Turn(number, 3), now) == seconds
    assert seconds_left(Turn(number, 3), now + 180 * 9_000_000) == seconds


def test_in_each_minute_one_proxy_is_killed() -> None:
    for now in range(0, 600, 7):
        soonest = sorted(seconds_left(Turn(number, 3), float(now)) for number in (1, 2, 3))
        assert 0 < soonest[0] <= 60
        assert [seconds - soonest[0] for seconds in soonest] == [0, 60, 120]


@pytest.mark.parametrize("written", ["", "1", "0/3", "4/3", "1/0", "a/3", "1/3/3"])
def test_what_is_no_turn_is_refused(written: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # argparse says the rest
        turn(written)


def test_a_proxy_whose_turn_has_come_gets_no_chance_to_clean_up() -> None:
    program = (
        "import time; from otel_sessions.demo.processes import mortal\n"
        "mortal.time.time = lambda: 59.9\n"
        "mortal.die_in(mortal.turn('2/3'))\n"
        f"time.sleep({PATIENCE})"
    )
    done = subprocess.run([sys.executable, "-c", program], check=False, timeout=PATIENCE)

    assert done.returncode == -signal.SIGKILL
