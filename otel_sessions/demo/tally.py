"""The clients' own count of what they did and got, to be held against the proxy's books."""

import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(slots=True)
class Tally:
    """Sums over all clients. `latencies` are in seconds, of every request that was answered as it should be.

    `gone` counts requests for a session that had ended, `unexpected` answers that none of the other numbers covers.
    """

    opened: int = 0
    closed: int = 0
    failed: int = 0
    abandoned: int = 0
    gone: int = 0
    rejected: int = 0
    unexpected: int = 0
    requests: int = 0
    latencies: "array[float]" = field(default_factory=lambda: array("d"))


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that a `share` of all values, from 0 to 1, do not exceed; 0 if there are none."""
    if not values:
        return 0.0
    ranked = sorted(values)
    return ranked[max(0, math.ceil(share * len(ranked)) - 1)]
