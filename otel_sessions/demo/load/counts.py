"""The clients' counts of their requests and answers, which are compared with the proxy's books.

`ClientCounts` grow during the load. A `Snapshot` has the counts of one moment, because a view shows the numbers of one
moment.
"""

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Final

_LATENCIES: Final = 100_000
"""The number of latest latencies that are kept, so that a load may run for days."""
_RECENT: Final = 500
"""The number of latest requests over which the current percentiles are taken."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """The counts at one moment. `p50` and `p99` are percentiles of the latest latencies, in seconds."""

    opened: int = 0
    closed: int = 0
    abandoned: int = 0
    gone: int = 0
    rejected: int = 0
    told_to_wait: int = 0
    unexpected: int = 0
    requests: int = 0
    p50: float = 0.0
    p99: float = 0.0


@dataclass(slots=True)
class ClientCounts:
    """Sums over all clients. `latencies` are the latencies of the latest successful requests, in seconds.

    `answered` counts requests with an answer of any kind, and `unanswered` counts requests without an answer. `silence`
    is the error of the latest request without an answer. `gone` counts requests in a session that had ended.
    `told_to_wait` counts rejections with a `Retry-After`. `unexpected` counts requests without an answer, and answers
    that no other number covers.
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

    @property
    def p50(self) -> float:
        """The median of the latest latencies."""
        return percentile(self._recent, 0.5)

    @property
    def p99(self) -> float:
        """The 99th percentile of the latest latencies."""
        return percentile(self._recent, 0.99)

    def snapshot(self) -> Snapshot:
        """Return the counts at this moment."""
        return Snapshot(**{field.name: getattr(self, field.name) for field in fields(Snapshot)})

    @property
    def _recent(self) -> list[float]:
        return [self.latencies[place] for place in range(max(-_RECENT, -len(self.latencies)), 0)]


def percentile(values: Iterable[float], share: float) -> float:
    """Return the value that a `share` of all values, from 0 to 1, do not exceed; 0 without values."""
    ranked = sorted(values)
    if not ranked:
        return 0.0
    return ranked[max(0, math.ceil(share * len(ranked)) - 1)]
