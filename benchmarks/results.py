"""What a run measured, and what DESIGN section 8 wants of it.

Each round's numbers are kept: seconds an operation, bytes a session, and how many times as long as in the bare dict
beside it get and touch take. What is shown is the median of the rounds, with the lowest and the highest.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from .by_hand import FullScan
from .caches import CacheboxTTL, CacheboxVTTL, Moka
from .ours import Ours, OursWithSdk

OURS, WITH_SDK = Ours.name, OursWithSdk.name
CONTROL = FullScan.name
"""Whose get and touch are the bare dict's own, so that its ratio to that is 1 but for what the measurement errs by."""
RIVALS = (CacheboxVTTL.name, CacheboxTTL.name, Moka.name)
"""Those that are meant to be fast, whatever their caveats."""

Values = list[float]
Measured = dict[str, dict[int, dict[str, Values]]]
"""By contestant, size and measurement, a value for each round; none for what the contestant cannot do."""


@dataclass(frozen=True, kw_only=True)
class Spread:
    """The median of some rounds, and how far they lie apart."""

    median: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        return cls(median=median(values), lowest=min(values), highest=max(values))

    @property
    def ends(self) -> str:
        return f"{self.lowest:.2f} to {self.highest:.2f}"

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.ends})"


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


def of_bare(measured: Measured, size: int, name: str) -> Spread:
    """Return how many times as long as in the bare dict get and touch take."""
    return Spread.of(measured[name][size]["use of M"])


def of_rival(measured: Measured, size: int, rival: str) -> Spread:
    """Return how many times as long as in a rival ours take, as both compare with the bare dict in the same round."""
    pairs = zip(measured[OURS][size]["use of M"], measured[rival][size]["use of M"], strict=True)
    return Spread.of([mine / theirs for mine, theirs in pairs])


def targets(measured: Measured) -> Iterator[Target]:
    """Return each target at each size that it speaks of and that was measured."""
    for size in measured[OURS]:
        large = size >= 100_000
        mine = of_bare(measured, size, OURS)
        yield Target(what="get + touch", size=size, limit=1.3 if large else 1.8, measured=mine, unit="M")
        for rival in RIVALS:
            against = of_rival(measured, size, rival)
            yield Target(what=f"get + touch against {rival}", size=size, limit=1.0, measured=against, unit="of it")
        yield from _absolute(measured[OURS][size], size, large)
        exports = Spread.of([1e3 * value for value in measured[WITH_SDK][size]["export"]])
        yield Target(what="an export with the SDK", size=size, limit=1.0, measured=exports, unit="ms")


def _absolute(numbers: dict[str, Values], size: int, large: bool) -> Iterator[Target]:
    limits: list[tuple[str, str, float, float, str, bool]] = [
        ("a pass with nothing due", "idle pass", 1e6, 20.0, "us", True),
        ("an expired session", "expired", 1e6, 2.5, "us", True),
        ("the loop is late by", "late", 1e3, 1.5, "ms", True),
        ("a session takes", "bytes", 1.0, 256.0, "bytes", large),
        ("a refusal at the cap", "refusal", 1e6, 2.0, "us", True),
    ]
    for what, key, factor, limit, unit, applies in limits:
        if applies:
            values = Spread.of([factor * value for value in numbers[key]])
            yield Target(what=what, size=size, limit=limit, measured=values, unit=unit)


def price_of_a_record(measured: Measured, size: int) -> Spread:
    """Return by how many microseconds the SDK makes the end of a session dearer."""
    pairs = zip(measured[WITH_SDK][size]["expired"], measured[OURS][size]["expired"], strict=True)
    return Spread.of([1e6 * (with_sdk - without) for with_sdk, without in pairs])
