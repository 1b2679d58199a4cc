"""One client's state, and the questions that it answers about itself at one moment.

A session lives until it fails or is ended, and never comes back. The embedder may touch the session and fail it; both
only set attributes. The attributes with an underscore belong to the manager, which files, leases and ends the session.
"""

import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Generic

from .config import SessionConfig
from .ids import fingerprint
from .limits import Limits, or_infinite
from .roll import Leaf
from .wheel import Bucket, Wheel
from .words import EndReason, SessionState

if sys.version_info >= (3, 13):
    from typing import TypeVar
else:
    from typing_extensions import TypeVar

DataT = TypeVar("DataT", default=None)

OPENING: Final = True
"""The count of a session that has had its first lease, and no touch. True adds like 1, but is not the same object as 1.
So the count tells a first lease from a touch without one more attribute, and a touch stays fast."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionMetadata:
    """A session at one moment. Datetimes are in UTC; `message_count` counts leases and touches.

    `last_activity` is `created_at` plus seconds of the monotonic clock, so a change of the wall clock does not move it.
    """

    created_at: datetime
    last_activity: datetime
    message_count: int
    state: SessionState


async def _at_once(session: "Session[Any]") -> None:
    """Return: without a store, a session is registered nowhere."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shared(Limits):
    """What many sessions share: their limits, their clock, their wheel and their leaf of the roll.

    `wall_offset` is the time of the wall clock minus the time of `clock` when the sessions were made, in seconds.
    `registering` waits until a session is registered with a fleet's store.
    """

    clock: Callable[[], float]
    wall_offset: float
    wheel: Wheel[Any]
    leaf: Leaf
    registering: "Callable[[Session[Any]], Awaitable[None]]" = _at_once

    @classmethod
    def normal(cls, config: SessionConfig, clock: Callable[[], float], wheel: Wheel[Any], leaf: Leaf) -> "Shared":
        idle, age = or_infinite(config.max_idle_time), or_infinite(config.max_session_age)
        unused = or_infinite(config.max_unused_time)
        return cls(idle=idle, age=age, unused=unused, clock=clock, wall_offset=0.0, wheel=wheel, leaf=leaf)


@dataclass(slots=True)
class End:
    """Why a session is not handed out any more. `reason` is None if the session has failed but is not ended yet."""

    failure: str | BaseException | None = None
    reason: EndReason | None = None
    at: float = 0.0
    last: float = 0.0
    count: int = 0
    gone: bool = False


class Session(Generic[DataT]):
    """One client's state, found by an unguessable `id`. `data` belongs to the embedder; `client` names the client.

    Only a `SessionManager` makes sessions. They are compared and hashed by identity.
    """

    __slots__ = (
        "_bucket",
        "_count",
        "_created",
        "_end",
        "_last",
        "_leases",
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
        self._leases: dict[Any, None] | None = None
        self._bucket: Bucket[Any] | None = None
        self._end: End | None = None

    def touch(self) -> None:
        """Note activity: idle time starts again at 0, and `message_count` grows by one.

        Checks no limit: a stale session that no pass has ended yet becomes usable again. After the end, a touch changes
        nothing that is visible.
        """
        self._last = self._shared.clock()
        self._count += 1

    def note_activity(self) -> None:
        """Note activity without counting it: for a further part of a message that is counted already."""
        self._last = self._shared.clock()

    def fail(self, why: str | BaseException) -> None:
        """Hide the session at once. The next pass that finds the session unleased ends it as `failed`.

        `why` becomes `failure`. Only the first call counts, and no call counts after the end of the session.
        """
        if self._end is None:
            self._end = End(failure=why)
            if not self._leases:
                self._file_due()

    def registered(self) -> Awaitable[None]:
        """Wait until the fleet's store knows the session. Without such a fleet, there is nothing to wait for.

        Await this after `Reservation.commit`, before anyone is told the id; `create_session` has done it. Raises
        `SessionExists` if another process of the fleet has this id: the session ends as `fenced`. Raises
        `StoreUnavailable` if the store does not answer and the fleet's policy is `closed`: the session ends as
        `failed`. Raises `SessionNotFound` or `ManagerClosed` if the session was ended meanwhile. A caller that is
        cancelled leaves the session as it is.
        """
        return self._shared.registering(self)

    def is_stale(self, max_idle_time: float) -> bool:
        """Return whether the session is unleased and has been idle for `max_idle_time` seconds or longer."""
        _, last, now = self._use()
        return not self._leases and now >= last + max_idle_time

    @property
    def state(self) -> SessionState:
        """`failed` from `fail` on, `closing` while the session is being ended, then `closed` or `failed`."""
        end = self._end
        if end is None:
            return SessionState.ACTIVE
        if end.reason is not None and not end.gone:
            return SessionState.CLOSING
        return SessionState.CLOSED if end.failure is None else SessionState.FAILED

    @property
    def failure(self) -> str | BaseException | None:
        """The first `why` that `fail` was given, or None if the session has not failed."""
        return self._end.failure if self._end else None

    @property
    def end_reason(self) -> EndReason | None:
        """Why the session was ended, or None before the end."""
        return self._end.reason if self._end else None

    @property
    def idle_for(self) -> float:
        """Seconds since the last activity; 0 while the session is leased. Stands still after the end of the session."""
        if self._leases:
            return 0.0
        _, last, now = self._use()
        return max(0.0, now - last)

    @property
    def age(self) -> float:
        """Seconds since the session was made. Stands still after the end of the session."""
        _, _, now = self._use()
        return max(0.0, now - self._created)

    @property
    def metadata(self) -> SessionMetadata:
        """The session's times, count and state at this moment. Times and count stand still after the end."""
        count, last, _ = self._use()
        offset = self._shared.wall_offset
        return SessionMetadata(
            created_at=datetime.fromtimestamp(self._created + offset, UTC),
            last_activity=datetime.fromtimestamp(last + offset, UTC),
            message_count=count,
            state=self.state,
        )

    def _use(self) -> tuple[int, float, float]:
        """Return the count, the time of the last activity, and now; after the end, the three values at the end."""
        end = self._end
        if end is not None and end.reason is not None:
            return int(end.count), end.last, end.at
        return int(self._count), self._last, self._shared.clock()

    def _file_due(self) -> None:
        """File the session so that the next pass finds it, even a pass at this moment. This reads no clock."""
        self._shared.wheel.file_due(self)

    def _is_unused(self) -> bool:
        """Return whether the session has had neither a second lease nor a touch."""
        return not self._count or self._count is OPENING

    def _due(self, now: float, limits: Limits) -> EndReason | None:
        """Return why the session is due, or None if it may be handed out: failed before age before idleness."""
        if self._end is not None:
            return self._end.reason or EndReason.FAILED
        if now >= self._created + limits.age:
            return EndReason.MAX_AGE
        if not self._leases and now >= self._last + limits.idle:
            return EndReason.IDLE_TIMEOUT
        if not self._leases and now >= self._last + limits.unused and self._is_unused():
            return EndReason.IDLE_TIMEOUT
        return None

    def _reason(self, now: float, fallback: EndReason) -> EndReason:
        """Return the reason of an end at this moment: why the session is due, or `fallback` if it is not due."""
        return self._due(now, self._shared) or fallback

    def _deadline(self, now: float, limits: Limits) -> float:
        """Return the earliest time at which the session can be due, as far as is known now."""
        idle = limits.idle
        if limits.unused < idle and self._is_unused():
            idle = limits.unused
        return min((now if self._leases else self._last) + idle, self._created + limits.age)

    def __repr__(self) -> str:
        return f"<Session {fingerprint(self.id)} {self.state}>"
