"""The history of a proxy under its load, moment by moment, and the state of a run.

Pure. The samples grow during a run. Everything else is computed from them.
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
"""The seconds over which the current request rate is taken."""
BY_CLEANUP: Final = ("idle_timeout", "max_age", "evicted")
"""The end reasons that only cleanup passes give."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One moment: the seconds since the load began, the proxy's reading, and the clients' counts at this moment."""

    elapsed: float
    reading: Reading
    counts: Snapshot


@dataclass(frozen=True, kw_only=True, slots=True)
class History:
    """The history of one proxy.

    `start` is the reading before the load, and `samples` are the moments under load. `last` is the reading after the
    shutdown: None while the proxy runs, or if it gave no last reading. `counts` grow during the run.
    """

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
        """The latest reading under load, or the reading before the load."""
        return self.samples[-1].reading if self.samples else self.start

    @property
    def counted(self) -> Snapshot:
        """The clients' counts at the moment of `now`."""
        return self.samples[-1].counts if self.samples else Snapshot()

    @property
    def end(self) -> Reading:
        """The latest reading of all, after the shutdown if it is known."""
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
        """Requests per second: over the last seconds during the run, over the whole run when it is over."""
        if not self.samples:
            return 0.0
        if self.last is not None:
            return self.counts.requests / self.elapsed
        before = self.at(self.elapsed - _RATE_SECONDS)
        seconds = self.elapsed - before.elapsed
        return (self.counted.requests - before.counts.requests) / seconds if seconds else 0.0

    @property
    def latency(self) -> tuple[float, float]:
        """The median and the 99th percentile of the latency, in seconds: of the latest requests, or of all."""
        if self.last is None:
            return self.counted.p50, self.counted.p99
        return percentile(self.counts.latencies, 0.5), percentile(self.counts.latencies, 0.99)

    def at(self, elapsed: float) -> Sample:
        """Return the last sample up to a moment, or the first sample."""
        return self.samples[max(0, bisect_right(self.samples, elapsed, key=lambda sample: sample.elapsed) - 1)]


def cleaned_by_cleanup(reading: Reading) -> int:
    """Return the number of sessions that cleanup has ended up to a reading."""
    return sum(reading.cleaned.get(reason, 0) for reason in BY_CLEANUP)


@dataclass(frozen=True, kw_only=True, slots=True)
class State:
    """The state of a run.

    `twin` is None if the run has no twin. `duration` is the length of the load, and `elapsed` the time since it began,
    in seconds. `stage` is None when the load is over.
    """

    ours: History
    twin: History | None
    duration: float
    elapsed: float
    stage: Stage | None
    load: LoadOptions

    @property
    def histories(self) -> list[History]:
        return [self.ours] if self.twin is None else [self.ours, self.twin]
