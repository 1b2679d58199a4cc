"""What a process may do while the store does not answer: one policy, for every operation.

    policy    serves what it has                      makes sessions
    ──────    ────────────────────────────────────    ──────────────────────────────────────────────
    open      until the store refuses its epoch       within its last grant; the store is told later
    closed    until its lease ends                    no

What always holds: the policy `open` reaches beyond the lease only while the store is known to be silent.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from otel_sessions._core.exceptions import ConfigError

from .membership import Membership

Policy: TypeAlias = Literal["open", "closed"]


def check_policy(outage: str) -> None:
    """Raise `ConfigError` if `outage` is not a policy."""
    if outage not in get_args(Policy):
        raise ConfigError(f"outage takes 'open' or 'closed', not {outage!r}")


@dataclass(frozen=True, kw_only=True)
class Outage:
    """The policy of one run. `start_share` is the grant of a process that never reached the store."""

    is_open: bool
    start_share: int
    membership: Membership
    is_silent: Callable[[], bool]
    """Whether the store does not answer for the fleet itself."""

    def serves(self, now: float) -> bool:
        """Return whether the process may serve what it has under its present join."""
        return self.membership.is_living(now) or (self.is_open and self.is_silent())

    def grant(self, now: float) -> int:
        """Return how many places the process may have now."""
        member = self.membership
        if member.is_living(now):
            return member.places()
        if not (self.is_open and self.is_silent()):
            return 0
        if not member.deadline:
            return self.start_share
        # Without an epoch, what the process had stands on its grant as orphans.
        return 0 if member.epoch is None else member.places()
