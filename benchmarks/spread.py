"""The median of some rounds, and how far the rounds lie apart."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True, kw_only=True)
class Spread:
    """The median of some values, with the lowest and the highest."""

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
