"""The rows of the fault matrix: for each fault, the store, the load, and what may happen."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Final

from . import faults
from .journal import Kind
from .orders import Orders
from .stage import Place, Stage, staged
from .stores import apart, clustered, durable, single, skewed, watched
from .verdict import Verdict


@dataclass(frozen=True, kw_only=True)
class Row:
    """One fault. `store` makes the store from the path of a server's program."""

    name: str
    fault: Callable[[Stage], None]
    store: Callable[[str], AbstractContextManager[Place]] = single
    orders: dict[str, Any] = field(default_factory=dict)
    forgets: bool = False
    """Whether the store may lack sessions: it lost writes, or sessions lived only while it was away."""
    may_exceed: bool = False
    """Whether there may be more sessions than the cap: by what a store that went back had granted since, for one."""
    may_serve: bool = False
    """Whether a session may be served after a claim."""

    def holds(self, verdict: Verdict) -> bool:
        """Return whether a verdict is as it must be."""
        is_right = (verdict.lost, verdict.twice, verdict.wrong) == ((), (), ())
        return is_right and (self.may_serve or verdict.late == ()) and (self.may_exceed or verdict.over == 0)

    def run(self, server: str, *, processes: int = 3, before: int = 10, **orders: Any) -> Verdict:
        """Run the row on a server's program, and return what it has shown.

        Each process makes at least so many sessions `before` the fault.
        """
        with self.store(server) as place, staged(place, Orders(url=place.url, **{**self.orders, **orders})) as stage:
            stage.start_all(processes)
            stage.more(Kind.MADE, before)
            stage.more(Kind.SERVED, 10)
            self.fault(stage)
            stage.more(Kind.MADE, 5)
            return stage.finish(forgets=self.forgets)


_OPEN: Final = {"policy": "open"}

ROWS: Final = (
    Row(name="replica killed", fault=faults.killed),
    Row(name="replica paused for less than its lease", fault=faults.paused_for_less_than_its_lease),
    Row(name="replica paused for longer than its lease", fault=faults.paused_for_longer),
    Row(name="survivor killed while it cleans", fault=faults.survivor_killed_while_cleaning, orders={"hook": 0.5}),
    Row(name="store paused", fault=faults.paused),
    Row(name="store paused, open", fault=faults.paused, orders=_OPEN, forgets=True),
    Row(name="store stopped and started", fault=faults.stopped, store=durable),
    Row(name="store stopped and started, open", fault=faults.stopped, store=durable, orders=_OPEN, forgets=True),
    Row(name="store started empty", fault=faults.stopped, forgets=True),
    Row(name="store emptied while it runs", fault=faults.flushed, forgets=True),
    Row(name="store rolled back", fault=faults.rolled_back, forgets=True, may_exceed=True),
    Row(name="primary failed over by Sentinels", fault=faults.failed_over, store=watched, forgets=True),
    Row(name="master of a Cluster failed over", fault=faults.failed_over, store=clustered, forgets=True),
    Row(name="replica cut off, packets late", fault=faults.cut_off, store=apart),
    Row(
        name="replica cut off, packets late, open",
        fault=faults.cut_off_while_open,
        store=apart,
        orders=_OPEN,
        forgets=True,
        may_exceed=True,
        may_serve=True,
    ),
    Row(name="clocks of two masters wrong", fault=faults.nothing, store=skewed),
    Row(name="slots moved under load", fault=faults.moved, store=clustered),
    Row(name="rolling deploy", fault=faults.deployed),
)
