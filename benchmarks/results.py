"""What a run measured, and what the targets want of it.

Each round's numbers are kept as `measure.py` gives them: u an operation, multiples of what the bare dict of the same
size takes, bytes a session. What is shown is the median of the rounds, with the lowest and the highest.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .by_hand import BareDict, FullScan
from .contestants import ALL
from .ours import Ours, OursWithSdk
from .spread import Spread

OURS, WITH_SDK = Ours.name, OursWithSdk.name
CONTROL = FullScan.name
"""Whose get and touch are the bare dict's own, so that its ratio to that is 1 but for what the measurement errs by."""
RIVALS = tuple(kind.name for kind in ALL if kind.correct and not issubclass(kind, Ours | BareDict))
"""The caches that expire idle entries correctly."""

Values = list[float]
Measured = dict[str, dict[int, dict[str, Values]]]
"""By contestant, size and measurement, a value for each round; none for what the contestant cannot do."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """One line of the design's targets at one size; `met` goes by the median."""

    what: str
    size: int
    limit: float
    measured: Spread
    unit: str

    @property
    def met(self) -> bool:
        return self.measured.median <= self.limit


def spread_of(measured: Measured, name: str, size: int, key: str) -> Spread:
    return Spread.of(measured[name][size][key])


def of_rival(measured: Measured, size: int, rival: str) -> Spread:
    """Return how many times as long as a rival's use our touch takes: by what both are to the bare dict in a round."""
    pairs = zip(measured[OURS][size]["touch of M"], measured[rival][size]["touch of M"], strict=True)
    return Spread.of([mine / theirs for mine, theirs in pairs])


def lateness(measured: Measured, name: str, size: int) -> Spread:
    """Return how many times as late as while it only spins the loop is while half of the sessions expire."""
    numbers = measured[name][size]
    return Spread.of([late / alone for late, alone in zip(numbers["late"], numbers["late alone"], strict=True)])


SMALL, LARGE, LARGEST = 1_000, 100_000, 1_000_000

_LIMITS: Sequence[tuple[str, str, str, float, str, range]] = (
    ("touch(id)", OURS, "touch of M", 1.2, "M", range(SMALL, SMALL + 1)),
    ("touch(id)", OURS, "touch of M", 1.0, "M", range(LARGE, LARGEST + 1)),
    ("get + touch", OURS, "use of M", 1.7, "M", range(SMALL, SMALL + 1)),
    ("get + touch", OURS, "use of M", 1.4, "M", range(LARGE, LARGEST + 1)),
    ("create with a given id, of the bare dict's", OURS, "create of M", 3.0, "times", range(LARGEST, LARGEST + 1)),
    ("a pass with nothing due", OURS, "idle pass", 60.0, "u", range(LARGEST + 1)),
    ("each expired session", OURS, "expired", 6.0, "u", range(LARGE, LARGEST + 1)),
    ("a session takes", OURS, "bytes", 256.0, "bytes", range(LARGE, LARGEST + 1)),
    ("a refusal at the cap", OURS, "refusal", 8.0, "u", range(LARGEST + 1)),
    ("an export with the SDK", WITH_SDK, "export", 2_000.0, "u", range(LARGEST + 1)),
    ("async with lease(id)", OURS, "lease", 30.0, "u", range(SMALL, SMALL + 1)),
    ("the middleware over a bare app", OURS, "middleware", 53.0, "u", range(SMALL, SMALL + 1)),
)
"""What, of whom, by which number, at most how much of which unit, and at which sizes."""


def targets(measured: Measured) -> Iterator[Target]:
    """Return each target at each size that it speaks of and that was measured."""
    for size in measured[OURS]:
        for what, name, key, limit, unit, sizes in _LIMITS:
            if size in sizes:
                found = spread_of(measured, name, size, key)
                yield Target(what=what, size=size, limit=limit, measured=found, unit=unit)
        for rival in RIVALS:
            against = of_rival(measured, size, rival)
            yield Target(what=f"touch(id) against {rival}", size=size, limit=1.0, measured=against, unit="of it")
        if size == LARGEST:
            late = lateness(measured, OURS, size)
            yield Target(what="the loop is late, of spinning", size=size, limit=1.5, measured=late, unit="times")


def price_of_a_record(measured: Measured, size: int) -> Spread:
    """Return by how many u the SDK makes the end of a session dearer."""
    pairs = zip(measured[WITH_SDK][size]["expired"], measured[OURS][size]["expired"], strict=True)
    return Spread.of([with_sdk - without for with_sdk, without in pairs])
