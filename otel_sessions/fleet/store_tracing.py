"""The spans of a fleet with a store, besides those of forwarded requests: what it does to put things right.

Each span is the root of a trace of its own. It is open from its beginning until `end`. An error of a provider is logged
and counted, and never reaches the fleet.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN, Span, Status, StatusCode

from otel_sessions._core.words import OrphanOutcome, type_of
from otel_sessions._telemetry.fleet_signals import (
    COUNTS_OF_ORPHANS,
    DROPPED,
    ENDED,
    EPOCH,
    KEPT,
    ORPHANS_SPAN,
    PUT,
    REJOIN_SPAN,
    RESYNC_SPAN,
    SHARD,
)
from otel_sessions._telemetry.signals import ERROR_TYPE, MANAGER_NAME
from otel_sessions._telemetry.telemetry import under

from .tracing import Tracing


class StoreTracing(Tracing):
    """The spans of one run of a manager in a fleet with a store."""

    def rejoin(self) -> "Rejoin":
        """Begin when this process has lost its membership, and joins anew."""
        return Rejoin(self, REJOIN_SPAN, {})

    def orphans(self, epoch: int) -> "Orphans":
        """Begin with the first claim of sessions of a dead process, which the store knows by this number."""
        return Orphans(self, ORPHANS_SPAN, {EPOCH: epoch})

    def resync(self, shard: int) -> "Resync":
        """Begin when an audit has shown that a shard has other records than this process."""
        return Resync(self, RESYNC_SPAN, {SHARD: shard})

    def start(self, name: str, about: Mapping[str, str | int]) -> Span:
        """Start a root span. Without a provider, and if the provider fails, it is a span that records nothing."""
        span: Span = INVALID_SPAN
        with self._guarded():
            attributes = {MANAGER_NAME: self._reports.manager, **about}
            span = self._tracer.start_span(name, context=Context(), attributes=attributes)
        return span  # noqa: RET504  # an error ends the block before the assignment

    def finish(self, span: Span, counts: Mapping[str, int], error: BaseException | None) -> None:
        """End a span with its counts. `error` is what has broken off the work, or None."""
        with self._guarded():
            span.set_attributes(counts)
            if error is not None:
                span.set_attribute(ERROR_TYPE, type_of(error))
                span.set_status(Status(StatusCode.ERROR))
        with self._guarded():
            span.end()


class _Work:
    """A span that is open. It is ended exactly once."""

    def __init__(self, tracing: StoreTracing, name: str, about: Mapping[str, str | int]) -> None:
        self._tracing: Final = tracing
        self._span: Final = tracing.start(name, about)

    def current(self) -> AbstractContextManager[None]:
        """Make the span current for a block: what the block logs and calls belongs to its trace."""
        return under(trace.set_span_in_context(self._span, Context()))

    def _end(self, counts: Mapping[str, int], error: BaseException | None) -> None:
        self._tracing.finish(self._span, counts, error)


class Rejoin(_Work):
    """A process that becomes a member again, until each of its sessions is kept, dropped or put."""

    def end(self, *, kept: int, dropped: int, put: int, error: BaseException | None = None) -> None:
        """End with the numbers of sessions that go on, that others have claimed, and that the store was told again."""
        self._end({KEPT: kept, DROPPED: dropped, PUT: put}, error)


class Orphans(_Work):
    """The sessions of one dead process that this process has claimed. `on_orphan` runs under the span."""

    def end(self, outcomes: Mapping[OrphanOutcome, int], error: BaseException | None = None) -> None:
        """End with the number of sessions of each outcome."""
        self._end({name: outcomes.get(outcome, 0) for outcome, name in COUNTS_OF_ORPHANS.items()}, error)


class Resync(_Work):
    """A shard whose records are made as they should be."""

    def end(self, *, put: int, ended: int, error: BaseException | None = None) -> None:
        """End with the numbers of sessions, and of ends of sessions, that the store was told again."""
        self._end({PUT: put, ENDED: ended}, error)
