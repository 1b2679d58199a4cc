"""Tasks that belong to a manager, not to a caller. Only this module and `loops` tell asyncio from trio.

Each task starts in an empty context and in no cancel scope. So it inherits neither the span nor the cancellation of the
code that starts it. An exception is logged and ends only its own task.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextvars import Context
from typing import Generic, TypeVar

import anyio

from otel_sessions._core.events import Event

from .quiet import Quiet

_logger = logging.getLogger("otel_sessions")

ItemT = TypeVar("ItemT")


class Task:
    """A running task. On asyncio each `cancel` interrupts one `await`; on trio it interrupts all from then on."""

    def __init__(self, on_end: Callable[[], None]) -> None:
        self.on_end = on_end
        self.done = False
        self.cancel: Callable[[], object] = lambda: None


class Tasks:
    """A group of running tasks."""

    def __init__(self) -> None:
        self._running: dict[Task, object] = {}
        self._quiet = Quiet()

    def start(
        self, name: str, function: Callable[[], Awaitable[None]], on_end: Callable[[], None] = lambda: None
    ) -> Task:
        """Start a task. `on_end` is called when the task is over, even if it was cancelled before its first step."""
        task = Task(on_end)
        if anyio.get_cancelled_exc_class() is asyncio.CancelledError:
            self._running[task] = self._start_on_asyncio(name, function, task)
        else:
            self._running[task] = self._start_on_trio(name, function, task)
        return task

    def __len__(self) -> int:
        return len(self._running)

    def cancel(self) -> None:
        for task in list(self._running):
            task.cancel()

    async def wait_empty(self) -> None:
        await self._quiet.wait(lambda: not self._running)

    def _start_on_asyncio(self, name: str, function: Callable[[], Awaitable[None]], task: Task) -> object:
        def ended(running: asyncio.Task[None]) -> None:
            self._discard(task)
            if not running.cancelled() and (error := running.exception()) is not None:
                _log(name, error)

        running = asyncio.get_running_loop().create_task(_run(function), name=name, context=Context())
        # Not in a `finally` of the task: a task that is cancelled before its first step never gets there.
        running.add_done_callback(ended)
        task.cancel = running.cancel
        return running  # the loop itself holds its tasks only weakly

    def _start_on_trio(self, name: str, function: Callable[[], Awaitable[None]], task: Task) -> object:
        import trio

        scope = trio.CancelScope()

        async def run() -> None:
            try:
                with scope:
                    await function()
            except Exception as error:  # else it would end the whole run of trio
                _log(name, error)
            finally:
                self._discard(task)

        task.cancel = scope.cancel
        return trio.lowlevel.spawn_system_task(run, name=name, context=Context())

    def _discard(self, task: Task) -> None:
        task.done = True
        self._running.pop(task, None)
        task.on_end()
        if not self._running:
            self._quiet.note()


class Countdown(Generic[ItemT]):
    """Items that are due a fixed number of seconds after they were added, on the loop's own time."""

    def __init__(self, delay: float, tasks: Tasks, name: str) -> None:
        self._delay = delay
        self._tasks = tasks
        self._name = name
        self._due: dict[ItemT, tuple[float, Callable[[], None]]] = {}
        """When each item is due, and what is called then. The first item is due first."""
        self._counting = False

    def __len__(self) -> int:
        return len(self._due)

    def add(self, item: ItemT, on_due: Callable[[], None]) -> None:
        """Start the countdown of an item: `on_due` is called at its end. A running countdown goes on as it is."""
        self._due.setdefault(item, (anyio.current_time() + self._delay, on_due))
        if not self._counting:
            self._counting = True
            self._tasks.start(self._name, self._count)

    def discard(self, item: ItemT) -> None:
        self._due.pop(item, None)

    async def _count(self) -> None:
        try:
            while self._due:
                due_at = self._first_due_at()
                await anyio.sleep_until(due_at)  # no item is held here: the first item may be discarded meanwhile
                if self._due and self._first_due_at() <= due_at:
                    self._end_first()
        finally:
            self._counting = False

    def _first_due_at(self) -> float:
        due_at, _ = next(iter(self._due.values()))
        return due_at

    def _end_first(self) -> None:
        item = next(iter(self._due))
        _, on_due = self._due.pop(item)
        try:
            on_due()
        except Exception as error:
            _log(self._name, error)
            self._due[item] = anyio.current_time() + max(self._delay, 1.0), on_due


async def _run(function: Callable[[], Awaitable[None]]) -> None:
    await function()


def _log(name: str, error: BaseException) -> None:
    _logger.error("the task %r ended with an error", name, exc_info=error, extra=Event.TASK_FAILED.extra)
