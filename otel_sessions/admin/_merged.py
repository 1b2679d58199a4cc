"""What several processes have answered, put together. Pure.

Numbers add up, so the books of all processes balance as the books of each do. Where numbers cannot add up, the answer
is that of the process for which things are worst.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Final

from otel_sessions._core.words import Outcome
from otel_sessions._engine.inquiries import Answer

_WORST_FIRST: Final = (Outcome.ERROR, Outcome.CANCELLED, Outcome.PARTIAL, Outcome.SUCCESS)
_SUMS: Final = (
    *("total_created", "total_cleaned", "currently_active", "cleanup_runs", "cleanup_errors", "leased", "closing"),
    *("reserved", "waiting", "peak_active"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Said:
    """What one process has said: its answer, or why there is none."""

    name: str
    answer: Answer | None
    error: str | None = None

    def as_dict(self) -> dict[str, Any]:
        return {"name": self.name, "reached": self.answer is not None, "error": self.error}


def processes(said: Iterable[Said]) -> list[dict[str, Any]]:
    """Return which processes were reached."""
    return [one.as_dict() for one in said]


def answers(said: Iterable[Said]) -> list[Answer]:
    return [one.answer for one in said if one.answer is not None]


def ended(said: Sequence[Said]) -> int:
    return sum(answer.get("ended", 0) for answer in answers(said))


def report(said: Sequence[Said]) -> Answer:
    """Return the report of the passes of all processes. It is partial at best if a process was not reached."""
    reports = answers(said)
    outcomes = {one["outcome"] for one in reports}
    if len(reports) < len(said):
        outcomes.add(Outcome.PARTIAL)
    return {
        "trigger": reports[0]["trigger"],
        "outcome": next(outcome for outcome in _WORST_FIRST if outcome in outcomes),
        "cleaned": _added(one["cleaned"] for one in reports),
        "duration": max(one["duration"] for one in reports),
        **{name: sum(one[name] for one in reports) for name in ("examined", "hook_errors", "remaining")},
        "total_cleaned": sum(one["total_cleaned"] for one in reports),
        "processes": processes(said),
    }


def statistics(said: Sequence[Said]) -> Answer:
    """Return the books of all processes, and of each. The last pass is that of the process that waits longest."""
    books = answers(said)
    latest = max(books, key=itemgetter("seconds_since_cleanup"))
    return {
        **{name: sum(one[name] for one in books) for name in _SUMS},
        **{name: _added(one[name] for one in books) for name in ("rejected", "cleaned_by_reason")},
        **{name: latest[name] for name in ("last_cleanup", "seconds_since_cleanup")},
        "processes": [{**one.as_dict(), "stats": one.answer} for one in said],
    }


def config(said: Sequence[Said]) -> Answer:
    """Return the settings of this process, with the sum of the caps. Without a cap in one process there is no cap."""
    own = answers(said)[0]
    caps = {one.name: one.answer["settings"]["max_sessions"] for one in said if one.answer is not None}
    cap = None if None in caps.values() else sum(caps.values())
    settings = {**own["settings"], "max_sessions": cap}
    listed = [{**one.as_dict(), "max_sessions": caps.get(one.name)} for one in said]
    return {"name": own["name"], "settings": settings, "processes": listed}


def recent(said: Sequence[Said], limit: int) -> Answer:
    """Return the ends of all processes, the latest first."""
    ends = [{**end, "process": one.name} for one in said if one.answer is not None for end in one.answer["ends"]]
    ends.sort(key=itemgetter("ended_at"), reverse=True)
    return {"ends": ends[:limit], "processes": processes(said)}


def _added(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for one in counts:
        for word, count in one.items():
            total[word] = total.get(word, 0) + count
    return total
