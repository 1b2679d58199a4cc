import dataclasses
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_sessions import (
    EndReason,
    Outcome,
    RejectionReason,
    SessionConfig,
    SessionManager,
    SessionNotFound,
    SessionStats,
    TooManySessions,
    Trigger,
)
from otel_sessions._core.books import Books, RecentEnds, Totals
from otel_sessions._core.words import CleanupStage, Forwarded, Occupancy
from tests.virtual import Clock

pytestmark = pytest.mark.anyio

REMEMBERED = 4096


@pytest.fixture
async def manager(clock: Clock) -> AsyncIterator[SessionManager[None]]:
    async with SessionManager(SessionConfig(max_sessions=None), clock=clock) as manager:
        yield manager


def new_books() -> Books:
    return Books(limit=10)


def is_balanced(totals: Totals) -> bool:
    gone, there = sum(totals.cleaned.values()), totals.active.values()
    return totals.created == gone + sum(there) and min(*there, totals.reserved) >= 0


def reason_of(manager: SessionManager[None], session_id: str) -> EndReason | None:
    with pytest.raises(SessionNotFound) as caught:
        manager.pin(session_id).__enter__()
    return caught.value.reason


class Life:
    """What happens to one session, step by step, in books."""

    def __init__(self, leased: bool, at_once: bool, length: int, reason: EndReason) -> None:
        self.leased = leased
        self.at_once = at_once
        self.length = length
        self.reason = reason

    def steps(self, books: Books) -> Iterator[None]:
        """Take a step for each value; stop where this life stops."""
        steps: list[Callable[[], None]] = [
            books.add_reserved,
            books.add_unreserved,
            books.add_created,
            *([books.add_leased, books.add_released] if self.leased else []),
            *self._end(books),
        ]
        for step in steps[: self.length]:
            step()
            yield

    def _end(self, books: Books) -> list[Callable[[], None]]:
        if self.at_once:
            return [lambda: books.add_removed(self.reason, 1)]
        return [books.add_closing, lambda: books.add_cleaned(self.reason)]

    def __repr__(self) -> str:
        return f"Life(leased={self.leased}, at_once={self.at_once}, length={self.length}, reason={self.reason})"


lives = st.lists(
    st.builds(Life, st.booleans(), st.booleans(), st.integers(min_value=0, max_value=7), st.sampled_from(EndReason)),
    max_size=6,
)


def side_by_side(lives: list[Life], books: Books) -> Iterator[None]:
    """Take a step of every life in turn, until all have stopped."""
    going = [life.steps(books) for life in lives]
    while going:
        going = [steps for steps in going if next(steps, StopIteration) is None]
        yield


class Watched(dict[str, int]):
    """Counters that are looked at after every change, as another thread may do."""

    def __init__(self, books: Books) -> None:
        super().__init__(books._counts)
        self.seen: list[Totals] = []
        self._books = books

    def __setitem__(self, key: str, value: int) -> None:
        super().__setitem__(key, value)
        self.seen.append(self._books.totals())


class Busy(dict[str, int]):
    """Counters that the event loop changes between any two reads: a session more is made and marked closing."""

    def __getitem__(self, key: str) -> int:
        for changed in ("created", "closing"):
            super().__setitem__(changed, super().__getitem__(changed) + 1)
        return super().__getitem__(key)


