"""What session handling costs a request: the difference of two short rounds, one right after the other.

The machine changes more from minute to minute than sessions cost. So the two are run in pairs, of which each goes first
as often as the other, and what is shown is the median of the pairs' differences, and how certain that is.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import comb
from statistics import median, quantiles

from .wrk import Round

FEWEST = 6
"""Pairs of which something is 95 % certain."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two rounds of the same proxy: with requests in a session, and with requests that sessions have no part in."""

    in_session: Round
    without: Round

    @property
    def difference(self) -> float:
        """Return the seconds of CPU time that a request in a session takes longer."""
        return self.in_session.cpu - self.without.cpu


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What sessions are of a request in a session, in seconds of CPU time: the median difference of the pairs.

    The quartiles say how far single pairs lie apart; the median itself lies from `least` to `most` with 95 % certainty.
    """

    request: float
    lower_quartile: float
    median: float
    upper_quartile: float
    least: float
    most: float

    @property
    def share(self) -> float:
        return self.median / self.request

    def verdict(self, limit: float) -> str:
        """Return whether sessions cost at most `limit` seconds, where that is certain.

        A cost below zero is no cost: then requests in no session cost more, for a reason of their own.
        """
        if self.most < 0:
            return "no verdict, no session costs more"
        if self.most <= limit:
            return "met"
        return "MISSED" if self.least > limit else "not decided, more --pairs may"

    def lines(self) -> Iterator[str]:
        """Yield it as a person reads it."""
        yield f"session handling, of {self.request * 1e6:.0f} us of CPU time a request:"
        yield f"  {'median of the differences':<28}{self._shown(self.median)}"
        yield f"  {'quartiles':<28}{self._shown(self.lower_quartile)} to {self._shown(self.upper_quartile)}"
        yield f"  {'median, 95 % certain':<28}{self._shown(self.least)} to {self._shown(self.most)}"

    def _shown(self, seconds: float) -> str:
        return f"{seconds * 1e6:.1f} us ({seconds / self.request:.1%})"


def in_turns(in_session: Callable[[], Round], without: Callable[[], Round], count: int) -> list[Pair]:
    """Run so many pairs; the one that goes first changes with every pair."""
    pairs = []
    for number in range(count):
        if number % 2:
            one, other = in_session(), without()
        else:
            other, one = without(), in_session()
        pairs.append(Pair(in_session=one, without=other))
    return pairs


def cost(pairs: Sequence[Pair]) -> Cost:
    """Return what sessions cost. With less than `FEWEST` pairs nothing is 95 % certain."""
    differences = [pair.difference for pair in pairs]
    lower, middle, upper = quantiles(differences, n=4, method="inclusive")
    least, most = bounds_of_median(differences)
    return Cost(
        request=median(pair.in_session.cpu for pair in pairs),
        lower_quartile=lower,
        median=middle,
        upper_quartile=upper,
        least=least,
        most=most,
    )


def bounds_of_median(values: Sequence[float]) -> tuple[float, float]:
    """Return between which of some values the true median lies with 95 % certainty, whatever their distribution.

    Each value is as likely below it as above, so how many are below is binomial: the outermost values are left out for
    as long as the chance that it lies among them stays under 2.5 % on either side.
    """
    ordered, outside, chances = sorted(values), 0, 1
    while chances <= 0.025 * 2 ** len(ordered):
        outside += 1
        chances += comb(len(ordered), outside)
    return ordered[outside - 1], ordered[-outside]
