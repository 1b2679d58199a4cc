"""One client's state, and what can be said of it at a moment.

A session is alive until it fails or is ended; it never comes back. Its underscored attributes are the manager's, which
files, leases and ends it. What the embedder may do is touch and fail, both plain arithmetic.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import Enum
from math import inf
from typing import Any, Final, Generic, Literal, Protocol, Self

from .config import SessionConfig, check_limit
from .ids import fingerprint
from .words import EndReason, SessionState

if sys.version_info >= (3, 13):
    from typing import TypeVar
else:
    from typing_extensions import TypeVar

DataT = TypeVar("DataT", default=None)

_OPENING: Final = True
"""The count of a session that has had its opening lease and nothing else. It adds and prints as 1, and is not 1: so it
takes no further attribute to tell a lease from a touch, and a touch stays as fast as it is."""


class Unset(Enum):
    """The type of `UNSET`, for a limit that is left to the configuration, where None would switch it off."""

    UNSET = "UNSET"


UNSET: Final = Unset.UNSET
Limit = float | None | Literal[Unset.UNSET]


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """How long a session may idle and live, in seconds; infinity is no limit.

    `unused` is a further limit on idle time, for a session that nobody has used since its opening. `own_idle` and
    `own_age` tell limits that were given for this session from those that the configuration sets.
    """

    idle: float
    age: float
    unused: float = inf
    own_idle: bool = False
    own_age: bool = False

    @classmethod
    def emergency(cls, config: SessionConfig) -> "Limits":
        """Return the limits of an emergency, none of which is above the normal one."""
        return cls(
            idle=_lower(config.emergency_idle_time, config.max_idle_time),
            age=_lower(config.emergency_session_age, config.max_session_age),
        )

    def owned(self, idle: Limit, age: Limit) -> Self:
        """Return these limits with a session's own in their place."""
        if idle is not UNSET:
            self = replace(self, idle=_or_infinite(idle), own_idle=True)
        if age is not UNSET:
            self = replace(self, age=_or_infinite(age), own_age=True)
        return self

    def replaced(self, idle: Limit, age: Limit) -> Self:
        """Return these limits with others in place of the configured ones."""
        own = self.owned(UNSET if self.own_idle else idle, UNSET if self.own_age else age)
        return replace(own, own_idle=self.own_idle, own_age=self.own_age)

    def tightened(self, emergency: "Limits") -> Self:
        """Return the lower of both; a limit that the session itself has switched off stays off."""
        return replace(
            self,
            idle=inf if self.own_idle and self.idle == inf else min(self.idle, emergency.idle),
            age=inf if self.own_age and self.age == inf else min(self.age, emergency.age),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionMetadata:
    """A session at one moment. Datetimes are in UTC; `last_activity` follows the monotonic clock, not the wall's."""

    created_at: datetime
    last_activity: datetime
    message_count: int
    state: SessionState


class Filing(Protocol):
    """Where a session asks to be filed."""

    def file_due(self, entry: Any) -> None: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Terms(Limits):
    """What sessions have in common: their limits, their clock, and where they are filed by the time they are due.

    `wall_offset` is how far the wall's clock was ahead of theirs when they were made, in seconds.
    """

    clock: Callable[[], float]
    wall_offset: float
    filing: Filing

    @classmethod
    def normal(cls, config: SessionConfig, clock: Callable[[], float], filing: Filing) -> "Terms":
        idle, age = _or_infinite(config.max_idle_time), _or_infinite(config.max_session_age)
        unused = _or_infinite(config.max_unused_time)
        return cls(idle=idle, age=age, unused=unused, clock=clock, wall_offset=0.0, filing=filing)


class Deadlines(Protocol):
    """Where a session is filed with others by the earliest moment at which it can be due."""

    @property
    def not_before(self) -> float: ...


@dataclass(slots=True)
class Fate:
    """What there is to say of a session that is not handed out any more."""

    failure: str | BaseException | None = None
    reason: EndReason | None = None
    at: float = 0.0
    last: float = 0.0
    count: int = 0
    gone: bool = False


class Session(Generic[DataT]):
    """One client's state, found by an unguessable `id`; `data` is the embedder's own, `client` names whose it is.

    Made by a `SessionManager`, never by hand. Compared and hashed by identity.
    """

    __slots__ = (
        "_bucket",
        "_count",
        "_created",
        "_fate",
        "_last",
        "_pins",
        "_terms",
        "client",
        "data",
        "id",
    )

    def __init__(
        self,
        session_id: str,
        data: DataT,
        client: str | None,
        terms: Terms,
        now: float,
    ) -> None:
        self.id: Final = session_id
        self.data = data
        self.client: Final = client
        self._terms = terms
        self._created = self._last = now
        self._count = 0
        self._pins = 0
        self._bucket: Deadlines | None = None
        self._fate: Fate | None = None

    def touch(self) -> None:
        """Note activity: idle time starts anew and `message_count` grows by one. Ends nothing and checks nothing."""
        self._last = self._terms.clock()
        self._count += 1

    def note_activity(self) -> None:
        """Start idle time anew and count nothing: for a further part of what is counted already."""
        self._last = self._terms.clock()

    def _begin_lease(self, now: float) -> None:
        """Note activity as `touch` does, and tell the first lease of all apart from what follows it."""
        self._last = now
        self._count = self._count + 1 if self._count else _OPENING

    def fail(self, why: str | BaseException) -> None:
        """Hide the session at once; the next pass that finds it without a lease ends it (`failed`).

        `why` becomes `failure`; only the first one counts, and none once the session is ended.
        """
        if self._fate is None:
            self._fate = Fate(failure=why)
            if not self._pins:
                self._file_due()

    def is_stale(self, max_idle_time: float) -> bool:
        """Return whether no lease is held and the last activity lies `max_idle_time` seconds back, or more."""
        _, last, now = self._use()
        return not self._pins and now >= last + max_idle_time

    @property
    def state(self) -> SessionState:
        fate = self._fate
        if fate is None:
            return SessionState.ACTIVE
        if fate.reason is not None and not fate.gone:
            return SessionState.CLOSING
        return SessionState.CLOSED if fate.failure is None else SessionState.FAILED

    @property
    def failure(self) -> str | BaseException | None:
        """What `fail` was told first, None if the session has not failed."""
        return self._fate.failure if self._fate else None

    @property
    def end_reason(self) -> EndReason | None:
        """Why the session was ended, None while it lives."""
        return self._fate.reason if self._fate else None

    @property
    def idle_for(self) -> float:
        """Seconds since the last activity, 0 while a lease is held; stands still once the session is ended."""
        if self._pins:
            return 0.0
        _, last, now = self._use()
        return max(0.0, now - last)

    @property
    def age(self) -> float:
        """Seconds since the session was made; stands still once it is ended."""
        _, _, now = self._use()
        return max(0.0, now - self._created)

    @property
    def metadata(self) -> SessionMetadata:
        count, last, _ = self._use()
        offset = self._terms.wall_offset
        return SessionMetadata(
            created_at=datetime.fromtimestamp(self._created + offset, UTC),
            last_activity=datetime.fromtimestamp(last + offset, UTC),
            message_count=count,
            state=self.state,
        )

    def _use(self) -> tuple[int, float, float]:
        """Return how often and when last it was used, and now; all as they were at the end, once it is ended."""
        fate = self._fate
        if fate is not None and fate.reason is not None:
            return int(fate.count), fate.last, fate.at
        return int(self._count), self._last, self._terms.clock()

    def _file_due(self) -> None:
        """See to it that the next pass finds this session, even one at this very moment; no clock can prevent it."""
        self._terms.filing.file_due(self)

    def _is_unused(self) -> bool:
        """Return whether there was neither a second lease nor a touch since the session was made."""
        return not self._count or self._count is _OPENING

    def _usable(self, now: float) -> bool:
        """Return whether the session may be handed out: mostly, a look at where it is filed is enough."""
        bucket = self._bucket
        if bucket is not None and now < bucket.not_before:
            return self._fate is None
        return self._due(now, self._terms) is None

    def _due(self, now: float, limits: Limits) -> EndReason | None:
        """Return why the session is not to be handed out, None if it is: failed before age before idleness."""
        if self._fate is not None:
            return self._fate.reason or EndReason.FAILED
        if now >= self._created + limits.age:
            return EndReason.MAX_AGE
        if not self._pins and now >= self._last + limits.idle:
            return EndReason.IDLE_TIMEOUT
        if not self._pins and now >= self._last + limits.unused and self._is_unused():
            return EndReason.IDLE_TIMEOUT
        return None

    def _reason(self, now: float, fallback: EndReason) -> EndReason:
        """Return what an end at this moment counts as: what the session is due for anyway, else `fallback`."""
        return self._due(now, self._terms) or fallback

    def _deadline(self, now: float, limits: Limits) -> float:
        """Return the earliest moment at which the session can be due, with whatever is known now."""
        idle = limits.idle
        if limits.unused < idle and self._is_unused():
            idle = limits.unused
        return min((now if self._pins else self._last) + idle, self._created + limits.age)

    def __repr__(self) -> str:
        return f"<Session {fingerprint(self.id)} {self.state}>"


def checked(idle: Limit, age: Limit) -> tuple[Limit, Limit]:
    """Return a session's own limits in seconds. Raises `ConfigError` for one that is neither a time, None nor unset."""
    return (
        idle if idle is UNSET else check_limit("max_idle_time", idle),
        age if age is UNSET else check_limit("max_session_age", age),
    )


def _or_infinite(limit: float | None) -> float:
    return inf if limit is None else limit


def _lower(emergency: float | None, normal: float | None) -> float:
    """Return an emergency limit that is on, at most the normal one; infinity if it is off."""
    return inf if emergency is None else min(emergency, _or_infinite(normal))
