"""The counters that always balance, and the bounded memory of why recent sessions ended.

`Books` keeps only counts that grow, all in one dict. The current numbers are differences of these counts. A change of
state is one addition, for one session or for many. So one copy of the dict is a balanced snapshot on any thread:
`created == cleaned + unleased + leased + closing`. Errors have a dict of their own, since their types are not known
before they happen.
"""

from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Final, TypeVar

from .words import OTHER, CleanupStage, EndReason, Forwarded, Occupancy, Outcome, RejectionReason, Trigger

# Plain strings: Python computes the hash of a string once.
_CREATED: Final = "created"
_LEASED: Final = "leased"
_RELEASED: Final = "released"
_CLOSING: Final = "closing"
_RESERVED: Final = "reserved"
_UNRESERVED: Final = "unreserved"
_WAITING: Final = "waiting"
_ANSWERED: Final = "answered"
_CLEANED: Final = {reason: f"cleaned {reason}" for reason in EndReason}
_REJECTED: Final = {reason: f"rejected {reason}" for reason in RejectionReason}
_FORWARDED: Final = {outcome: f"forwarded {outcome}" for outcome in Forwarded}
_RUNS: Final = {run: "run {} {}".format(*run) for run in product(Trigger, Outcome)}

Run = tuple[Trigger, Outcome]
Error = tuple[CleanupStage, str]
"""A stage, and the `error.type`: the class of an exception, `timeout`, or `_OTHER`."""

MAX_ERRORS: Final = 500
"""The most kinds of errors, besides `_OTHER`, that are told apart."""
KeyT = TypeVar("KeyT")


@dataclass(frozen=True, kw_only=True, slots=True)
class Totals:
    """The books of one manager, or the sum of several, at one moment.

    Each mapping has every key. `errors` has `_OTHER` of each stage, and the types that there were.
    """

    created: int
    cleaned: Mapping[EndReason, int]
    active: Mapping[Occupancy, int]
    reserved: int
    waiting: int
    rejected: Mapping[RejectionReason, int]
    runs: Mapping[Run, int]
    errors: Mapping[Error, int]
    forwarded: Mapping[Forwarded, int]

    def __add__(self, other: "Totals") -> "Totals":
        return Totals(
            created=self.created + other.created,
            cleaned=_sum(self.cleaned, other.cleaned),
            active=_sum(self.active, other.active),
            reserved=self.reserved + other.reserved,
            waiting=self.waiting + other.waiting,
            rejected=_sum(self.rejected, other.rejected),
            runs=_sum(self.runs, other.runs),
            errors=_sum(self.errors, other.errors),
            forwarded=_sum(self.forwarded, other.forwarded),
        )

    def settled(self) -> "Totals":
        """Return the totals of a manager that is gone. The sessions that it still held count as `shutdown`."""
        left = sum(self.active.values())
        return replace(
            self,
            cleaned={**self.cleaned, EndReason.SHUTDOWN: self.cleaned[EndReason.SHUTDOWN] + left},
            active=dict.fromkeys(Occupancy, 0),
            reserved=0,
            waiting=0,
        )


