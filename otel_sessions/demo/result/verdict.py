"""The verdict on a run, in words: whether the books balance, whether cleanup works, whether memory is bounded.

Pure, from numbers alone. The books must balance in every reading, be empty after the shutdown, and agree with the
clients' counts. Cleanup works if no session is held that was unused for longer than the limits allow. This is seen only
if clients have abandoned some sessions for that long. Memory is bounded if the sessions kept to the cap, and if a cap
full of sessions and the clients' connections explain the memory of the process. A claim that a run was too short to
show has not passed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, inf
from typing import Final

from otel_sessions.demo.limits import BUFFER_BYTES, patience
from otel_sessions.demo.load.scenario import EXODUS

from .history import History, cleaned_by_cleanup

MIB: Final = 1024 * 1024
CLIENT_BYTES: Final = 16 * 1024
"""The memory that the connections and requests of one client may take."""
SLACK_BYTES: Final = 6 * MIB
"""The further memory that a process may take that has just started."""
_UNEXPECTED_SHARE: Final = 0.01
"""The share of requests that may have no answer or an unexpected answer. More of them would hide other faults."""
_TOO_SHORT: Final = "The run was TOO SHORT to tell whether all is well."
_LEAK_FACTOR: Final = 1.25
"""The twin has leaked if it ends at more than this many times our peak."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """Whether our proxy has passed, and the verdict in lines of one or two sentences."""

    passed: bool
    lines: tuple[str, ...]


def judge(ours: History, twin: History | None, clients: int) -> Verdict:
    """Return the verdict on a run with a number of clients. The twin's books must balance, unless it was killed."""
    books = [f"The books DO NOT BALANCE: {problem}." for problem in unbalanced(ours)] or unopened(ours)
    if twin is not None and not twin.killed:
        books += [f"The twin's books DO NOT BALANCE: {problem}." for problem in unbalanced(twin)]
    requests = disturbed(ours)
    cleanup = [f"Cleanup DOES NOT WORK: {problem}." for problem in uncleaned(ours)] or unseen(ours)
    memory = [f"Memory is NOT BOUNDED: {problem}." for problem in unbounded(ours, clients)]
    said = [
        *(books or [_balanced(ours)]),
        *requests,
        *(cleanup or [_cleaned(ours)]),
        *(memory or [_bounded(ours, clients)]),
        *([] if twin is None else [_leaked(ours, twin)]),
        *([_TOO_SHORT] if (unopened(ours) or unseen(ours)) and ours.elapsed < _enough(ours) else []),
    ]
    return Verdict(passed=not (books or requests or cleanup or memory), lines=tuple(said))


def unbalanced(history: History) -> list[str]:
    """Return the problems of the books, in words."""
    found = [
        f"created {reading.created} is not cleaned {reading.total_cleaned} + active {reading.active}"
        for reading in history.readings
        if not reading.balanced
    ][:1]
    if history.last is None:
        found.append("the proxy gave no last reading")
    elif history.last.active:
        found.append(f"{history.last.active} sessions are active after the shutdown")
    if history.counts.opened and not history.end.created:
        found.append("no session was created")
    return found + list(_disagreements(history))


def unopened(history: History) -> list[str]:
    """Return a sentence if no session was opened, so that there were no books to balance."""
    if history.end.created or history.counts.opened:
        return []
    told = f"The books were NOT SEEN at work: in {_seconds(history.elapsed)} no session was opened; {_more(history)}."
    return [told]


def disturbed(history: History) -> list[str]:
    """Return a sentence if too many requests had no answer or an unexpected answer."""
    counts = history.counts
    if counts.unexpected <= counts.requests * _UNEXPECTED_SHARE:
        return []
    return [f"Requests WENT WRONG: {_unexpected(history)}. At most {_UNEXPECTED_SHARE:.0%} is allowed."]


def uncleaned(history: History) -> list[str]:
    """Return the failures of cleanup, in words."""
    seconds = patience(history.limits)
    if seconds == inf:
        return ["without an idle limit or an age limit, nothing ends an abandoned session"]
    if staying := _staying(history):
        told = (
            f"{_count(staying, 'session', 'sessions')} without a request for {seconds:.0f} s "
            f"{'was' if staying == 1 else 'were'} still held at second {history.elapsed:.0f}, after "
            f"{_count(history.now.passes, 'pass', 'passes')}"
        )
        return [told]
    for sample in history.samples:
        left = history.at(sample.elapsed - seconds).counts.abandoned if sample.elapsed >= seconds else 0
        cleaned = cleaned_by_cleanup(sample.reading)
        if cleaned < left:
            told = (
                f"clients had abandoned {left} sessions by second {sample.elapsed - seconds:.0f}, but only {cleaned} "
                f"had been cleaned by second {sample.elapsed:.0f}, after "
                f"{_count(sample.reading.passes, 'pass', 'passes')}"
            )
            return [told]
    return []


def unseen(history: History) -> list[str]:
    """Return a sentence if no session was abandoned for long enough to tell whether cleanup works."""
    if _left_for_long(history):
        return []
    told = (
        f"Cleanup was NOT SEEN at work: in {_seconds(history.elapsed)} no session was abandoned for long enough. The "
        f"limits let an abandoned session stay for {patience(history.limits):.0f} s; {_more(history)}."
    )
    return [told]


