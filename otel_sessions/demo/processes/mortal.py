"""A proxy of a demo that kills itself now and then, so that its fleet has something to clean up.

Of several proxies one is killed each minute, in turns. Each knows its turn from the time of day, so that a proxy that
was started again has the same turn as before.
"""

import os
import signal
import threading
import time
from typing import Final, NamedTuple

MINUTE: Final = 60.0


class Turn(NamedTuple):
    """The turn `number` of `among`, which counts from 1."""

    number: int
    among: int


def turn(written: str) -> Turn:
    """Return the turn in a text as 1/3. Raises `ValueError`."""
    number, _, among = written.partition("/")
    found = Turn(int(number), int(among))
    if not 1 <= found.number <= found.among:
        raise ValueError(written)
    return found


def seconds_left(turn: Turn, now: float) -> float:
    """Return the seconds until the next minute of a turn begins, more than 0. `now` is in seconds since 1970."""
    round_seconds = turn.among * MINUTE
    return round_seconds - (now - (turn.number - 1) * MINUTE) % round_seconds


def die_in(turn: Turn) -> None:
    """Kill this process, without a chance to clean up, when the next minute of its turn begins."""
    timer = threading.Timer(seconds_left(turn, time.time()), os.kill, (os.getpid(), signal.SIGKILL))
    timer.daemon = True
    timer.start()
