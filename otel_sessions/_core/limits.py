"""How long sessions may idle and live: what the configuration says, and what a session says of itself.

An infinite limit is no limit. A limit that a session has of its own is never replaced by a configured one.
"""

from dataclasses import dataclass, replace
from enum import Enum
from math import inf
from typing import Final, Literal, Self

from .config import SessionConfig, check_limit


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
            self = replace(self, idle=or_infinite(idle), own_idle=True)
        if age is not UNSET:
            self = replace(self, age=or_infinite(age), own_age=True)
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


def checked(idle: Limit, age: Limit) -> tuple[Limit, Limit]:
    """Return a session's own limits in seconds. Raises `ConfigError` for one that is neither a time, None nor unset."""
    return (
        idle if idle is UNSET else check_limit("max_idle_time", idle),
        age if age is UNSET else check_limit("max_session_age", age),
    )


def or_infinite(limit: float | None) -> float:
    return inf if limit is None else limit


def _lower(emergency: float | None, normal: float | None) -> float:
    """Return an emergency limit that is on, at most the normal one; infinity if it is off."""
    return inf if emergency is None else min(emergency, or_infinite(normal))
