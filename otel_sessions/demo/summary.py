"""What a run comes to: a table and a verdict, computed from numbers alone.

The books are held against themselves in every reading, against an empty manager after the shutdown, and against what
the clients have counted. Memory is bounded if the sessions kept to the cap, and the process never took more than a cap
full of sessions and its clients' connections explain.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from .limits import BUFFER_BYTES
from .reading import Reading
from .tally import Tally, percentile

MIB: Final = 1024 * 1024
CLIENT_BYTES: Final = 64 * 1024
"""What the connections and requests of one client may take."""
SLACK_BYTES: Final = 8 * MIB
"""What may come on top, for a process that has just started."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """The proxy's readings, the first from before the load; its last one from after its shutdown, None if it gave none;
    the cap, None if it was off; how many clients there were, and what they have counted."""

    readings: Sequence[Reading]
    last: Reading | None
    cap: int | None
    clients: int
    tally: Tally

    @property
    def end(self) -> Reading:
        return self.last or self.readings[-1]

    @property
    def most_active(self) -> int:
        return max(reading.peak_active for reading in (*self.readings, self.end))

    @property
    def peak_memory(self) -> int:
        return max(reading.memory for reading in (*self.readings, self.end))

    @property
    def allowed_sessions(self) -> int:
        return self.most_active if self.cap is None else self.cap

    @property
    def allowed_memory(self) -> int:
        sessions, clients = self.allowed_sessions * BUFFER_BYTES, self.clients * CLIENT_BYTES
        return self.readings[0].memory + sessions + clients + SLACK_BYTES


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
    if run.cap is not None and run.most_active > run.cap:
        found.append(f"{run.most_active} sessions were active at once under a cap of {run.cap}")
    if run.peak_memory > run.allowed_memory:
        found.append(
            f"the peak of {_mib(run.peak_memory)} is above the {_mib(run.allowed_memory)} that can be explained"
        )
    return found


def exit_status(run: Run) -> int:
    """Return 0 if the books balance and memory is bounded, else 1."""
    return 1 if unbalanced(run) or unbounded(run) else 0


def verdict(run: Run) -> list[str]:
    """Return what to make of it, a sentence a line."""
    books = [f"The books DO NOT BALANCE: {problem}." for problem in unbalanced(run)]
    memory = [f"Memory is NOT BOUNDED: {problem}." for problem in unbounded(run)]
    return [*(books or [_balanced(run)]), *(memory or [_bounded(run)])]


def table(run: Run) -> list[str]:
    """Return the numbers, a kind a line."""
    start, end, tally = run.readings[0].memory, run.end, run.tally
    p50, p99 = (percentile(tally.latencies, share) for share in (0.5, 0.99))
    rows = [
        ("created", end.created, ""),
        ("cleaned", end.total_cleaned, _words(end.cleaned)),
        ("active", end.active, f"at most {end.peak_active}" + (f" of {run.cap}" if run.cap is not None else "")),
        ("rejected", end.total_rejected, _words(end.rejected)),
        ("cleanup passes", end.passes, f"errors {end.errors}"),
        ("requests", tally.requests, f"for ended sessions {tally.gone}, unexpected answers {tally.unexpected}"),
        ("latency", "", f"p50 {p50 * 1000:.0f} ms, p99 {p99 * 1000:.0f} ms"),
        ("proxy memory", "", f"start {_mib(start)}, peak {_mib(run.peak_memory)}, end {_mib(end.memory)}"),
    ]
    return [f"{name:<14} {number:>7}  {words}".rstrip() for name, number, words in rows]


def _disagreements(end: Reading, tally: Tally) -> list[str]:
    """Compare the books with the clients' count; what came back unexpectedly may have been anything."""
    pairs = {
        "created": (end.created, tally.opened),
        "closed": (end.cleaned["closed"], tally.closed),
        "failed": (end.cleaned["failed"], tally.failed),
        "rejected": (end.total_rejected, tally.rejected),
    }
    return [
        f"the proxy says {name} {booked}, its clients {counted}"
        for name, (booked, counted) in pairs.items()
        if not counted <= booked <= counted + tally.unexpected
    ]


def _balanced(run: Run) -> str:
    return (
        f"The books balance: {run.end.created} created, {run.end.total_cleaned} cleaned, {run.end.active} left; "
        f"so did all {len(run.readings)} readings, and the clients counted the same."
    )


def _bounded(run: Run) -> str:
    cap = "there was no cap" if run.cap is None else f"the cap of {run.cap} held"
    sessions, clients = run.allowed_sessions * BUFFER_BYTES, run.clients * CLIENT_BYTES
    return (
        f"Memory is bounded: {cap}; the peak of {_mib(run.peak_memory)} is within {_mib(run.allowed_memory)}, which is "
        f"{_mib(run.readings[0].memory)} at the start, {_mib(sessions)} for {run.allowed_sessions} sessions, "
        f"{_mib(clients)} for {run.clients} clients, and {_mib(SLACK_BYTES)} for the rest."
    )


def _words(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{word} {count}" for word, count in counts.items())


def _mib(size: int) -> str:
    return f"{size / MIB:.1f} MiB"