class TestCounters:
    @given(lives=lives)
    def test_the_books_balance_after_every_step_of_every_life(self, lives: list[Life]) -> None:
        books = new_books()

        for _ in side_by_side(lives, books):
            assert is_balanced(books.totals())

    @given(lives=lives)
    def test_the_owners_levels_are_those_of_the_totals(self, lives: list[Life]) -> None:
        books = new_books()

        for _ in side_by_side(lives, books):
            totals = books.totals()
            assert (books.active, books.leased, books.closing, books.reserved) == (
                sum(totals.active.values()),
                totals.active[Occupancy.LEASED],
                totals.active[Occupancy.CLOSING],
                totals.reserved,
            )

    @given(lives=lives)
    def test_settled_totals_balance_with_nothing_left(self, lives: list[Life]) -> None:
        books = new_books()

        for _ in side_by_side(lives, books):
            settled = books.totals().settled()
            assert is_balanced(settled)
            assert (sum(settled.active.values()), settled.reserved) == (0, 0)

    def test_new_totals_hold_every_word_at_zero(self) -> None:
        totals = new_books().totals()

        assert totals == Totals(
            created=0,
            cleaned=dict.fromkeys(EndReason, 0),
            active=dict.fromkeys(Occupancy, 0),
            reserved=0,
            waiting=0,
            rejected=dict.fromkeys(RejectionReason, 0),
            runs={(trigger, outcome): 0 for trigger in Trigger for outcome in Outcome},
            errors={(stage, "_OTHER"): 0 for stage in CleanupStage},
            forwarded=dict.fromkeys(Forwarded, 0),
        )

    def test_totals_do_not_change_after_they_were_taken(self) -> None:
        books = new_books()
        totals = books.totals()
        books.add_created()

        assert totals.created == 0

    def test_the_sum_of_two_totals_is_the_sum_of_each_number(self) -> None:
        books = new_books()
        books.add_created()
        books.add_leased()
        books.add_reserved()
        books.add_rejected(RejectionReason.SHUTDOWN)
        books.add_run(Trigger.MANUAL, Outcome.PARTIAL)
        books.add_error(CleanupStage.HOOK, "OSError")
        books.add_forwarded(Forwarded.GONE)
        others = new_books()
        others.add_forwarded(Forwarded.GONE)
        others.add_created()
        others.add_closing()
        others.add_cleaned(EndReason.FAILED)
        others.add_run(Trigger.MANUAL, Outcome.PARTIAL)

        total = books.totals() + others.totals()

        zero = new_books().totals()
        assert total == Totals(
            created=2,
            cleaned={**zero.cleaned, EndReason.FAILED: 1},
            active={**zero.active, Occupancy.LEASED: 1},
            reserved=1,
            waiting=0,
            rejected={**zero.rejected, RejectionReason.SHUTDOWN: 1},
            runs={**zero.runs, (Trigger.MANUAL, Outcome.PARTIAL): 2},
            errors={**zero.errors, (CleanupStage.HOOK, "OSError"): 1},
            forwarded={**zero.forwarded, Forwarded.GONE: 2},
        )

    def test_settled_totals_count_what_was_left_as_ended_by_shutdown(self) -> None:
        books = new_books()
        for _ in range(3):
            books.add_created()
            books.add_reserved()
        books.add_leased()
        books.add_closing()

        settled = books.totals().settled()

        assert (settled.cleaned[EndReason.SHUTDOWN], settled.reserved) == (3, 0)

    def test_settled_totals_keep_what_was_counted(self) -> None:
        books = new_books()
        books.add_rejected(RejectionReason.SHUTDOWN)
        books.add_run(Trigger.MANUAL, Outcome.PARTIAL)
        books.add_error(CleanupStage.HOOK, "OSError")
        totals = books.totals()

        assert totals.settled() == totals

    def test_sessions_that_are_removed_together_are_seen_closing_before_they_are_gone(self) -> None:
        books = new_books()
        for _ in range(5):
            books.add_created()
        books._counts = counts = Watched(books)

        books.add_removed(EndReason.MAX_AGE, 3)

        assert [(seen.active[Occupancy.CLOSING], seen.cleaned[EndReason.MAX_AGE]) for seen in counts.seen] == [
            (3, 0),
            (0, 3),
        ]
        assert all(is_balanced(seen) for seen in counts.seen)
        assert books.active == 2

    def test_totals_balance_whatever_is_counted_while_they_are_taken(self) -> None:
        books = new_books()
        books._counts = Busy(books._counts)

        assert is_balanced(books.totals())

    @pytest.mark.usefixtures("impatient_threads")
    async def test_every_snapshot_that_another_thread_takes_is_balanced(self, manager: SessionManager[None]) -> None:
        enough = threading.Event()
        snapshots: list[SessionStats] = []

        def watch() -> None:
            while not enough.is_set():
                snapshots.append(manager.get_metrics())

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            for _ in range(500):
                session = await manager.create_session()
                with manager.pin(session.id):
                    pass
                async with manager.reserve():
                    await manager.close_session(session.id)
        finally:
            enough.set()
            thread.join()

        assert {stats.total_created - stats.total_cleaned - stats.currently_active for stats in snapshots} == {0}
        assert all(stats.leased >= 0 <= stats.closing and stats.reserved >= 0 for stats in snapshots)


