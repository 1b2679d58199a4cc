"""A reading: what a proxy says of itself at one moment, as a line of JSON on its way to the parent."""

import json
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Self

import psutil

from otel_sessions import SessionManager
from otel_sessions.demo.limits import patience

from .weight import Weights


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """The manager's books, and the process's resident memory, in bytes.

    `overstaying` counts the sessions whose weights are held although nobody has used them for longer than the limits
    let them stay.
    """

    created: int
    active: int
    peak_active: int
    cleaned: Mapping[str, int]
    rejected: Mapping[str, int]
    passes: int
    errors: int
    overstaying: int
    memory: int

    @classmethod
    def take(cls, manager: SessionManager[Any], weights: Weights) -> "Reading":
        stats = manager.get_metrics()
        return cls(
            created=stats.total_created,
            active=stats.currently_active,
            peak_active=stats.peak_active,
            cleaned={str(reason): count for reason, count in stats.cleaned_by_reason.items()},
            rejected={str(reason): count for reason, count in stats.rejected.items()},
            passes=stats.cleanup_runs,
            errors=stats.cleanup_errors,
            overstaying=weights.unused_for(patience(manager.config)),
            memory=psutil.Process().memory_info().rss,
        )

    @classmethod
    def from_json(cls, text: str) -> "Reading":
        return cls(**json.loads(text))

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @property
    def total_cleaned(self) -> int:
        return sum(self.cleaned.values())

    @property
    def total_rejected(self) -> int:
        return sum(self.rejected.values())

    @property
    def balanced(self) -> bool:
        return self.created == self.total_cleaned + self.active


class Readings:
    """Writes readings of a manager to stdout: one every so many seconds, from a thread, and a last one at the end.

    The last one is taken behind the manager's shutdown, so it is about sessions that have all ended.
    """

    def __init__(self, seconds: float, weights: Weights) -> None:
        self._seconds = seconds
        self._weights = weights
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._manager: SessionManager[Any] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()
            self._write()

    def follow(self, manager: SessionManager[Any]) -> None:
        """Begin; the manager's loop may be busy, its books can be read all the same."""
        self._manager = manager
        self._thread = threading.Thread(target=self._go_on, daemon=True)
        self._thread.start()

    def _go_on(self) -> None:
        self._write()
        while not self._over.wait(self._seconds):
            self._write()

    def _write(self) -> None:
        assert self._manager is not None
        with suppress(BrokenPipeError):  # the parent is gone
            sys.stdout.write(f"{Reading.take(self._manager, self._weights).to_json()}\n")
            sys.stdout.flush()
