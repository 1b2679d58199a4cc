"""What a run of the proxy's benchmark measured, and what the targets want of it.

A time decides nothing, since machines differ: targets are ratios within one round, but for bytes and for what a session
costs, whose microseconds stand beside the same in u.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from benchmarks.spread import Spread

from .asked import Workload
from .field import NGINX, ON_ASYNCIO, OURS
from .handling import Cost, Pair, cost
from .peers import ASGIPROXY
from .wrk import Round

MIB: Final = 1024 * 1024
MISSED: Final = "MISSED"
Rounds = dict[Workload, dict[str, list[Round]]]
"""By workload and contestant."""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Resident bytes of a contestant with its children: once it listened, and after all rounds."""

    at_start: int
    after: int


@dataclass(frozen=True, kw_only=True)
class Measured:
    """All that one run measured. `u` is in seconds; `abandoned` has the resident bytes at each mark."""

    rounds: Rounds
    pairs: Sequence[Pair]
    u: float
    memory: Mapping[str, Memory]
    abandoned: Mapping[int, int]
    absent: Mapping[str, str] = field(default_factory=dict)
    """Who took no part, and why."""

    def names(self) -> list[str]:
        """Return every contestant, in the order of the field."""
        return list(dict.fromkeys(name for by_name in self.rounds.values() for name in by_name))

    def ratio(self, workload: Workload, name: str, other: str) -> Spread | None:
        """Return how many times as much CPU time a contestant takes as another; None if one was not measured.

        A contestant that left has fewer rounds, all of them from the beginning.
        """
        mine, theirs = self.rounds[workload].get(name), self.rounds[workload].get(other)
        if not mine or not theirs:
            return None
        return Spread.of([one.cpu / beside.cpu for one, beside in zip(mine, theirs, strict=False)])

    @property
    def cost(self) -> Cost:
        """Return what the session of a request costs."""
        return cost(self.pairs)


@dataclass(frozen=True, kw_only=True)
class Target:
    """One line of the targets: what is wanted, what was found, and whether that is met."""

    what: str
    wanted: str
    found: Spread | None
    verdict: str


def at_most(what: str, limit: float, unit: str, found: Spread | None) -> Target:
    """Return a target that the median meets up to the limit."""
    return _judged(what, f"at most {limit:g} {unit}", found, found is not None and found.median <= limit)


def at_least(what: str, limit: float, unit: str, found: Spread | None) -> Target:
    """Return a target that the median meets from the limit up."""
    return _judged(what, f"at least {limit:g} {unit}", found, found is not None and found.median >= limit)


def _judged(what: str, wanted: str, found: Spread | None, met: bool) -> Target:
    verdict = "not measured" if found is None else "met" if met else MISSED
    return Target(what=what, wanted=wanted, found=found, verdict=verdict)


_RATIOS: Final = (
    ("POST of 200 bytes in a session", Workload.POST, OURS, 6.0),
    ("GET of 16 KiB in a session", Workload.GET, OURS, 3.0),
    ("event of a stream", Workload.EVENT, OURS, 2.5),
    ("POST in a session, on asyncio's loop", Workload.POST, ON_ASYNCIO, 9.0),
)
"""What, in which workload, of whom, and at most how many times nginx' CPU time."""


def targets(measured: Measured) -> Iterator[Target]:
    """Return each target of the design, section 9, and of what the proxy was built for."""
    for what, workload, name, limit in _RATIOS:
        yield at_most(what, limit, "times nginx", measured.ratio(workload, name, NGINX))
    yield at_least("asgiproxy's POST", 2.5, "times ours", measured.ratio(Workload.POST, ASGIPROXY, OURS))
    yield from _of_sessions(measured)
    yield from _of_memory(measured)


def _of_sessions(measured: Measured) -> Iterator[Target]:
    """Judge by what the median lies between with 95 % certainty."""
    sessions = measured.cost
    for limit, unit, one in ((6.0, "us", 1e-6), (33.0, "u", measured.u)):
        found = Spread(median=sessions.median / one, lowest=sessions.least / one, highest=sessions.most / one)
        yield Target(
            what="the session of a POST",
            wanted=f"at most {limit:g} {unit}",
            found=found,
            verdict=sessions.verdict(limit * one),
        )


def _of_memory(measured: Measured) -> Iterator[Target]:
    start = measured.memory[OURS].at_start / MIB
    yield at_most("resident at start", 38.0, "MiB", Spread.of([start]))
    few, many = min(measured.abandoned), max(measured.abandoned)
    flat = measured.abandoned[many] / measured.abandoned[few]
    what = f"resident after {many:,} abandoned sessions"
    yield at_most(what, 1.05, f"times after {few:,}", Spread.of([flat]))