class TestStatistics:
    def test_a_manager_that_was_not_entered_has_empty_statistics(self) -> None:
        assert SessionManager().get_metrics() == SessionStats(
            total_created=0,
            total_cleaned=0,
            currently_active=0,
            cleanup_runs=0,
            cleanup_errors=0,
            leased=0,
            closing=0,
            reserved=0,
            waiting=0,
            peak_active=0,
            rejected=dict.fromkeys(RejectionReason, 0),
            cleaned_by_reason=dict.fromkeys(EndReason, 0),
            last_cleanup=None,
            seconds_since_cleanup=0.0,
        )

    async def test_the_statistics_follow_each_session(self, manager: SessionManager[None]) -> None:
        first, second = await manager.create_session(), await manager.create_session()
        await manager.create_session()
        await manager.close_session(first.id)

        with manager.pin(second.id):
            async with manager.reserve():
                stats = manager.get_metrics()

        assert (stats.total_created, stats.total_cleaned, stats.currently_active) == (3, 1, 2)
        assert (stats.leased, stats.closing, stats.reserved, stats.peak_active) == (1, 0, 1, 3)
        assert stats.cleaned_by_reason == {**dict.fromkeys(EndReason, 0), EndReason.CLOSED: 1}

    async def test_a_leased_session_counts_once_however_many_hold_it(self, manager: SessionManager[None]) -> None:
        session = await manager.create_session()

        with manager.pin(session.id), manager.pin(session.id):
            assert manager.get_metrics().leased == 1
        assert manager.get_metrics().leased == 0

    async def test_a_session_that_is_ended_under_its_holders_is_no_longer_leased(
        self, manager: SessionManager[None]
    ) -> None:
        session = await manager.create_session()

        with manager.pin(session.id):
            await manager.close_session(session.id)
            during = manager.get_metrics().leased

        assert (during, manager.get_metrics().leased) == (0, 0)

    async def test_refusals_are_counted_by_reason(self, clock: Clock) -> None:
        config = SessionConfig(max_sessions=2, max_sessions_per_client=1)
        async with SessionManager(config, clock=clock) as manager:
            await manager.create_session(client="one")
            with pytest.raises(TooManySessions):
                await manager.create_session(client="one")
            await manager.create_session(client="two")
            with pytest.raises(TooManySessions):
                await manager.create_session(client="three")

            rejected = manager.get_metrics().rejected

        assert rejected == {
            RejectionReason.MAX_SESSIONS: 1,
            RejectionReason.MAX_SESSIONS_PER_CLIENT: 1,
            RejectionReason.SHUTDOWN: 0,
            RejectionReason.FLEET: 0,
        }

    async def test_the_last_report_is_kept(self, manager: SessionManager[None]) -> None:
        report = await manager.cleanup_stale_sessions()

        stats = manager.get_metrics()

        assert (stats.cleanup_runs, stats.last_cleanup) == (1, report)

    async def test_the_time_since_a_cleanup_runs_from_the_start_until_there_was_one(
        self, manager: SessionManager[None]
    ) -> None:
        await anyio.sleep(7)

        assert manager.get_metrics().seconds_since_cleanup == pytest.approx(7)

    async def test_the_time_since_a_cleanup_runs_from_the_last_one(self, manager: SessionManager[None]) -> None:
        await anyio.sleep(7)
        await manager.cleanup_stale_sessions()
        await anyio.sleep(3)

        assert manager.get_metrics().seconds_since_cleanup == pytest.approx(3)

    async def test_a_preview_is_no_run(self, manager: SessionManager[None]) -> None:
        await manager.create_session()
        await anyio.sleep(50)
        report = await manager.preview_cleanup(max_idle_time=50)

        stats = manager.get_metrics()

        assert (report.total_cleaned, stats.cleanup_runs, stats.last_cleanup, stats.total_cleaned) == (1, 0, None, 0)

    async def test_statistics_are_frozen_to_the_bottom(self, manager: SessionManager[None]) -> None:
        stats: Any = manager.get_metrics()

        with pytest.raises(dataclasses.FrozenInstanceError):
            stats.total_created = 5
        with pytest.raises(TypeError):
            stats.cleaned_by_reason[EndReason.CLOSED] = 5
        with pytest.raises(TypeError):
            stats.rejected[RejectionReason.SHUTDOWN] = 5

    async def test_a_report_is_frozen_to_the_bottom(self, manager: SessionManager[None]) -> None:
        report: Any = await manager.cleanup_stale_sessions()

        with pytest.raises(dataclasses.FrozenInstanceError):
            report.examined = 5
        with pytest.raises(TypeError):
            report.cleaned[EndReason.CLOSED] = 5


