"""The clients' own count of what they did and got, to be held against the proxy's books."""

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

_LATENCIES: Final = 100_000
"""How many latencies are kept, the latest, so that a load may run for days."""


@dataclass(slots=True)
class Tally:
    """Sums over all clients. `latencies` are in seconds, of the latest requests that were answered as they should be.

    `answered` counts requests with an answer of any kind and `unanswered` those without an answer; `silence` says why
    the latest request without an answer has none. `gone` counts requests for a session that had ended, `told_to_wait`
    the rejections that said for how long, `unexpected` requests without an answer, and answers that none of the other
    numbers covers.
    """

    opened: int = 0
    closed: int = 0
    abandoned: int = 0
    gone: int = 0
    rejected: int = 0
    told_to_wait: int = 0
    unexpected: int = 0
    requests: int = 0
    answered: int = 0
    unanswered: int = 0
    silence: str = ""
    latencies: deque[float] = field(default_factory=lambda: deque(maxlen=_LATENCIES))

    def recent(self, most: int) -> list[float]:
        """Return the latest latencies, at most so many."""
        return [self.latencies[place] for place in range(max(-most, -len(self.latencies)), 0)]


def percentile(values: Iterable[float], share: float) -> float:
    """Return the value that a `share` of all values, from 0 to 1, do not exceed; 0 if there are none."""
    ranked = sorted(values)
    if not ranked:
        return 0.0
    return ranked[max(0, math.ceil(share * len(ranked)) - 1)]
