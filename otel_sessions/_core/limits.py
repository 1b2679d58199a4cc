"""How long sessions may idle and live: the configured limits, and the limits of one session.

An infinite limit is off. A pass with other limits never replaces a session's own limit; an emergency may lower it.
"""

from dataclasses import dataclass, replace
from enum import Enum
from math import inf
from typing import Final, Literal, Self

from .config import SessionConfig, check_limit


class Unset(Enum):
    """The type of `UNSET`. `UNSET` leaves a limit as it is configured; None switches the limit off."""

    UNSET = "UNSET"


UNSET: Final = Unset.UNSET
Limit = float | None | Literal[Unset.UNSET]


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """How long a session may idle and live, in seconds. An infinite limit is off.

    `unused` is a second idle limit, for a session that has had neither a second lease nor a touch. `own_idle` and
    `own_age` say whether a limit is the session's own or the configured limit.
    """

    idle: float
    age: float
    unused: float = inf
    own_idle: bool = False
    own_age: bool = False

    @classmethod
    def emergency(cls, config: SessionConfig) -> "Limits":
        """Return the limits of an emergency pass. A limit is at most the normal limit, unless it is off."""
        return cls(
            idle=_lower(config.emergency_idle_time, config.max_idle_time),
            age=_lower(config.emergency_session_age, config.max_session_age),
        )

    def owned(self, idle: Limit, age: Limit) -> Self:
        """Return these limits, replaced by a session's own limits if they are set."""
        if idle is not UNSET:
            self = replace(self, idle=or_infinite(idle), own_idle=True)
        if age is not UNSET:
            self = replace(self, age=or_infinite(age), own_age=True)
        return self

    def replaced(self, idle: Limit, age: Limit) -> Self:
        """Return these limits with `idle` and `age` in place of the configured limits. A session's own limits stay."""
        own = self.owned(UNSET if self.own_idle else idle, UNSET if self.own_age else age)
        return replace(own, own_idle=self.own_idle, own_age=self.own_age)

    def tightened(self, emergency: "Limits") -> Self:
        """Return the lower of these and the emergency limits. A limit that the session has switched off stays off."""
        return replace(
            self,
            idle=inf if self.own_idle and self.idle == inf else min(self.idle, emergency.idle),
            age=inf if self.own_age and self.age == inf else min(self.age, emergency.age),
        )


def checked(idle: Limit, age: Limit) -> tuple[Limit, Limit]:
    """Return limits in seconds, None or `UNSET`. Raises `ConfigError` for a number that is not positive and finite."""
    return (
        idle if idle is UNSET else check_limit("max_idle_time", idle),
        age if age is UNSET else check_limit("max_session_age", age),
    )


def or_infinite(limit: float | None) -> float:
    return inf if limit is None else limit


def _lower(emergency: float | None, normal: float | None) -> float:
    """Return an emergency limit, lowered to the normal limit; infinity if the emergency limit is off."""
    return inf if emergency is None else min(emergency, or_infinite(normal))