class Books:
    """One manager's counters. Only the manager's event loop writes them; any thread may read them.

    `active`, `leased`, `closing` and `reserved` are current numbers, for decisions on this loop. Telemetry and
    statistics use `totals()`. `limit` is the cap.
    """

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self.active = self.closing = self.reserved = 0
        self.peak_active = 0
        self._counts: dict[str, int] = dict.fromkeys(
            [
                *(_CREATED, _LEASED, _RELEASED, _CLOSING, _RESERVED, _UNRESERVED, _WAITING, _ANSWERED),
                *(_CLEANED.values()),
                *(_REJECTED.values()),
                *(_RUNS.values()),
                *(_FORWARDED.values()),
            ],
            0,
        )
        self._errors: dict[Error, int] = {(stage, OTHER): 0 for stage in CleanupStage}

    def add_reserved(self) -> None:
        self.reserved += 1
        self._counts[_RESERVED] += 1

    def add_unreserved(self) -> None:
        self.reserved -= 1
        self._counts[_UNRESERVED] += 1

    def add_waiting(self) -> None:
        self._counts[_WAITING] += 1

    def add_answered(self) -> None:
        self._counts[_ANSWERED] += 1

    def add_created(self) -> None:
        self.active += 1
        if self.active > self.peak_active:
            self.peak_active = self.active
        self._counts[_CREATED] += 1

    @property
    def leased(self) -> int:
        return self._counts[_LEASED] - self._counts[_RELEASED]

    def add_leased(self) -> None:
        self._counts[_LEASED] += 1

    def add_released(self) -> None:
        self._counts[_RELEASED] += 1

    def add_closing(self) -> None:
        self.closing += 1
        self._counts[_CLOSING] += 1

    def add_cleaned(self, reason: EndReason) -> None:
        self.closing -= 1
        self.active -= 1
        self._counts[_CLEANED[reason]] += 1

    def add_removed(self, reason: EndReason, count: int) -> None:
        """Count sessions that end in one step. Between the two additions, another thread sees them as closing."""
        self.active -= count
        self._counts[_CLOSING] += count
        self._counts[_CLEANED[reason]] += count

    def add_rejected(self, reason: RejectionReason) -> None:
        self._counts[_REJECTED[reason]] += 1

    def add_run(self, trigger: Trigger, outcome: Outcome) -> None:
        self._counts[_RUNS[trigger, outcome]] += 1

    def add_forwarded(self, outcome: Forwarded) -> None:
        self._counts[_FORWARDED[outcome]] += 1

    def add_error(self, stage: CleanupStage, error_type: str) -> None:
        """Count an error. A type that comes after `MAX_ERRORS` others counts as `_OTHER`."""
        error = (stage, error_type)
        if error not in self._errors and len(self._errors) >= MAX_ERRORS + len(CleanupStage):
            error = (stage, OTHER)
        self._errors[error] = self._errors.get(error, 0) + 1

    def succeeded(self) -> "Books":
        """Return new books that go on from these. Current sessions count as `shutdown`, as in `Totals.settled`.

        Code that still writes to the old books does not change the new books.
        """
        totals, books = self.totals(), Books(self.limit)
        books.peak_active = self.peak_active
        books._counts = counts = self._counts.copy()
        books._errors = self._errors.copy()
        counts[_RELEASED] += totals.active[Occupancy.LEASED]
        counts[_CLOSING] += totals.active[Occupancy.LEASED] + totals.active[Occupancy.UNLEASED]
        counts[_CLEANED[EndReason.SHUTDOWN]] += sum(totals.active.values())
        counts[_UNRESERVED] += totals.reserved
        counts[_ANSWERED] += totals.waiting
        return books

    def totals(self) -> Totals:
        counts = self._counts.copy()
        created = counts[_CREATED]
        cleaned = {reason: counts[key] for reason, key in _CLEANED.items()}
        leased = counts[_LEASED] - counts[_RELEASED]
        closing = counts[_CLOSING] - sum(cleaned.values())
        return Totals(
            created=created,
            cleaned=cleaned,
            active={
                Occupancy.UNLEASED: created - leased - counts[_CLOSING],
                Occupancy.LEASED: leased,
                Occupancy.CLOSING: closing,
            },
            reserved=counts[_RESERVED] - counts[_UNRESERVED],
            waiting=counts[_WAITING] - counts[_ANSWERED],
            rejected={reason: counts[key] for reason, key in _REJECTED.items()},
            runs={run: counts[key] for run, key in _RUNS.items()},
            errors=self._errors.copy(),
            forwarded={outcome: counts[key] for outcome, key in _FORWARDED.items()},
        )


class RecentEnds:
    """Why the last 4,096 sessions ended, by Python's hash of the session id. No other object sees this hash.

    `add` only appends. `reason_of` moves the reasons into a dict, since most are forgotten before a caller asks.
    """

    CAPACITY: Final = 4096

    def __init__(self) -> None:
        self._latest: deque[tuple[int, EndReason]] = deque(maxlen=self.CAPACITY)
        self._reasons: OrderedDict[int, EndReason] = OrderedDict()

    def add(self, session_id: str, reason: EndReason) -> None:
        self._latest.append((hash(session_id), reason))

    def reason_of(self, session_id: str) -> EndReason | None:
        while self._latest:
            key, reason = self._latest.popleft()
            self._reasons[key] = reason
            self._reasons.move_to_end(key)
        while len(self._reasons) > self.CAPACITY:
            self._reasons.popitem(last=False)
        return self._reasons.get(hash(session_id))


def _sum(left: Mapping[KeyT, int], right: Mapping[KeyT, int]) -> dict[KeyT, int]:
    total = dict(left)
    for key, count in right.items():
        total[key] = total.get(key, 0) + count
    return total
