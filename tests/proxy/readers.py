"""A client that reads an answer slowly, and sees whether the machine has let it read as it meant to."""

import socket
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How many bytes have come, and the longest time between two parts in seconds.

    After a time that is as long as a deadline of the proxy, the machine has stood still: the reading shows nothing.
    """

    size: int
    longest: float


def read_slowly(client: socket.socket, at_once: int, pause: Callable[[int], float]) -> Reading:
    """Read until the other side closes. `pause` returns the seconds to wait after so many bytes."""
    size, longest, last = 0, 0.0, time.monotonic()
    while part := client.recv(at_once):
        size += len(part)
        time.sleep(pause(size))
        longest, last = max(longest, time.monotonic() - last), time.monotonic()
    return Reading(size=size, longest=longest)
