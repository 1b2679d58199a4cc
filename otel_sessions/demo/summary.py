"""What a run comes to: a table and a verdict, computed from numbers alone.

The books are held against themselves in every reading, against an empty manager after the shutdown, and against what
the clients have counted. Memory is bounded if the sessions kept to the cap and the second half of the run needed no
more than the first, within `MARGIN`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from .reading import Reading
from .tally import Tally, percentile

MIB: Final = 1024 * 1024
MARGIN: Final = 16 * MIB
"""How much more memory than the first half, in bytes, the second half may need."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """The proxy's readings under load, in order and at least one; its last one, None if it gave none; the cap, None
    if it was off; the clients' tally."""

    readings: Sequence[Reading]
    last: Reading | None
    cap: int | None
    tally: Tally

    @property
    def end(self) -> Reading:
        return self.last or self.readings[-1]


def unbalanced(run: Run) -> list[str]:
    """Return in words where the books do not balance."""
    found = [
        f"created {reading.created} is not cleaned {reading.total_cleaned} + active {reading.active}"
        for reading in (*run.readings, run.end)
        if not reading.balanced
    ]
    if run.last is None:
        found.append("the proxy gave no last reading")
    elif run.last.active:
        found.append(f"{run.last.active} sessions are active after the shutdown")
    if not run.end.created:
        found.append("no session was created")
    return found + _disagreements(run.end, run.tally)


def unbounded(run: Run) -> list[str]:
    """Return in words where memory is not bounded."""
    found = []
    most = max(reading.peak_active for reading in (*run.readings, run.end))
    if run.cap is not None and most > run.cap:
        found.append(f"{most} sessions were active at once under a cap of {run.cap}")
    first, second = _peaks_of_halves(run.readings)
    if second > first + MARGIN:
        found.append(f"it rose from at most {_mib(first)} to {_mib(second)}, more than {_mib(MARGIN)} above")
    return found


def verdict(run: Run) -> list[str]:
    """Return the verdict as lines of text."""
    books, memory = unbalanced(run), unbounded(run)
    first, second = _peaks_of_halves(run.readings)
    return [
        *[f"The books DO NOT BALANCE: {problem}." for problem in books],
        *[f"Memory is NOT BOUNDED: {problem}." for problem in memory],
        *(() if books else [f"The books balance: {run.end.created} created, as many cleaned, none left; "
                            "in every reading, and as the clients counted."]),
        *(() if memory else [f"Memory is bounded: never more sessions than the cap, and at most {_mib(second)} in the second "
                             f"half after {_mib(first)} in the first (allowed: {_mib(MARGIN)} more)."]),
    ]


def exit_status(run: Run) -> int:
    """Return 0 if the books balance and memory is bounded, else 1."""
    return 1 if unbalanced(run) or unbounded(run) else 0
