"""What people and admin tools see of sessions: frozen values, without ids and without the embedder's data.

A page is true at its moment. Values can be pickled, copied and returned from a web framework's route; `as_dict` makes
them ready for JSON.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from math import isinf
from typing import Any, Final

from .ids import fingerprint
from .options import FROM_ZERO, number, word
from .session import Session
from .stats import plain
from .words import EndReason, SessionState

MOST_EXAMINED: Final = 1000
"""The most sessions that one page looks at."""
LENGTH: Final = number(f"a whole number from 1 to {MOST_EXAMINED}", lambda value: 0 < value <= MOST_EXAMINED, int)
"""How many sessions a page may have."""
_LISTED: Final = word([SessionState.ACTIVE, SessionState.CLOSING, SessionState.FAILED], SessionState)


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionLimits:
    """The limits that hold for one session, in seconds. None means that a limit is off."""

    max_idle_time: float | None
    max_session_age: float | None

    def as_dict(self) -> dict[str, object]:
        """Return the limits as a dict that is ready for JSON."""
        return plain(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionInfo:
    """One session at one moment, for people and admin tools: all about it but its id and its data.

    - `fingerprint` stands for the id, as in logs and on spans.
    - `client` is the client's name, or None.
    - `leases` is the number of leases on the session now.
    - `created_at` and `last_activity` are in UTC.
    - `idle_for` and `age` are in seconds.
    - `message_count` counts leases and touches.
    """

    fingerprint: str
    client: str | None
    state: SessionState
    leases: int
    created_at: datetime
    last_activity: datetime
    idle_for: float
    age: float
    message_count: int
    limits: SessionLimits

    def as_dict(self) -> dict[str, object]:
        """Return a dict that is ready for JSON. Times are texts in the format of ISO 8601."""
        return plain(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionPage:
    """A part of the list of sessions, oldest first. `next` is the cursor of the next part, None after the last part.

    A page may be short or empty although `next` is not None.
    """

    sessions: tuple[SessionInfo, ...]
    next: str | None

    def as_dict(self) -> dict[str, object]:
        """Return the page as a dict that is ready for JSON."""
        return plain(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class RecentEnd:
    """A session that ended lately: the fingerprint of its id, why it ended, and when. `ended_at` is in UTC."""

    fingerprint: str
    reason: EndReason
    ended_at: datetime

    def as_dict(self) -> dict[str, object]:
        """Return a dict that is ready for JSON. The time is a text in the format of ISO 8601."""
        return plain(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """Which sessions a list shows. None means that every session will do."""

    client: str | None = None
    state: SessionState | None = None
    idle_for: float | None = None
    older_than: float | None = None

    @classmethod
    def checked(
        cls, client: str | None, state: str | None, idle_for: float | None, older_than: float | None
    ) -> "Wanted":
        """Return what is wanted. Raises `ConfigError`, which names the keyword, if a value is wrong."""
        return cls(
            client=client,
            state=None if state is None else _LISTED.check("state", state),
            idle_for=None if idle_for is None else FROM_ZERO.check("idle_for", idle_for),
            older_than=None if older_than is None else FROM_ZERO.check("older_than", older_than),
        )

    def accepts(self, session: Session[Any]) -> bool:
        return (
            (self.client is None or session.client == self.client)
            and (self.state is None or session.state is self.state)
            and (self.idle_for is None or session.idle_for >= self.idle_for)
            and (self.older_than is None or session.age >= self.older_than)
        )


def described(session: Session[Any]) -> SessionInfo:
    """Return what people see of a session at this moment."""
    count, last, now = session._use()
    shared = session._shared
    return SessionInfo(
        fingerprint=fingerprint(session.id),
        client=session.client,
        state=session.state,
        leases=len(session._leases or ()),
        created_at=datetime.fromtimestamp(session._created + shared.wall_offset, UTC),
        last_activity=datetime.fromtimestamp(last + shared.wall_offset, UTC),
        idle_for=0.0 if session._leases else max(0.0, now - last),
        age=max(0.0, now - session._created),
        message_count=count,
        limits=_limits(shared.idle, shared.age),
    )


@lru_cache(maxsize=64)
def _limits(idle: float, age: float) -> SessionLimits:
    return SessionLimits(max_idle_time=_or_none(idle), max_session_age=_or_none(age))


def _or_none(limit: float) -> float | None:
    return None if isinf(limit) else limit
