"""What a run has shown, from the journals of all processes and the books of the store. Pure.

What must hold after every fault:

- each session that was acknowledged has ended: at its owner, or by a hook for orphans
- no session has ended at two owners, and the store has counted no session twice
- no process has served a session after another process had claimed it
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .journal import Entry, Kind

FENCED = "fenced"
"""How a process ends a session that others have claimed. It does not count as an end."""
NEVER_KNOWN = "failed"
"""How a process ends a session that the store may never have had."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The figures of one row. `books` are the store's."""

    made: int
    ended: Mapping[str, int]
    """How many sessions ended for each reason, as the store has counted them."""
    served: int
    hooks: Mapping[int, int]
    """For how many sessions the hook for orphans was called once, twice and so on."""
    again: int
    """How many sessions ended at their owner and had a hook for orphans, too."""
    peak: int
    """The most sessions at one time."""
    over: int
    """How many of them were over the cap."""
    lost: tuple[str, ...]
    twice: tuple[str, ...]
    late: tuple[str, ...]
    """The sessions that were served after a claim."""
    wrong: tuple[str, ...]
    """What does not agree between the store's books and the journals."""


def judge(journals: Iterable[Iterable[Entry]], books: Mapping[str, int], *, cap: int, forgets: bool) -> Verdict:
    """Return what a run has shown. `forgets` says that the store may have lost its last writes."""
    entries = sorted((entry for journal in journals for entry in journal), key=lambda entry: entry.at)
    made = {entry.session for entry in entries if entry.kind is Kind.MADE}
    ends = Counter(entry.session for entry in entries if _is_end(entry))
    hooks = Counter(entry.session for entry in entries if entry.kind is Kind.ORPHAN)
    peak = _peak(entries)
    return Verdict(
        made=len(made),
        ended={word: count for word, count in sorted(books.items()) if word not in ("created", "active")},
        served=sum(entry.kind is Kind.SERVED for entry in entries),
        hooks=dict(sorted(Counter(hooks.values()).items())),
        again=len(hooks.keys() & ends.keys()),
        peak=peak,
        over=max(0, peak - cap),
        lost=tuple(sorted(made - hooks.keys() - ends.keys())),
        twice=tuple(sorted(session for session, count in ends.items() if count > 1)),
        late=_late(entries),
        wrong=tuple(_disagreements(entries, books, forgets)),
    )


def _is_end(entry: Entry) -> bool:
    return entry.kind is Kind.ENDED and entry.detail != FENCED


def _peak(entries: Iterable[Entry]) -> int:
    """Return the most sessions at one time. A session of a dead process stands until the first hook for it."""
    living: set[str] = set()
    over: set[str] = set()
    peak = 0
    for entry in entries:
        if entry.kind is Kind.MADE and entry.session not in over:
            living.add(entry.session)
            peak = max(peak, len(living))
        elif _is_end(entry) or entry.kind is Kind.ORPHAN:
            over.add(entry.session)
            living.discard(entry.session)
    return peak


def _late(entries: Iterable[Entry]) -> tuple[str, ...]:
    claimed: dict[str, int] = {}
    late: list[str] = []
    for entry in entries:
        if entry.kind is Kind.ORPHAN:
            claimed.setdefault(entry.session, entry.at)
        elif entry.kind is Kind.SERVED and entry.session in claimed:
            late.append(f"{entry.session} {(entry.at - claimed[entry.session]) / 1e9:.3f} s after")
    return tuple(late)


def _disagreements(entries: list[Entry], books: Mapping[str, int], forgets: bool) -> Iterable[str]:
    """Yield what does not agree. A store that forgot has counted at most what the journals have."""
    created, active = books.get("created", 0), books.get("active", 0)
    by_reason = {word: count for word, count in books.items() if word not in ("created", "active")}
    if created != active + sum(by_reason.values()):
        yield f"the store's books do not balance: {dict(books)}"
    if active:
        yield f"{active} sessions were left in the store"
    asked, known = (len({entry.session for entry in entries if entry.kind in kinds}) for kinds in _KNOWN)
    if created > asked or (created < known and not forgets):
        yield f"the store has counted {created} sessions, {known} are known, {asked} were asked for"
    for reason, count in by_reason.items():
        seen = {entry.session for entry in entries if _counts_as(entry, reason)}
        if count > len(seen):
            yield f"the store has counted {count} ends as {reason}, the journals {len(seen)}"


_KNOWN = ({Kind.ASKED}, {Kind.MADE, Kind.ORPHAN})


def _counts_as(entry: Entry, reason: str) -> bool:
    if reason == "orphaned":
        return entry.kind is Kind.ORPHAN
    return entry.kind is Kind.ENDED and entry.detail == reason
