"""One client's state, and what can be said of it at a moment.

A session is alive until it fails or is ended; it never comes back. Its underscored attributes are the manager's, which
files, leases and ends it. What the embedder may do is touch and fail, both plain arithmetic.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Generic

from .config import SessionConfig
from .ids import fingerprint
from .limits import Limits, or_infinite
from .wheel import Bucket, Wheel
from .words import EndReason, SessionState

if sys.version_info >= (3, 13):
    from typing import TypeVar
else:
    from typing_extensions import TypeVar

DataT = TypeVar("DataT", default=None)

_OPENING: Final = True
"""The count of a session that has had its opening lease and nothing else. It adds and prints as 1, and is not 1: so it
takes no further attribute to tell a lease from a touch, and a touch stays as fast as it is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionMetadata:
    """A session at one moment. Datetimes are in UTC; `last_activity` follows the monotonic clock, not the wall's."""

    created_at: datetime
    last_activity: datetime
    message_count: int
    state: SessionState


@dataclass(frozen=True, kw_only=True, slots=True)
class Shared(Limits):
    """What sessions have in common: their limits, their clock, and where they are filed by the time they are due.

    `wall_offset` is how far the wall's clock was ahead of theirs when they were made, in seconds.
    """

    clock: Callable[[], float]
    wall_offset: float
    wheel: Wheel[Any]

    @classmethod
    def normal(cls, config: SessionConfig, clock: Callable[[], float], wheel: Wheel[Any]) -> "Shared":
        idle, age = or_infinite(config.max_idle_time), or_infinite(config.max_session_age)
        unused = or_infinite(config.max_unused_time)
        return cls(idle=idle, age=age, unused=unused, clock=clock, wall_offset=0.0, wheel=wheel)


@dataclass(slots=True)
class End:
    """What there is to say of a session that is not handed out any more."""

    failure: str | BaseException | None = None
    reason: EndReason | None = None
    at: float = 0.0
    last: float = 0.0
    count: int = 0
    gone: bool = False


class Session(Generic[DataT]):
    """One client's state, found by an unguessable `id`. `data` is the embedder's own. `client` names whose it is.

    Made by a `SessionManager`, never by hand. Compared and hashed by identity.
    """

    __slots__ = (
        "_bucket",
        "_count",
        "_created",
        "_end",
        "_last",
        "_pins",
        "_shared",
        "client",
        "data",
        "id",
    )

    def __init__(
        self,
        session_id: str,
        data: DataT,
        client: str | None,
        shared: Shared,
        now: float,
    ) -> None:
        self.id: Final = session_id
        self.data = data
        self.client: Final = client
        self._shared = shared
        self._created = self._last = now
        self._count = 0
        self._pins = 0
        self._bucket: Bucket[Any] | None = None
        self._end: End | None = None

    def touch(self) -> None:
        """Note activity: idle time starts anew, and `message_count` grows by one. Nothing is checked or ended."""
        self._last = self._shared.clock()
        self._count += 1

    def note_activity(self) -> None:
        """Start idle time anew, and count nothing: for a further part of a message that is counted already."""
        self._last = self._shared.clock()

    def _begin_lease(self, now: float) -> None:
        """Note activity as `touch` does, and tell the first lease of all apart from what follows it."""
        self._last = now
        self._count = self._count + 1 if self._count else _OPENING

    def fail(self, why: str | BaseException) -> None:
        """Hide the session at once. The next pass that finds it without a lease ends it, as `failed`.

        `why` becomes `failure`. A second call changes nothing, and neither does a call after the session has ended.
        """
        if self._end is None:
            self._end = End(failure=why)
            if not self._pins:
                self._file_due()

    def is_stale(self, max_idle_time: float) -> bool:
        """Return whether no lease is held and the last activity was `max_idle_time` seconds ago, or earlier."""
        _, last, now = self._use()
        return not self._pins and now >= last + max_idle_time

    @property
    def state(self) -> SessionState:
        end = self._end
        if end is None:
            return SessionState.ACTIVE
        if end.reason is not None and not end.gone:
            return SessionState.CLOSING
        return SessionState.CLOSED if end.failure is None else SessionState.FAILED

    @property
    def failure(self) -> str | BaseException | None:
        """What `fail` was told first; None if the session has not failed."""
        return self._end.failure if self._end else None

    @property
    def end_reason(self) -> EndReason | None:
        """Why the session was ended; None while it lives."""
        return self._end.reason if self._end else None

    @property
    def idle_for(self) -> float:
        """Seconds since the last activity; 0 while a lease is held. It stands still once the session is ended."""
        if self._pins:
            return 0.0
        _, last, now = self._use()
        return max(0.0, now - last)

    @property
    def age(self) -> float:
        """Seconds since the session was made. They stand still once the session is ended."""
        _, _, now = self._use()
        return max(0.0, now - self._created)

    @property
    def metadata(self) -> SessionMetadata:
        count, last, _ = self._use()
        offset = self._shared.wall_offset
        return SessionMetadata(
            created_at=datetime.fromtimestamp(self._created + offset, UTC),
            last_activity=datetime.fromtimestamp(last + offset, UTC),
            message_count=count,
            state=self.state,
        )

    def _use(self) -> tuple[int, float, float]:
        """Return how often and when last it was used, and now; all as they were at the end, once it is ended."""
        end = self._end
        if end is not None and end.reason is not None:
            return int(end.count), end.last, end.at
        return int(self._count), self._last, self._shared.clock()

    def _file_due(self) -> None:
        """See to it that the next pass finds this session, even one at this very moment; no clock can prevent it."""
        self._shared.wheel.file_due(self)

    def _is_unused(self) -> bool:
        """Return whether there was neither a second lease nor a touch since the session was made."""
        return not self._count or self._count is _OPENING

    def _usable(self, now: float) -> bool:
        """Return whether the session may be handed out: mostly, a look at where it is filed is enough."""
        bucket = self._bucket
        if bucket is not None and now < bucket.not_before:
            return self._end is None
        return self._due(now, self._shared) is None

    def _due(self, now: float, limits: Limits) -> EndReason | None:
        """Return why the session is not to be handed out, None if it is: failed before age before idleness."""
        if self._end is not None:
            return self._end.reason or EndReason.FAILED
        if now >= self._created + limits.age:
            return EndReason.MAX_AGE
        if not self._pins and now >= self._last + limits.idle:
            return EndReason.IDLE_TIMEOUT
        if not self._pins and now >= self._last + limits.unused and self._is_unused():
            return EndReason.IDLE_TIMEOUT
        return None

    def _reason(self, now: float, fallback: EndReason) -> EndReason:
        """Return what an end at this moment counts as: what the session is due for anyway, else `fallback`."""
        return self._due(now, self._shared) or fallback

    def _deadline(self, now: float, limits: Limits) -> float:
        """Return the earliest moment at which the session can be due, with whatever is known now."""
        idle = limits.idle
        if limits.unused < idle and self._is_unused():
            idle = limits.unused
        return min((now if self._pins else self._last) + idle, self._created + limits.age)

    def __repr__(self) -> str:
        return f"<Session {fingerprint(self.id)} {self.state}>"
