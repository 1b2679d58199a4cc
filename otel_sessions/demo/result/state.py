"""A run as it stands: what was asked for, how far it is, how the proxies have fared. All that is shown comes of it."""

from dataclasses import dataclass

from otel_sessions.demo.load.phases import Moment

from .course import Course


@dataclass(frozen=True, kw_only=True, slots=True)
class State:
    """The courses so far, None for a twin that there is not; seconds that the load lasts and since it began; where its
    story is, None when it is over; and what it is made of."""

    ours: Course
    twin: Course | None
    duration: float
    elapsed: float
    moment: Moment | None
    clients: int
    rate: float
    seed: int

    @property
    def courses(self) -> list[Course]:
        return [self.ours] if self.twin is None else [self.ours, self.twin]