class TestRecentEnds:
    async def test_the_reason_of_an_ended_session_is_remembered(self, manager: SessionManager[None]) -> None:
        await manager.create_session("an id")
        await manager.close_session("an id")

        assert reason_of(manager, "an id") is EndReason.CLOSED

    async def test_an_id_that_never_was_has_no_reason(self, manager: SessionManager[None]) -> None:
        assert reason_of(manager, "an id") is None

    async def test_the_last_4096_ends_are_remembered(self, manager: SessionManager[None]) -> None:
        for number in range(REMEMBERED + 1):
            await manager.create_session(str(number))
            await manager.close_session(str(number))

        assert [reason_of(manager, str(number)) for number in (0, 1, REMEMBERED)] == [
            None,
            EndReason.CLOSED,
            EndReason.CLOSED,
        ]

    async def test_the_latest_reason_of_an_id_counts(self, manager: SessionManager[None]) -> None:
        await manager.create_session("an id")
        await manager.close_session("an id")
        session = await manager.create_session("an id")
        session.fail("upstream hung up")
        await manager.cleanup_stale_sessions()

        assert reason_of(manager, "an id") is EndReason.FAILED

    async def test_a_live_session_under_an_id_that_has_ended_before_is_there(
        self, manager: SessionManager[None]
    ) -> None:
        await manager.create_session("an id")
        await manager.close_session("an id")
        session = await manager.create_session("an id")

        assert manager.get("an id") is session

    def test_an_id_that_ends_again_is_remembered_as_long_as_its_latest_end(self) -> None:
        recent = RecentEnds()
        recent.add("an id", EndReason.CLOSED)
        recent.add("another", EndReason.CLOSED)
        recent.add("an id", EndReason.MAX_AGE)
        for number in range(REMEMBERED - 1):
            recent.add(str(number), EndReason.CLOSED)

        assert (recent.reason_of("an id"), recent.reason_of("another")) == (EndReason.MAX_AGE, None)

    def test_asking_in_between_changes_nothing_in_what_is_remembered(self) -> None:
        recent = RecentEnds()
        for number in range(2 * REMEMBERED):
            recent.add(str(number), EndReason.CLOSED)
            if not number % 1000:
                assert recent.reason_of("0") is (EndReason.CLOSED if number < REMEMBERED else None)

        forgotten = [number for number in range(2 * REMEMBERED) if recent.reason_of(str(number)) is None]
        assert forgotten == list(range(REMEMBERED))

    def test_the_memory_holds_no_id(self) -> None:
        recent = RecentEnds()
        recent.add("s3cret", EndReason.CLOSED)

        assert "s3cret" not in repr(vars(recent))

    @given(ids=st.lists(st.text(st.characters(categories=None), max_size=3), unique=True, max_size=50))
    def test_any_text_is_remembered_as_an_id(self, ids: list[str]) -> None:
        recent = RecentEnds()
        for session_id in ids[::2]:
            recent.add(session_id, EndReason.CLOSED)

        assert [recent.reason_of(session_id) is not None for session_id in ids] == [n % 2 == 0 for n in range(len(ids))]
