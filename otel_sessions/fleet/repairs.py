"""What a process does to put things right, as spans: it rejoins, cleans up after the dead, tells a shard again.

What always holds: each span ends exactly once, at the latest with the run. Nothing here changes what the fleet does.
"""

from collections import Counter
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Final

from otel_sessions._core.words import OrphanOutcome

from .lanes import Tally
from .replica import Replica, Resynced
from .store_tracing import Orphans, Rejoin, Resync, StoreTracing


@dataclass(kw_only=True)
class _Cleanup:
    """The orphans of one dead process that this process has claimed."""

    span: Orphans
    outcomes: Counter[OrphanOutcome] = field(default_factory=Counter)
    open: int = 0
    """How many orphans have no outcome yet."""


class Repairs:
    """The spans of one run. `look` is called after each answer of the store, and ends what is done."""

    def __init__(self, tracing: StoreTracing, replica: Replica, tally: Tally) -> None:
        self._tracing: Final = tracing
        self._replica: Final = replica
        self._tally: Final = tally
        self._rejoin: Rejoin | None = None
        self._before = tally
        self._cleanups: Final[dict[int, _Cleanup]] = {}
        self._resyncs: Final[dict[int, Resync]] = {}

    def begin_rejoin(self) -> None:
        """Begin, unless the process has not yet rejoined since it lost an earlier membership."""
        if self._rejoin is None:
            self._before = replace(self._tally)
            self._rejoin = self._tracing.rejoin()

    def begin_orphan(self, owner: int) -> AbstractContextManager[None]:
        """Begin with an orphan of a dead process. Its hook runs within the block that this returns."""
        cleanup = self._cleanups.get(owner)
        if cleanup is None:
            cleanup = self._cleanups[owner] = _Cleanup(span=self._tracing.orphans(owner))
        cleanup.open += 1
        return cleanup.span.current()

    def end_orphan(self, owner: int, outcome: OrphanOutcome) -> None:
        """Note what became of an orphan."""
        if (cleanup := self._cleanups.get(owner)) is not None:
            cleanup.outcomes[outcome] += 1
            cleanup.open -= 1

    def resynced(self, news: Resynced) -> None:
        """Begin when a shard differs, and end when it is told again what it lost."""
        if news.differs:
            if news.shard not in self._resyncs:
                self._resyncs[news.shard] = self._tracing.resync(news.shard)
        elif (span := self._resyncs.pop(news.shard, None)) is not None:
            span.end(put=news.put, ended=news.ended)

    def look(self) -> None:
        """End what is done."""
        if self._rejoin is not None and self._replica.has_rejoined():
            self._end_rejoin(self._rejoin)
        for owner, cleanup in list(self._cleanups.items()):
            if not cleanup.open and not self._replica.is_cleaning(owner):
                self._end_cleanup(owner, cleanup)

    def end(self) -> None:
        """End all, since the run is over."""
        if self._rejoin is not None:
            self._end_rejoin(self._rejoin)
        for owner, cleanup in list(self._cleanups.items()):
            self._end_cleanup(owner, cleanup)
        for span in self._resyncs.values():
            span.end(put=0, ended=0)
        self._resyncs.clear()

    def _end_rejoin(self, span: Rejoin) -> None:
        self._rejoin, before, now = None, self._before, self._tally
        span.end(
            kept=now.kept - before.kept, dropped=now.dropped - before.dropped, put=now.forgotten - before.forgotten
        )

    def _end_cleanup(self, owner: int, cleanup: _Cleanup) -> None:
        del self._cleanups[owner]
        cleanup.span.end(cleanup.outcomes)
