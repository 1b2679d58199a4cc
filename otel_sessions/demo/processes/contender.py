"""One side of the demo: a proxy, the clients that load it, and the samples of both so far."""

from typing import Final

from otel_sessions import SessionConfig
from otel_sessions.demo.load.clients import Load
from otel_sessions.demo.result.history import History, Sample

from .children import Child
from .readings import Reading

_PACE: Final = 0.25
_MOST: Final = 4000
"""The largest number of readings in a run: each look goes through all of them."""


def pace(duration: float) -> float:
    """Return the seconds from one reading to the next, in a run of `duration` seconds."""
    return max(_PACE, duration / _MOST)


class Contender:
    """A proxy in its own process, which writes readings, and its load from this process."""

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
        """Whether the proxy was killed. If so, its load ends."""
        return self.proxy.killed

    @property
    def history(self) -> History:
        """The history so far. It grows during the load."""
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
        """Stop the proxy, and keep its last reading if it has ended in order."""
        self.proxy.stop()
        if self.proxy.ended_well and self.proxy.last_line is not None:
            self._last = Reading.from_json(self.proxy.last_line)
