"""What session handling costs a request: the difference of two short rounds, one right after the other.

The machine changes more from minute to minute than sessions cost. So the two are run in pairs, of which each goes first
as often as the other, and what is shown is the median of the pairs' differences, with its quartiles.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median, quantiles

from .wrk import Round

LIMIT = 0.03
"""The most that it may cost, as a share of a request in a session."""


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
    """Seconds of CPU time: what a request in a session takes, and the part of it that sessions are, with quartiles."""

    request: float
    lower: float
    middle: float
    upper: float

    @property
    def share(self) -> float:
        return self.middle / self.request

    def __str__(self) -> str:
        lower, middle, upper, request = (
            f"{value * 1e6:.1f}" for value in (self.lower, self.middle, self.upper, self.request)
        )
        shares = f"{self.share:.1%} ({self.lower / self.request:.1%} to {self.upper / self.request:.1%})"
        verdict = "met" if self.share <= LIMIT else "MISSED"
        return (
            f"session handling takes {middle} us (quartiles {lower} to {upper}) of a request's {request} us of CPU "
            f"time, {shares}; at most {LIMIT:.0%}: {verdict}"
        )


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
    """Return what sessions cost, of at least two pairs."""
    lower, middle, upper = quantiles([pair.difference for pair in pairs], n=4, method="inclusive")
    return Cost(request=median(pair.in_session.cpu for pair in pairs), lower=lower, middle=middle, upper=upper)
