"""A replica that kills itself when it is its turn, so that a fleet shows what a death costs.

Turns go by the wall clock, so processes that know nothing of each other never die at once. SIGKILL lets nothing be put
in order, as a crash or the system's out-of-memory killer does. Whoever started the process starts it again.
"""

import os
import signal
import threading
import time
from typing import Final

from otel_sessions._core.options import Expected

_LEAST_SECONDS: Final = 45.0
"""How long a replica lives at least: whoever starts all of them waits until each is well."""

Turn = tuple[int, int]
"""The number of a turn, from 1, and how many turns there are."""


def read_turn(said: str) -> Turn:
    """Return the turn that a text as `1/3` names. Raises `Expected` if it names no turn."""
    number, _, turns = said.partition("/")
    if not (number.isdecimal() and turns.isdecimal() and 1 <= int(number) <= int(turns)):
        raise Expected("a turn as 1/3, of at least 1")
    return int(number), int(turns)


def seconds_left(turn: Turn, now: float, every: float) -> float:
    """Return the seconds from `now` until a turn. A turn begins every `every` seconds, each turn after the last one.

    A turn that begins at once is left out.
    """
    number, turns = turn
    left = every * turns - (now - every * number) % (every * turns)
    return left if left >= _LEAST_SECONDS else left + every * turns


def die_in_turn(turn: Turn, every: float = 60.0) -> None:
    """Kill this process when its turn begins."""
    threading.Thread(target=_die, args=[seconds_left(turn, time.time(), every)], daemon=True).start()


def _die(seconds: float) -> None:
    time.sleep(seconds)
    os.kill(os.getpid(), signal.SIGKILL)
