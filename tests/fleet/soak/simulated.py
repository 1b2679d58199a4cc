"""Many records in the store, and a hundred replicas without processes: what the scripts cost the store.

The replicas are those of the package. A client that waits for each answer moves their calls, so what the store spends
is the store's own.
"""

import random
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from otel_sessions.fleet.membership import Terms
from otel_sessions.fleet.replica import Replica
from otel_sessions.fleet.store import Keys
from tests.fleet.servers import program
from tests.fleet.valkey import Server

REPLICAS: Final = 100
LIFETIME: Final = 600.0
"""Seconds that a session lives on average."""
BLOB: Final = b"x" * 120
_LEASE: Final = 15.0
_STEP: Final = 0.05
"""Seconds between two rounds over all replicas."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What the store has spent. Times are in seconds."""

    records: int
    bytes_each: float
    scripts_each_second: float
    share_of_a_core: float
    microseconds_each: float
    rejoins: int
    """How often a replica lost its membership, since this machine was too slow for the crowd."""


class Crowd:
    """A hundred replicas of one fleet, and the sessions of each."""

    def __init__(self, server: Server, records: int) -> None:
        self._server = server
        self._dice = random.Random(7)  # noqa: S311  # the load's dice are no secret
        keys = Keys("crowd", 16)
        self._replicas = [
            Replica(
                Terms(process=f"p{index}", address="http://127.0.0.1:1", cap=4 * records, lease=_LEASE, spare=records),
                keys,
                self._dice.randrange,
                span=6.0,
            )
            for index in range(REPLICAS)
        ]
        self._refs: dict[Replica, list[str]] = {replica: [] for replica in self._replicas}

    def pump(self) -> None:
        """Send what all replicas have to say, until each waits for time to pass."""
        for replica in self._replicas:
            while calls := replica.calls(time.monotonic()):
                for call in calls:
                    answer = self._server.run(call.script, call.keys, call.args, 0)
                    replica.answer(call, answer, time.monotonic())

    def rejoins(self) -> int:
        return sum(replica.membership.joins - 1 for replica in self._replicas)

    def fill(self, records: int) -> None:
        for number in range(records):
            self.make(self._replicas[number % REPLICAS])
            if number % 1_000 == 0:
                self.pump()
        self.pump()

    def make(self, replica: Replica) -> None:
        ref = f"{self._dice.getrandbits(128):032x}"
        self._refs[replica].append(ref)
        replica.register(ref, BLOB)

    def replace_one(self) -> None:
        """End a session anywhere, and make another."""
        replica = self._dice.choice(self._replicas)
        refs = self._refs[replica]
        place = self._dice.randrange(len(refs))
        refs[place], refs[-1] = refs[-1], refs[place]
        replica.end(refs.pop(), "closed")
        self.make(replica)


def measure(name: str, records: int, seconds: float) -> Cost:
    """Fill a store, then replace its sessions as fast as they end, for a time in seconds."""
    with program(name) as node:
        server = Server(node.path)
        try:
            crowd = Crowd(server, records)
            crowd.pump()
            before = _number(server, "memory", "used_memory")
            crowd.fill(records)
            each = (_number(server, "memory", "used_memory") - before) / records
            server.send("CONFIG", "RESETSTAT")
            begun = time.monotonic()
            for due in _due(records / LIFETIME, seconds):
                for _ in range(due):
                    crowd.replace_one()
                crowd.pump()
            took = time.monotonic() - begun
            calls, spent = _scripts(server)
        finally:
            server.close()
    return Cost(
        records=records,
        bytes_each=each,
        scripts_each_second=calls / took,
        share_of_a_core=spent / 1e6 / took,
        microseconds_each=spent / calls,
        rejoins=crowd.rejoins(),
    )


def _due(rate: float, seconds: float) -> Iterator[int]:
    """Yield, step by step, how many sessions have ended meanwhile."""
    begun, done = time.monotonic(), 0
    while (passed := time.monotonic() - begun) < seconds:
        due = int(passed * rate) - done
        done += due
        yield due
        time.sleep(_STEP)


def _info(server: Server, section: str) -> Iterable[str]:
    text: Any = server.send("INFO", section)
    return text.decode().splitlines()  # type: ignore[no-any-return]


def _number(server: Server, section: str, field: str) -> int:
    return next(int(line.partition(":")[2]) for line in _info(server, section) if line.startswith(f"{field}:"))


def _scripts(server: Server) -> tuple[int, int]:
    """Return how many scripts have run, and their microseconds."""
    line = next(line for line in _info(server, "commandstats") if line.startswith("cmdstat_evalsha:"))
    fields = dict(part.split("=") for part in line.partition(":")[2].split(","))
    return int(fields["calls"]), int(fields["usec"])