def unbounded(history: History, clients: int) -> list[str]:
    """Return the signs that memory is not bounded, in words."""
    found = []
    cap = history.limits.max_sessions
    if cap is not None and history.most_active > cap:
        found.append(f"{history.most_active} sessions were active at once under a cap of {cap}")
    allowed = _allowed_memory(history, clients)
    if history.peak_memory > allowed:
        found.append(f"the peak of {mib(history.peak_memory)} is above the {mib(allowed)} that can be explained")
    return found


def mib(size: float) -> str:
    return f"{size / MIB:.1f} MiB"


def _staying(history: History) -> int:
    """Return the number of sessions held for too long, in the last reading and in the reading an interval before.

    One reading alone says nothing: the machine may just have kept the proxy from running.
    """
    if not history.samples:
        return 0
    before = history.at(history.elapsed - history.limits.cleanup_interval)
    return min(history.now.overstaying, before.reading.overstaying)


def _left_for_long(history: History) -> int:
    """Return the number of sessions that were abandoned so long before the end that they must be gone."""
    then = history.elapsed - patience(history.limits)
    return history.at(then).counts.abandoned if history.samples and then >= history.samples[0].elapsed else 0


def _allowed_sessions(history: History) -> int:
    cap = history.limits.max_sessions
    return history.most_active if cap is None else cap


def _allowed_memory(history: History, clients: int) -> int:
    sessions = _allowed_sessions(history) * BUFFER_BYTES
    return history.start.memory + sessions + clients * CLIENT_BYTES + SLACK_BYTES


def _disagreements(history: History) -> Iterator[str]:
    """Compare the books with the clients' counts.

    An unexpected answer may have hidden anything. A session that expires while its client closes it counts as expired.
    """
    end, counts = history.end, history.counts
    pairs = {
        "created": (end.created, counts.opened, 0),
        "closed": (end.cleaned["closed"], counts.closed, end.cleaned["max_age"]),
        "rejected": (end.total_rejected, counts.rejected, 0),
    }
    for name, (booked, counted, aged) in pairs.items():
        if not counted - aged <= booked <= counted + counts.unexpected:
            yield f"the proxy counts {booked} {name}, its clients {counted}"


def _unexpected(history: History) -> str:
    return f"{history.counts.unexpected} of {history.counts.requests} requests had an unexpected answer or no answer"


def _balanced(history: History) -> str:
    but = f"; {_unexpected(history)}" if history.counts.unexpected else ""
    return (
        f"The books balance: {history.end.created} created, {history.end.total_cleaned} cleaned, "
        f"{history.end.active} left after the shutdown. All {len(history.readings)} readings balance, and the clients "
        f"counted the same{but}."
    )


def _cleaned(history: History) -> str:
    seconds = patience(history.limits)
    return (
        f"Cleanup works: {_count(history.now.passes, 'pass', 'passes')} ended {cleaned_by_cleanup(history.now)} "
        f"sessions. All {_left_for_long(history)} sessions that clients had abandoned by second "
        f"{history.elapsed - seconds:.0f} were gone {seconds:.0f} s later."
    )


def _bounded(history: History, clients: int) -> str:
    cap = history.limits.max_sessions
    held = "there was no cap" if cap is None else f"the cap of {cap} held"
    sessions = _allowed_sessions(history)
    return (
        f"Memory is bounded: {held}; the peak of {mib(history.peak_memory)} is within "
        f"{mib(_allowed_memory(history, clients))}, which is {mib(history.start.memory)} at the start, "
        f"{mib(sessions * BUFFER_BYTES)} for {sessions} sessions, {mib(clients * CLIENT_BYTES)} for {clients} clients, "
        f"and {mib(SLACK_BYTES)} for the rest."
    )


def _leaked(ours: History, twin: History) -> str:
    if twin.killed:
        return (
            f"The twin without cleanup and cap was killed after {twin.elapsed:.0f} s, as the system does when memory "
            f"runs out: it had {mib(twin.now.memory)}, with {twin.now.active} sessions."
        )
    memory, times = twin.now.memory, twin.now.memory / ours.peak_memory
    if times < _LEAK_FACTOR or twin.now.active <= ours.most_active:
        return (
            f"The twin without cleanup and cap has not leaked enough to show a difference: {mib(memory)} at the end. "
            f"A longer run shows the difference."
        )
    return (
        f"The twin without cleanup and cap leaks: under the same load it ended at {mib(memory)}, {times:.1f} times our "
        f"peak, with {twin.now.active} sessions; {twin.counts.abandoned} of them are abandoned, and nothing ends them."
    )


def _enough(history: History) -> int:
    """Return the seconds that a run needs to show everything, or 0 if no run can show that cleanup works."""
    seconds = patience(history.limits)
    return ceil(seconds / (1 - EXODUS)) if seconds < inf else 0


def _more(history: History) -> str:
    """Return how a run would show more."""
    enough = _enough(history)
    return f"--duration {enough} is enough" if history.elapsed < enough else "a longer run or more clients may show it"


def _seconds(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds >= 1 else f"{seconds:.1f} s"


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
