"""How a proxy has fared under its load, moment by moment, and what follows from that; and a run as it stands.

Pure. While a run goes on its samples grow; everything else here is computed from them.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from otel_sessions import SessionConfig
from otel_sessions.demo.load.clients import LoadOptions
from otel_sessions.demo.load.counts import ClientCounts, Snapshot, percentile
from otel_sessions.demo.load.scenario import Stage
from otel_sessions.demo.processes.readings import Reading

_RATE_SECONDS: Final = 3.0
"""What the request rate of the moment is taken over."""
BY_CLEANUP: Final = ("idle_timeout", "max_age", "evicted")
"""The end reasons that only cleanup gives, on an interval or in an emergency."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One moment: seconds since the load began, the proxy's reading, and what its clients had counted by then."""

    elapsed: float
    reading: Reading
    counts: Snapshot


@dataclass(frozen=True, kw_only=True, slots=True)
class History:
    """One proxy's: its limits, its reading before the load, samples under it, and the last reading, from behind the
    shutdown, None while it runs or if it gave none; what its clients count, which goes on while it runs; and whether
    it was killed."""

    limits: SessionConfig
    start: Reading
    samples: Sequence[Sample]
    last: Reading | None
    counts: ClientCounts
    killed: bool = False

    @property
    def readings(self) -> list[Reading]:
        last = [] if self.last is None else [self.last]
        return [self.start, *(sample.reading for sample in self.samples), *last]

    @property
    def now(self) -> Reading:
        """The latest reading under load, the one before it if there is none."""
        return self.samples[-1].reading if self.samples else self.start

    @property
    def counted(self) -> Snapshot:
        """What its clients had counted at the moment of `now`."""
        return self.samples[-1].counts if self.samples else Snapshot()

    @property
    def end(self) -> Reading:
        """The latest reading of all, with the proxy's books at their last."""
        return self.last or self.now

    @property
    def most_active(self) -> int:
        return max(reading.peak_active for reading in self.readings)

    @property
    def peak_memory(self) -> int:
        return max(reading.memory for reading in self.readings)

    @property
    def elapsed(self) -> float:
        return self.samples[-1].elapsed if self.samples else 0.0

    @property
    def rate(self) -> float:
        """Requests a second: of the last seconds while it runs, of the whole run when that is over."""
        if not self.samples:
            return 0.0
        if self.last is not None:
            return self.counts.requests / self.elapsed
        before = self.at(self.elapsed - _RATE_SECONDS)
        seconds = self.elapsed - before.elapsed
        return (self.counted.requests - before.counts.requests) / seconds if seconds else 0.0

    @property
    def latency(self) -> tuple[float, float]:
        """The median and the 99th percentile of the latency, in seconds: of the moment, or of the whole run."""
        if self.last is None:
            return self.counted.p50, self.counted.p99
        return percentile(self.counts.latencies, 0.5), percentile(self.counts.latencies, 0.99)

    def at(self, elapsed: float) -> Sample:
        """Return the sample of a moment: the last one up to it, or the first there is."""
        return self.samples[max(0, bisect_right(self.samples, elapsed, key=lambda sample: sample.elapsed) - 1)]


def cleaned_by_cleanup(reading: Reading) -> int:
    """Return how many sessions cleanup has ended by then."""
    return sum(reading.cleaned.get(reason, 0) for reason in BY_CLEANUP)


@dataclass(frozen=True, kw_only=True, slots=True)
class State:
    """The histories so far, None for a twin that there is not; seconds that the load lasts and since it began; the
    stage of its scenario, None when it is over; and what it is made of."""

    ours: History
    twin: History | None
    duration: float
    elapsed: float
    stage: Stage | None
    load: LoadOptions

    @property
    def histories(self) -> list[History]:
        return [self.ours] if self.twin is None else [self.ours, self.twin]
