"""Readings: the state of a proxy at one moment, as a line of JSON for the parent; and the memory of its sessions.

A session's weight is memory that stands for the data of a real session. So sessions that are never cleaned show in the
memory of the process. A weight is known as long as anything refers to it. So even a session that the wheel or the books
have lost is counted.
"""

import json
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import count
from mmap import mmap
from time import monotonic
from typing import Any, Final, Self
from weakref import WeakValueDictionary

import psutil

from otel_sessions import SessionManager
from otel_sessions.demo.limits import BUFFER_BYTES, patience
from otel_sessions.matchers import Headers
from otel_sessions.proxy.peer import Peer


def _weight() -> mmap:
    """Return memory that is resident at once, and that the system gets back as soon as nothing refers to it."""
    buffer = mmap(-1, BUFFER_BYTES)
    buffer.write(b"\x01" * BUFFER_BYTES)
    return buffer


class HeavyPeer(Peer):
    """The proxy's data of a session, with the demo's weight. `used` is when the upstream last answered in the session,
    by the monotonic clock."""

    __slots__ = ("__weakref__", "used", "weight")

    def __init__(self, target: bytes, headers: Headers) -> None:
        super().__init__(target, headers)
        self.weight: Final = _weight()
        self.used = monotonic()

    def note(self, headers: Headers, status: int) -> None:
        """Remember the client's headers, and that the session is in use."""
        self.used = monotonic()
        super().note(headers, status)


class Weights:
    """All weights that something still refers to. `unused_for` works on any thread."""

    def __init__(self) -> None:
        self._held: Final[WeakValueDictionary[int, HeavyPeer]] = WeakValueDictionary()
        self._numbers = count()

    def remember(self, target: bytes, headers: Headers) -> HeavyPeer:
        """Return the data of a new session."""
        peer = HeavyPeer(target, headers)
        self._held[next(self._numbers)] = peer
        return peer

    def unused_for(self, seconds: float) -> int:
        """Return the number of weights whose sessions had no answer for `seconds`."""
        before = monotonic() - seconds
        held = [refer() for refer in self._held.valuerefs()]  # copied in one step, while the loop may add some
        return sum(peer is not None and peer.used < before for peer in held)


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """The manager's books, and the process's resident memory, in bytes.

    `overstaying` counts the sessions whose weights are still held although the limits no longer let them stay.
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
    """Writes readings of a manager to stdout: a reading every `seconds`, from a thread, and a last reading at the end.

    The last reading is taken after the manager's shutdown, when all sessions have ended.
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
        """Begin. The books can be read even while the manager's loop is busy."""
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
