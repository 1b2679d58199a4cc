"""The reports of a manager and of a cleanup pass: frozen values, taken at one moment.

A report can be pickled, copied and returned from a web framework's route. `as_dict` makes the report ready for JSON.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, TypeVar, runtime_checkable

from .books import Totals
from .words import EndReason, Occupancy, Outcome, RejectionReason, Trigger

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

WordT = TypeVar("WordT", bound=StrEnum)


@runtime_checkable
class Report(Protocol):
    """A value that makes itself ready for JSON."""

    def as_dict(self) -> dict[str, object]: ...


class Counts(dict[WordT, int]):
    """A number for each word. It is read, pickled and encoded like a dict. Every change raises `TypeError`."""

    def _refuse(self, *_arguments: Any, **_named: Any) -> NoReturn:
        raise TypeError("these counts were taken at one moment and do not change; make a dict of them first")

    __setitem__ = __delitem__ = __ior__ = clear = pop = popitem = setdefault = update = _refuse

    def __reduce__(self) -> tuple[type["Counts[WordT]"], tuple[dict[WordT, int]]]:
        return type(self), (dict(self),)


@dataclass(frozen=True, kw_only=True, slots=True)
class CleanupReport:
    """What one cleanup pass did. From a preview: what a pass would do.

    - `examined` is the number of sessions that the pass looked at.
    - `cleaned` is the number of ended sessions by reason. Every reason is a key.
    - `hook_errors` is the number of close hooks and exports that failed.
    - `remaining` is the number of sessions after the pass.
    - `duration` is in seconds, hooks and exports included.
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
        """The number of sessions that the pass ended, for all reasons together."""
        return sum(self.cleaned.values())

    def as_dict(self) -> dict[str, object]:
        """Return the report as a dict that is ready for JSON, `total_cleaned` included. Words are plain strings."""
        return {**plain(self), "total_cleaned": self.total_cleaned}


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionStats:
    """A manager's books at one moment: `total_created == total_cleaned + currently_active`, always.

    - `currently_active` includes the `leased` and the `closing` sessions. `peak_active` is the highest value so far.
    - `reserved` is the number of places that are taken but are not sessions yet.
    - `waiting` is the number of creators that wait at a cap.
    - `cleanup_errors` is the number of failed hooks, exports and passes, and of other handled errors.
    - `rejected` and `cleaned_by_reason` have every reason as a key.
    - `last_cleanup` is the report of the last pass, or None if there was no pass.
    - `seconds_since_cleanup` runs from the last pass, or from the manager's entry until there is a pass.
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
        """Return a dict that is ready for JSON. Words are plain strings; `last_cleanup` is a dict or None."""
        return plain(self)


def statistics(
    totals: Totals,
    *,
    peak_active: int,
    last_cleanup: CleanupReport | None,
    seconds_since_cleanup: float,
) -> SessionStats:
    """Return the statistics from the totals of the books and from the last pass."""
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


def plain(value: "DataclassInstance") -> dict[str, object]:
    """Return the fields of a report as JSON has them: words and times as texts, reports as dicts."""
    return {field.name: _written(getattr(value, field.name)) for field in fields(value)}


def _written(value: object) -> object:
    match value:
        case Mapping():
            return {_written(key): count for key, count in value.items()}
        case tuple():
            return [_written(one) for one in value]
        case StrEnum():
            return value.value
        case datetime():
            return value.isoformat()
        case Report():
            return value.as_dict()
        case _:
            return value
