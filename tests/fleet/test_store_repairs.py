"""What a process does to put things right is a span: rejoining, cleaning up after the dead, telling a shard again."""

import anyio
import pytest
from opentelemetry.sdk.trace import ReadableSpan

from otel_sessions._core.books import Books
from otel_sessions._core.words import OrphanOutcome
from otel_sessions._engine.owners import Reports
from otel_sessions._telemetry import fleet_signals as table
from otel_sessions.fleet import Orphan
from otel_sessions.fleet.lanes import Tally
from otel_sessions.fleet.repairs import Repairs
from otel_sessions.fleet.replica import Resynced
from otel_sessions.fleet.scripts import LEAVE, MEMBERS
from otel_sessions.fleet.store_tracing import StoreTracing
from tests.fleet.processes import KEYS, LEASE, Orphans, create, process, store_time
from tests.fleet.valkey import Server
from tests.signals import Signals, context_of
from tests.virtual import settle

pytestmark = pytest.mark.anyio


def counts(span: ReadableSpan) -> dict[str, object]:
    """Return what a span says besides the manager, an epoch and a shard."""
    words = {name.rpartition(".")[2]: value for name, value in (span.attributes or {}).items()}
    return {word: value for word, value in words.items() if word not in ("name", "epoch", "shard")}


async def test_a_rejoin_is_a_span_that_counts_what_became_of_the_sessions(server: Server, signals: Signals) -> None:
    async with process(server, spans=signals.tracer_provider) as one:
        await create(one, 3)
        members = server.run(MEMBERS, KEYS.fleet, (), store_time())
        server.run(LEAVE, KEYS.fleet, (int(members[4]),), store_time())
        await anyio.sleep(LEASE)

        (span,) = signals.spans_named(table.REJOIN_SPAN)
        assert counts(span) == {"kept": 3, "dropped": 0, "put": 0}


async def test_a_rejoin_after_a_claim_counts_what_was_dropped(server: Server, signals: Signals) -> None:
    async with process(server, spans=signals.tracer_provider) as one, process(server):
        await create(one, 2)
        one.wire.is_cut = True
        await anyio.sleep(3 * LEASE)
        assert not signals.spans_named(table.REJOIN_SPAN)
        one.wire.is_cut = False
        await anyio.sleep(2 * LEASE)

        (span,) = signals.spans_named(table.REJOIN_SPAN)
        assert counts(span) == {"kept": 0, "dropped": 2, "put": 0}


async def test_a_rejoin_to_a_store_that_forgot_all_counts_what_is_put_again(server: Server, signals: Signals) -> None:
    async with process(server, spans=signals.tracer_provider) as one:
        await create(one, 3)
        server.send("FLUSHALL")
        await anyio.sleep(2 * LEASE)

        (span,) = signals.spans_named(table.REJOIN_SPAN)
        assert counts(span) == {"kept": 0, "dropped": 0, "put": 3}


async def test_the_orphans_of_a_dead_process_are_one_span_and_their_hooks_belong_to_it(
    server: Server, signals: Signals
) -> None:
    async def traced(orphan: Orphan) -> None:
        with signals.tracer.start_as_current_span("the hook"):
            if orphan.blob == b"2":
                raise ConnectionError

    blobs = iter([b"1", b"2", b"3"])
    async with process(server, on_orphan=Orphans(traced), spans=signals.tracer_provider):
        async with process(server, describe=lambda _: next(blobs)) as dead:
            await create(dead, 3)
            dead.wire.is_cut = True
        await anyio.sleep(3 * LEASE)

        (span,) = signals.spans_named(table.ORPHANS_SPAN)
        assert counts(span) == {"cleaned": 2, "failed": 1, "taken": 0}
        hooks = signals.spans_named("the hook")
        assert [hook.parent for hook in hooks] == [context_of(span)] * 3


async def test_a_shard_that_went_back_is_a_span_that_counts_what_it_is_told_again(
    server: Server, signals: Signals
) -> None:
    async with process(server, spans=signals.tracer_provider) as one:
        first, _ = await create(one, 2)
        dump = server.save()
        await one.manager.close_session(first.id)
        await create(one, 1)
        await settle()
        assert not signals.spans_named(table.RESYNC_SPAN)
        server.restore(dump)
        one.wire.lost()
        await anyio.sleep(1)

        found = [counts(span) for span in signals.spans_named(table.RESYNC_SPAN)]
        assert sum(int(str(each["put"])) for each in found) == 1
        assert sum(int(str(each["ended"])) for each in found) == 1


