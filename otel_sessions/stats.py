"""What a manager and a cleanup pass report: frozen values, taken at one moment."""

from collections.abc import Mapping
from dataclasses import dataclass

from .words import EndReason, Outcome, RejectionReason, Trigger


@dataclass(frozen=True, kw_only=True, slots=True)
class CleanupReport:
    """What one cleanup pass did, or, from a preview, what it would do.

    `examined` counts the sessions looked at, `cleaned` the ended ones by reason (every reason is there), `hook_errors`
    the close hooks and exports that failed, `remaining` the sessions there afterwards. `duration` is in seconds, hooks
    and exports included.
    """

    trigger: Trigger
    outcome: Outcome
    examined: int
    cleaned: Mapping[EndReason, int]
    hook_errors: int
    remaining: int
    duration: float

    @property
    def total_cleaned(self) -> int:
        return sum(self.cleaned.values())


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionStats:
    """A manager's books at one moment: `total_created == total_cleaned + currently_active`, always.

    `currently_active` includes the `leased` and the `closing` ones; `reserved` counts places that are no sessions yet.
    The mappings hold every key. `seconds_since_cleanup` runs from the start until there was a pass.
    """

    total_created: int
    total_cleaned: int
    currently_active: int
    cleanup_runs: int
    cleanup_errors: int
    leased: int
    closing: int
    reserved: int
    peak_active: int
    rejected: Mapping[RejectionReason, int]
    cleaned_by_reason: Mapping[EndReason, int]
    last_cleanup: CleanupReport | None
    seconds_since_cleanup: float
