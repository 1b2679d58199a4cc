"""Where a fault happens: a store, the processes of a fleet, and ways to wait for what their journals say."""

import contextlib
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from otel_sessions.fleet.store import Keys
from tests.fleet.servers import Program
from tests.fleet.valkey import StoreError
from tests.waiting import until

from .journal import Kind, Reading
from .network import Network
from .orders import Orders
from .verdict import FENCED, Verdict, judge


@dataclass(kw_only=True)
class Place:
    """A store, however many servers it has."""

    nodes: Sequence[Program]
    url: str
    cluster: bool = False
    sentinel: str | None = None
    network: Network | None = None
    """Where the first process of the fleet runs, if it has a network of its own."""

    def ask(self, *words: str | int) -> object:
        """Ask the server that has the key. Wait until there is one: after a fault, a Cluster takes a moment."""
        return until(lambda: self._answer(*words), lambda answer: answer is not None)

    def _answer(self, *words: str | int) -> object:
        for node in self.nodes:
            if node.process is not None and node.process.poll() is None:
                with contextlib.suppress(StoreError, OSError):
                    if not node.send("INFO", "replication").count(b"role:slave"):
                        return node.send(*words)
        return None

    def hash(self, key: str) -> dict[str, str]:
        flat = self.ask("HGETALL", key)
        texts = [value.decode("latin-1") for value in flat] if isinstance(flat, list) else []
        return dict(zip(texts[::2], texts[1::2], strict=True))

    def members(self, key: str) -> set[str]:
        found = self.ask("ZRANGE", key, 0, -1)
        return {value.decode() for value in found} if isinstance(found, list) else set()


class Running:
    """A process of the fleet, and its journal."""

    def __init__(self, orders: Orders, folder: Path, prefix: Sequence[str] = ()) -> None:
        self.orders = orders.but(journal=str(folder / f"{orders.name}.journal"))
        self.journal = Reading(Path(self.orders.journal))
        self.log = folder / f"{orders.name}.log"
        command = [*prefix, sys.executable, "-m", "tests.fleet.soak.embedder", self.orders.dumps()]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log)

    @property
    def name(self) -> str:
        return self.orders.name

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def has(self, kind: Kind) -> int:
        self.journal.refresh()
        return self.journal.counts[kind]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdin is not None
        self.process.stdin.close()

    def is_over(self) -> bool:
        return self.process.poll() is not None


class Stage:
    """The processes of one fleet on one store."""

    def __init__(self, place: Place, orders: Orders, folder: Path) -> None:
        self.place = place
        self.orders = orders.but(url=place.url, cluster=place.cluster, sentinel=place.sentinel)
        self.all: list[Running] = []
        self._folder = folder
        self._keys = Keys(orders.fleet, orders.shards)

    def start_all(self, number: int) -> None:
        """Start the first processes. The very first one may have a network of its own."""
        network = self.place.network
        if network is not None:
            self.start(prefix=network.inside(), url=self.place.url.replace("127.0.0.1", network.here))
        while len(self.all) < number:
            self.start()

    def start(self, *, prefix: Sequence[str] = (), **changes: object) -> Running:
        """Start a process. Every second one runs on trio."""
        number = len(self.all)
        orders = self.orders.but(name=f"r{number}", backend=("asyncio", "trio")[number % 2]).but(**changes)
        self.all.append(Running(orders, self._folder, prefix))
        return self.all[-1]

    def living(self) -> list[Running]:
        return [one for one in self.all if not one.is_over()]

    def until(self, happened: Callable[[], bool]) -> None:
        """Wait until something has happened. Fail if a process has ended by itself."""

        def look() -> bool:
            assert not [one.name for one in self.all if (one.process.poll() or 0) > 0], self.logs()
            return happened()

        until(look, bool)

    def more(self, kind: Kind, number: int = 5, *ones: Running) -> None:
        """Wait until something has happened so many times more in each process."""
        wanted = {one: one.has(kind) + number for one in ones or self.living()}
        self.until(lambda: all(one.has(kind) >= count for one, count in wanted.items()))

    def settled(self) -> set[str]:
        """Return the sessions that have ended, or that a hook for orphans was called for."""
        return {
            entry.session
            for one in self._refreshed()
            for entry in one.journal.entries
            if entry.kind is Kind.ORPHAN or (entry.kind is Kind.ENDED and entry.detail != FENCED)
        }

    def are_cleaned(self, *dead: Running) -> bool:
        """Return whether each session of these processes has ended."""
        settled = self.settled()
        return all(one.journal.sessions(Kind.MADE) <= settled for one in dead)

    def books(self) -> Counter[str]:
        """Return what the store has counted, with `active` for the records."""
        total = Counter[str]()
        for shard in range(self._keys.shards):
            records, _, _, ended = self._keys.shard(shard)
            total.update({word: int(count) for word, count in self.place.hash(ended).items()})
            found = self.place.ask("HLEN", records)
            total["active"] += found if isinstance(found, int) else 0
        return total

    def is_tidy(self) -> bool:
        """Return whether no dead process is left to clean up after."""
        _, living, dead, _ = self._keys.fleet
        owners = {owner for shard in range(self._keys.shards) for owner in self.place.hash(self._keys.shard(shard)[1])}
        return not self.place.members(dead) and owners <= self.place.members(living)

    def finish(self, *, forgets: bool) -> Verdict:
        """Let all processes leave, one as the last, and return what the run has shown."""
        self.until(self.is_tidy)
        *others, last = self.living()
        self.leave(*others)
        self.until(self.is_tidy)
        self.leave(last)
        while self.books()["active"]:  # the last process found the store silent, and left it to others
            sweeper = self.start(wanted=0)
            self.until(lambda: not self.books()["active"])
            self.leave(sweeper)
        journals = [one.journal.entries for one in self._refreshed()]
        return judge(journals, self.books(), cap=self.orders.cap, forgets=forgets)

    def leave(self, *ones: Running) -> None:
        """Let processes leave as in a deploy, and wait until they have."""
        for one in ones:
            one.signal(signal.SIGTERM)
        self.until(lambda: all(one.is_over() for one in ones))

    def logs(self) -> str:
        return "\n".join(f"{one.name}: {one.log.read_text()[-3000:]}" for one in self.all)

    def _refreshed(self) -> Iterator[Running]:
        for one in self.all:
            one.journal.refresh()
            yield one


@contextlib.contextmanager
def staged(place: Place, orders: Orders) -> Iterator[Stage]:
    """Set a stage. Kill what is left at the end, also after a failure."""
    with tempfile.TemporaryDirectory(prefix="soak") as folder:
        stage = Stage(place, orders, Path(folder))
        try:
            yield stage
        finally:
            for one in stage.all:
                one.kill()