async def test_what_is_not_done_at_the_end_of_the_run_is_a_span_all_the_same(server: Server, signals: Signals) -> None:
    async with process(server, on_orphan=Orphans(lambda _: anyio.sleep(9)), spans=signals.tracer_provider) as one:
        await create(one, 2)
        async with process(server) as dead:
            await create(dead, 2)
            dead.wire.is_cut = True
        await anyio.sleep(2 * LEASE)
        server.send("FLUSHALL")
        one.wire.broken = "reclaim"
        await anyio.sleep(LEASE / 2)
        assert not signals.spans_named(table.REJOIN_SPAN)

    for name in (table.REJOIN_SPAN, table.ORPHANS_SPAN):
        assert len(signals.spans_named(name)) == 1


async def test_a_process_that_has_nothing_to_put_right_makes_no_span(server: Server, signals: Signals) -> None:
    async with process(server, spans=signals.tracer_provider) as one:
        await create(one, 3)
        await anyio.sleep(3 * LEASE)

    named = (table.REJOIN_SPAN, table.ORPHANS_SPAN, table.RESYNC_SPAN)
    assert not [span for name in named for span in signals.spans_named(name)]


class Process:
    """What a process knows of itself, as a test says it."""

    def __init__(self) -> None:
        self.is_back = False
        self.cleans = True

    def has_rejoined(self) -> bool:
        return self.is_back

    def is_cleaning(self, _epoch: int) -> bool:
        return self.cleans


@pytest.fixture
def known() -> Process:
    return Process()


@pytest.fixture
def repairs(signals: Signals, known: Process) -> Repairs:
    reports = Reports(manager="m", books=Books(None), tracer_provider=signals.tracer_provider)
    return Repairs(StoreTracing(reports), known, Tally())  # type: ignore[arg-type]


def test_a_membership_that_is_lost_again_before_all_is_known_is_the_same_rejoin(
    signals: Signals, known: Process, repairs: Repairs
) -> None:
    repairs.begin_rejoin()
    repairs.begin_rejoin()
    repairs.look()
    known.is_back = True
    repairs.look()
    repairs.look()

    assert len(signals.spans_named(table.REJOIN_SPAN)) == 1


def test_a_rejoin_that_is_not_over_ends_with_the_run(signals: Signals, repairs: Repairs) -> None:
    repairs.begin_rejoin()
    repairs.end()
    repairs.end()

    assert len(signals.spans_named(table.REJOIN_SPAN)) == 1


def test_an_outcome_that_comes_after_the_run_is_in_no_span(signals: Signals, repairs: Repairs) -> None:
    repairs.begin_orphan(7)
    repairs.end()
    repairs.end_orphan(7, OrphanOutcome.CLEANED)

    (span,) = signals.spans_named(table.ORPHANS_SPAN)
    assert counts(span) == {"cleaned": 0, "failed": 0, "taken": 0}


def test_the_span_of_a_dead_process_waits_for_all_of_its_orphans(
    signals: Signals, known: Process, repairs: Repairs
) -> None:
    known.cleans = False
    repairs.begin_orphan(7)
    repairs.begin_orphan(7)
    repairs.end_orphan(7, OrphanOutcome.CLEANED)
    repairs.look()
    assert not signals.spans_named(table.ORPHANS_SPAN)
    repairs.end_orphan(7, OrphanOutcome.TAKEN)
    repairs.look()

    (span,) = signals.spans_named(table.ORPHANS_SPAN)
    assert counts(span) == {"cleaned": 1, "failed": 0, "taken": 1}


def test_a_shard_that_is_read_in_pages_is_one_span(signals: Signals, repairs: Repairs) -> None:
    repairs.resynced(Resynced(shard=1, differs=True))
    repairs.resynced(Resynced(shard=1, differs=True))
    repairs.resynced(Resynced(shard=1, differs=False, put=3, ended=1))
    repairs.resynced(Resynced(shard=1, differs=False))
    repairs.resynced(Resynced(shard=2, differs=True))
    repairs.end()

    first, second = signals.spans_named(table.RESYNC_SPAN)
    assert counts(first) == {"put": 3, "ended": 1}
    assert counts(second) == {"put": 0, "ended": 0}
