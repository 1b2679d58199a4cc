"""Tasks of a manager's own, and countdowns."""

import asyncio
import contextvars
import logging

import anyio
import pytest

from otel_sessions._engine.tasks import Countdown, Tasks
from tests.virtual import BACKENDS, settle

pytestmark = pytest.mark.anyio


class TestTasks:
    async def test_a_task_starts_in_an_empty_context(self) -> None:
        user: contextvars.ContextVar[str] = contextvars.ContextVar("user", default="nobody")
        seen: list[str] = []

        async def look() -> None:
            seen.append(user.get())
            user.set("the task")

        user.set("the caller")
        Tasks().start("look", look)
        await settle()
        assert seen == ["nobody"]
        assert user.get() == "the caller"

    async def test_a_task_is_in_no_scope_of_whoever_started_it(self) -> None:
        tasks = Tasks()
        done = anyio.Event()

        async def work() -> None:
            await anyio.sleep(1)
            done.set()

        with anyio.CancelScope() as scope:
            tasks.start("work", work)
            scope.cancel()
            await anyio.lowlevel.checkpoint()
        await anyio.sleep(2)
        assert done.is_set()

    async def test_an_error_is_logged_and_ends_only_its_task(self, caplog: pytest.LogCaptureFixture) -> None:
        tasks = Tasks()

        async def fail() -> None:
            raise ConnectionError("the upstream is gone")

        bystander = tasks.start("bystander", anyio.sleep_forever)
        failing = tasks.start("failing", fail)
        await anyio.sleep(1)
        assert failing.done
        assert not bystander.done
        assert len(tasks) == 1
        [record] = caplog.records
        assert record.levelno == logging.ERROR
        assert "failing" in record.getMessage()
        assert record.exc_info is not None
        assert isinstance(record.exc_info[1], ConnectionError)
        tasks.cancel()
        await tasks.wait_empty()

    async def test_cancelling_ends_them_all(self) -> None:
        tasks = Tasks()
        for number in range(3):
            tasks.start(f"task {number}", anyio.sleep_forever)
        await settle()
        assert len(tasks) == 3
        tasks.cancel()
        await tasks.wait_empty()
        assert len(tasks) == 0

    async def test_a_task_that_is_cancelled_before_its_first_step_is_gone_too(self) -> None:
        tasks = Tasks()
        task = tasks.start("never seen", anyio.sleep_forever)
        task.cancel()
        await tasks.wait_empty()
        assert task.done

    async def test_waiting_goes_on_for_what_was_started_meanwhile(self) -> None:
        tasks = Tasks()

        async def start_another() -> None:
            await anyio.sleep(1)
            tasks.start("another", another)

        async def another() -> None:
            await anyio.sleep(1)

        begun = anyio.current_time()
        tasks.start("first", start_another)
        await tasks.wait_empty()
        assert anyio.current_time() - begun == pytest.approx(2)

    async def test_waiting_for_nothing_takes_no_time(self) -> None:
        await Tasks().wait_empty()

    async def test_a_group_that_a_cancellation_leaves_errors_of_is_logged(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        tasks = Tasks()

        async def complain() -> None:
            try:
                await anyio.sleep_forever()
            finally:
                raise ConnectionError("while cleaning up")

        async def work() -> None:
            async with anyio.create_task_group() as group:
                group.start_soon(complain)
                group.start_soon(anyio.sleep_forever)

        task = tasks.start("work", work)
        await settle()
        task.cancel()
        await tasks.wait_empty()
        assert "while cleaning up" in caplog.text

    @pytest.mark.parametrize("anyio_backend", [("asyncio", BACKENDS["asyncio"]())], ids=["asyncio"])
    async def test_a_task_is_kept_although_asyncio_itself_holds_it_only_weakly(self) -> None:
        tasks = Tasks()
        tasks.start("kept", anyio.sleep_forever)
        await settle()
        assert "kept" in {task.get_name() for task in asyncio.all_tasks()}
        tasks.cancel()
        await tasks.wait_empty()


class Counted:
    """A countdown, and when each of its items was due, in seconds since the start."""

    def __init__(self, delay: float) -> None:
        self.tasks = Tasks()
        self.due: list[tuple[str, float]] = []
        self._countdown: Countdown[str] = Countdown(delay, self.tasks, "countdown")
        self._begun = anyio.current_time()

    def add(self, item: str) -> None:
        self._countdown.add(item, lambda: self.due.append((item, round(anyio.current_time() - self._begun, 3))))

    def discard(self, item: str) -> None:
        self._countdown.discard(item)


class TestCountdown:
    async def test_each_item_is_due_a_delay_after_it_was_added(self) -> None:
        countdown = Counted(5)
        countdown.add("first")
        await anyio.sleep(2)
        countdown.add("second")
        await anyio.sleep(10)
        assert countdown.due == [("first", 5), ("second", 7)]

    async def test_it_works_again_after_it_had_nothing_to_count(self) -> None:
        countdown = Counted(5)
        countdown.add("first")
        await anyio.sleep(8)
        assert len(countdown.tasks) == 0
        countdown.add("second")
        await anyio.sleep(8)
        assert countdown.due == [("first", 5), ("second", 13)]

    async def test_adding_an_item_again_does_not_put_it_off(self) -> None:
        countdown = Counted(5)
        countdown.add("item")
        await anyio.sleep(3)
        countdown.add("item")
        await anyio.sleep(10)
        assert countdown.due == [("item", 5)]

    async def test_a_discarded_item_is_never_due(self) -> None:
        countdown = Counted(5)
        countdown.add("gone")
        await anyio.sleep(1)
        countdown.add("stays")
        countdown.discard("gone")
        countdown.discard("unknown")
        await anyio.sleep(10)
        assert countdown.due == [("stays", 6)]

    async def test_an_item_that_was_discarded_and_added_again_counts_anew(self) -> None:
        countdown = Counted(5)
        countdown.add("item")
        await anyio.sleep(3)
        countdown.discard("item")
        countdown.add("item")
        await anyio.sleep(10)
        assert countdown.due == [("item", 8)]

    async def test_without_a_delay_an_item_is_due_at_once(self) -> None:
        countdown = Counted(0)
        countdown.add("item")
        await settle()
        assert [item for item, _ in countdown.due] == ["item"]

    async def test_however_many_items_one_task_counts_them(self) -> None:
        countdown = Counted(5)
        for number in range(100):
            countdown.add(f"item {number}")
        assert len(countdown.tasks) == 1
        await anyio.sleep(6)
        assert len(countdown.due) == 100
        assert len(countdown.tasks) == 0
