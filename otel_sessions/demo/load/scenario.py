"""The scenario of a load, phase by phase: how many clients are active, and whether they abandon their sessions.

Pure: the time is passed in. A scenario that is over begins again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Final


@dataclass(frozen=True, kw_only=True, slots=True)
class Phase:
    """A phase: its share of the scenario, and the share of active clients at its start and at its end.

    With `leaves`, all clients abandon their sessions.
    """

    name: str
    share: float
    first: float
    last: float
    leaves: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """One moment of a scenario: the name of the phase, and the share of active clients, from 0 to 1."""

    phase: str
    present: float
    leaves: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Scenario:
    """Phases that take `seconds` together, again and again."""

    phases: Sequence[Phase]
    seconds: float

    def at(self, elapsed: float) -> Stage:
        """Return the stage `elapsed` seconds after the start."""
        place = elapsed % self.seconds / self.seconds
        for phase in self.phases:
            if place < phase.share:
                present = phase.first + (phase.last - phase.first) * place / phase.share
                return Stage(phase=phase.name, present=present, leaves=phase.leaves)
            place -= phase.share
        last = self.phases[-1]
        return Stage(phase=last.name, present=last.last, leaves=last.leaves)


PHASES: Final = (
    Phase(name="ramp", share=0.2, first=0.0, last=0.4),
    Phase(name="steady", share=0.3, first=0.4, last=0.4),
    Phase(name="burst", share=0.15, first=1.0, last=1.0),
    Phase(name="abandonment", share=0.15, first=0.0, last=0.0, leaves=True),
    Phase(name="recovery", share=0.2, first=0.2, last=0.4),
)
"""Everyday use, more clients than places, all clients gone at once, and everyday use again."""
EXODUS: Final = sum(phase.share for phase in takewhile(lambda phase: not phase.leaves, PHASES))
"""The share of the scenario that is over when all clients abandon their sessions."""
STEADY: Final = (Phase(name="steady", share=1.0, first=1.0, last=1.0),)
"""All clients, all the time."""
