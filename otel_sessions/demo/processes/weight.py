"""What a session of the demo weighs, and which weights are still held, whatever the manager's books say of them.

The weight stands for what real sessions hold, so that those that are never cleaned show in the process's memory. It is
known for as long as anything refers to it: no session that was forgotten, by the wheel or by the books, escapes.
"""

from dataclasses import dataclass, field
from itertools import count
from mmap import mmap
from time import monotonic
from typing import Final
from weakref import WeakValueDictionary

from otel_sessions.demo.limits import BUFFER_BYTES
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
