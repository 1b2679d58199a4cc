"""Readings: what a proxy says of itself at one moment, as a line of JSON on its way to the parent; and what it weighs.

A session's weight stands for what real sessions hold, so that those that are never cleaned show in the process's
memory. A weight is known for as long as anything refers to it: no session that was forgotten, by the wheel or by the
books, escapes.
"""

import json
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
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
    """Return memory that is in use at once, and back with the system as soon as nothing refers to it any more."""
    buffer = mmap(-1, BUFFER_BYTES)
    buffer.write(b"\x01" * BUFFER_BYTES)
    return buffer


@dataclass(slots=True, weakref_slot=True)
class HeavyPeer(Peer):
    """What the proxy remembers of a session, the demo's weight, and when the upstream last answered in it, by the
    monotonic clock."""

    weight: mmap = field(default_factory=_weight, repr=False)
    used: float = field(default_factory=monotonic)

    def note(self, headers: Headers, status: int) -> None:
        """Remember what the client has shown, and that the session is in use."""
        self.used = monotonic()
        Peer.note(self, headers, status)


class Weights:
    """All weights that something still refers to. Can be asked on any thread."""

    def __init__(self) -> None:
        self._held: Final[WeakValueDictionary[int, HeavyPeer]] = WeakValueDictionary()
        self._numbers = count()

    def remember(self, target: bytes, headers: Headers) -> HeavyPeer:
        """Return what a new session carries."""
        peer = HeavyPeer(target, headers)
        self._held[next(self._numbers)] = peer
        return peer

    def unused_for(self, seconds: float) -> int:
        """Return how many are held that no request was answered for in so many seconds."""
        before = monotonic() - seconds
        held = [refer() for refer in self._held.valuerefs()]  # copied in one step, while the loop may add some
        return sum(peer is not None and peer.used < before for peer in held)


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
