"""One side of the demo: a proxy, the clients that load it, and what was seen of both so far."""

from typing import Final

from otel_sessions import SessionConfig
from otel_sessions.demo.load.clients import Load
from otel_sessions.demo.result.history import History, Sample

from .children import Child
from .readings import Reading

_PACE: Final = 0.25
_MOST: Final = 4000
"""How many readings are kept of a run, at most: each look at it goes through all of them."""


def pace(duration: float) -> float:
    """Return how many seconds there are from one reading to the next in a run of so many seconds."""
    return max(_PACE, duration / _MOST)


class Contender:
    """A proxy in a process of its own, which writes readings, under a load from here."""

    def __init__(self, limits: SessionConfig, proxy: Child, load: Load) -> None:
        self.proxy: Final = proxy
        self.load: Final = load
        self._limits = limits
        self._samples: list[Sample] = []
        self._start: Reading | None = None
        self._last: Reading | None = None
        self._said: str | None = None

    @property
    def started(self) -> bool:
        """Whether there is a first reading."""
        if self._start is None and self.proxy.last_line is not None:
            self._start = Reading.from_json(self.proxy.last_line)
        return self._start is not None

    @property
    def killed(self) -> bool:
        """Whether the proxy was killed, which ends its load."""
        return self.proxy.killed

    @property
    def history(self) -> History:
        """What was seen; it grows while the load goes on."""
        assert self._start is not None
        return History(
            limits=self._limits,
            start=self._start,
            samples=self._samples,
            last=self._last,
            counts=self.load.counts,
            killed=self.killed,
        )

    def look(self, elapsed: float) -> None:
        """Take a sample, if the proxy has written a new reading."""
        said = self.proxy.last_line
        if said is None or said is self._said:
            return
        self._said = said
        self._samples.append(
            Sample(elapsed=elapsed, reading=Reading.from_json(said), counts=self.load.counts.snapshot())
        )

    def close(self) -> None:
        """Wait for the proxy's orderly end, and keep its last reading if it came to that."""
        self.proxy.stop()
        if self.proxy.ended_well and self.proxy.last_line is not None:
            self._last = Reading.from_json(self.proxy.last_line)
