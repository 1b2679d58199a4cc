"""What a manager and a cleanup pass report: frozen values, taken at one moment.

They can be pickled, copied and returned from a web framework's route; `as_dict` makes them ready for JSON.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any, NoReturn, TypeVar

from .books import Totals
from .words import EndReason, Occupancy, Outcome, RejectionReason, Trigger

WordT = TypeVar("WordT", bound=StrEnum)


class Counts(dict[WordT, int]):
    """Numbers by word. A dict for whoever reads, pickles or encodes it; it refuses every change."""

    def _refuse(self, *_arguments: Any, **_named: Any) -> NoReturn:
        raise TypeError("these counts were taken at one moment and do not change; make a dict of them")

    __setitem__ = __delitem__ = __ior__ = clear = pop = popitem = setdefault = update = _refuse

    def __reduce__(self) -> tuple[type["Counts[WordT]"], tuple[dict[WordT, int]]]:
        return type(self), (dict(self),)


@dataclass(frozen=True, kw_only=True, slots=True)
class CleanupReport:
    """What one cleanup pass did, or, from a preview, what it would do.

    - `examined`: how many sessions the pass looked at.
    - `cleaned`: how many sessions it ended, by reason. Every reason is there.
    - `hook_errors`: how many close hooks and exports failed.
    - `remaining`: how many sessions were there afterwards.
    - `duration`: the seconds that it took, hooks and exports included.
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

    def as_dict(self) -> dict[str, object]:
        """Return the report ready for JSON, `total_cleaned` included; words are plain strings."""
        return {**_plain(self), "total_cleaned": self.total_cleaned}


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionStats:
    """A manager's books at one moment: `total_created == total_cleaned + currently_active`, always.

    - `currently_active` includes the sessions that are `leased` or `closing`.
    - `reserved` counts places without a session yet, and `waiting` the creators that wait at a cap.
    - `rejected` and `cleaned_by_reason` hold every key.
    - `seconds_since_cleanup` runs from the last pass, or from the manager's last entry until there is a pass.
    """

    total_created: int
    total_cleaned: int
    currently_active: int
    cleanup_runs: int
    cleanup_errors: int
    leased: int
    closing: int
    reserved: int
    waiting: int
    peak_active: int
    rejected: Mapping[RejectionReason, int]
    cleaned_by_reason: Mapping[EndReason, int]
    last_cleanup: CleanupReport | None
    seconds_since_cleanup: float

    def as_dict(self) -> dict[str, object]:
        """Return the statistics ready for JSON; words are plain strings, and `last_cleanup` is a dict or None."""
        last = self.last_cleanup
        return {**_plain(self), "last_cleanup": None if last is None else last.as_dict()}


def statistics(
    totals: Totals,
    *,
    peak_active: int,
    last_cleanup: CleanupReport | None,
    seconds_since_cleanup: float,
) -> SessionStats:
    """Return what the books and the last pass say."""
    cleaned = sum(totals.cleaned.values())
    return SessionStats(
        total_created=totals.created,
        total_cleaned=cleaned,
        currently_active=totals.created - cleaned,
        cleanup_runs=sum(totals.runs.values()),
        cleanup_errors=sum(totals.errors.values()),
        leased=totals.active[Occupancy.LEASED],
        closing=totals.active[Occupancy.CLOSING],
        reserved=totals.reserved,
        waiting=totals.waiting,
        peak_active=peak_active,
        rejected=Counts(totals.rejected),
        cleaned_by_reason=Counts(totals.cleaned),
        last_cleanup=last_cleanup,
        seconds_since_cleanup=seconds_since_cleanup,
    )


def _plain(value: CleanupReport | SessionStats) -> dict[str, object]:
    return {field.name: _written(getattr(value, field.name)) for field in fields(value)}


def _written(value: object) -> object:
    if isinstance(value, Mapping):
        return {_written(key): count for key, count in value.items()}
    return value.value if isinstance(value, StrEnum) else value
