"""The rows of the fault matrix: for each fault, how it is brought about and what the store may forget."""

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from tests.fleet.servers import program

from .journal import Kind
from .orders import Orders
from .stage import Place, Stage, staged
from .verdict import Verdict

Fault = Callable[[Stage], None]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One fault. `store` makes the store from the path of a server's program."""

    name: str
    fault: Fault
    store: Callable[[str], AbstractContextManager[Place]]
    orders: dict[str, Any] = field(default_factory=dict)
    processes: int = 3
    forgets: bool = False
    """Whether the store may have lost writes. Its books then say less than the journals."""
    may_exceed: bool = False
    """Whether there may be more sessions than the cap."""
    may_serve: bool = False
    """Whether a session may be served after a claim."""

    def run(self, server: str, **orders: Any) -> Verdict:
        """Run the row on a server's program, and return what it has shown."""
        with (
            self.store(server) as place,
            staged(place, Orders(url=place.url).but(**self.orders).but(**orders)) as stage,
        ):
            for _ in range(self.processes):
                stage.start()
            stage.more(Kind.MADE, 20)
            stage.more(Kind.SERVED, 20)
            self.fault(stage)
            stage.more(Kind.MADE, 5)
            return stage.finish(forgets=self.forgets)


# Stores


@contextlib.contextmanager
def one(server: str, *options: str) -> Iterator[Place]:
    with program(server, *options) as node:
        yield Place(nodes=[node], url=node.url)


# Faults


def killed(stage: Stage) -> None:
    victim = stage.all[0]
    victim.kill()
    stage.until(lambda: stage.are_cleaned(victim))


def paused_shortly(stage: Stage) -> None:
    victim = stage.all[0]
    victim.signal(signal.SIGSTOP)
    time.sleep(stage.orders.lease / 3)
    victim.signal(signal.SIGCONT)


def paused_for_long(stage: Stage) -> None:
    victim = stage.all[0]
    victim.signal(signal.SIGSTOP)
    stage.until(lambda: stage.are_cleaned(victim))
    victim.signal(signal.SIGCONT)


ROWS = [
    Row(name="replica killed", fault=killed, store=one),
    Row(name="replica paused for less than its lease", fault=paused_shortly, store=one),
    Row(name="replica paused for longer than its lease", fault=paused_for_long, store=one),
]
