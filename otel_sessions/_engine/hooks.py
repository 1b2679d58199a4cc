"""The embedder's code that runs when a session ends: the sink's `export`, then the close hook.

Each call has its own task and `close_timeout` seconds. `close_concurrency` sessions are served at once, in the order of
their ends. A call may raise, hang, swallow its cancellation or call the manager; its session is removed in time all the
same. A failure is logged and counted.
"""

import logging
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final, Generic, Protocol

import anyio
from opentelemetry import context as otel_context

from otel_sessions._core.books import Books
from otel_sessions._core.config import SessionConfig
from otel_sessions._core.events import Event
from otel_sessions._core.ids import fingerprint
from otel_sessions._core.session import DataT, Session
from otel_sessions._core.words import TIMEOUT, CleanupStage, EndReason, type_of
from otel_sessions._telemetry.signals import ERROR_TYPE, STAGE
from otel_sessions._telemetry.telemetry import under

from .ending import CloseHook, Ending, inside
from .tasks import Countdown, Task, Tasks

_logger = logging.getLogger("otel_sessions")

_PRESSING: Final = 1.0
"""Seconds between two cancellations, in a shutdown, of a call that ignores its cancellation."""


class SessionSink(Protocol[DataT]):
    """Takes the record of every session that ends, before the close hook of the session runs."""

    async def export(self, session: Session[DataT], reason: EndReason) -> None:
        """Take the record of one session, within `close_timeout` seconds (a setting of the manager).

        An exception is logged and counted. It never stops the cleanup.
        """


class _Call:
    """One call. `over` is set when the call has ended or its time is up."""

    def __init__(self) -> None:
        self.over = anyio.Event()
        self.ended = False
        self.failure: BaseException | None = None

    def end(self) -> None:
        self.ended = True
        self.over.set()


class Hooks(Generic[DataT]):
    """The sink and the close hook of one manager."""

    def __init__(
        self,
        config: SessionConfig,
        on_close: CloseHook[DataT] | None,
        sink: SessionSink[DataT] | None,
        books: Books,
        tasks: Tasks,
    ) -> None:
        self.closed = False
        self.calls: list[tuple[CleanupStage, CloseHook[DataT]]] = []
        """The calls to make for a session that ends now, in this order."""
        if sink is not None:
            self.calls.append((CleanupStage.SINK, sink.export))
        if on_close is not None:
            self.calls.append((CleanupStage.HOOK, on_close))
        self._close_concurrency = config.close_concurrency
        self._books = books
        self._tasks = tasks
        self._queue: deque[tuple[Ending[DataT], Callable[[Ending[DataT]], None]]] = deque()
        self._runners = 0
        self._calls = Tasks()
        self._overstaying: set[Task] = set()
        self._timeouts: Countdown[_Call] = Countdown(config.close_timeout, tasks, "otel-sessions timeouts")

    @property
    def calling(self) -> bool:
        """Whether the running task is part of a call. A call must not wait for another call."""
        return self in inside.get()

    def drop_hooks(self) -> None:
        """Call no close hook for sessions that end from now on."""
        self.calls = [call for call in self.calls if call[0] is not CleanupStage.HOOK]

    def submit(self, ending: Ending[DataT], on_served: Callable[[Ending[DataT]], None]) -> None:
        """Make the calls of an ending when its turn comes, then call `on_served(ending)`."""
        self._queue.append((ending, on_served))
        if self._runners < self._close_concurrency:
            self._runners += 1
            self._tasks.start("otel-sessions closing", self._serve)

    def cancel_again(self) -> None:
        """Cancel again each call that still runs after it was cancelled at its timeout."""
        self._overstaying = {task for task in self._overstaying if not task.done}
        for task in self._overstaying:
            task.cancel()

    def forget(self) -> None:
        """Make no more calls."""
        self.closed = True
        self.calls = []
        self._queue.clear()

    def close(self) -> None:
        """Make no more calls, and cancel the calls that still run."""
        self.closed = True
        self.calls = []
        self._calls.cancel()

    async def cancel_all(self, until: float) -> None:
        """Cancel all running calls every second and wait for them, until `until` on the loop's time."""
        now = anyio.current_time()
        pause = min(_PRESSING, (until - now) / 2)
        while self._calls and now < until:
            self._calls.cancel()
            with anyio.CancelScope(deadline=min(now + pause, until)):
                await self._calls.wait_empty()
            now = anyio.current_time()
        if left := len(self._calls):
            _logger.error(
                "%d close hooks or exports ignore their cancellation and outlive the manager",
                left,
                extra=Event.CALL_UNSTOPPABLE.extra,
            )

    async def keep_cancelling(self) -> None:
        """Call `cancel_again` every second, until this task is cancelled."""
        while True:
            await anyio.sleep(_PRESSING)
            self.cancel_again()

    async def _serve(self) -> None:
        try:
            while self._queue:
                ending, on_served = self._queue.popleft()
                try:
                    for stage, call in ending.calls:
                        await self._call(ending, stage, call)
                except Exception as error:  # an error of a log handler, for example: it can only be counted
                    self._books.add_error(CleanupStage.PASS, type_of(error))
                on_served(ending)
        finally:
            self._runners -= 1

    async def _call(self, ending: Ending[DataT], stage: CleanupStage, call: CloseHook[DataT]) -> None:
        state = _Call()
        run = partial(self._run, state, ending, call)
        task = self._calls.start(f"otel-sessions {stage}", run, on_end=state.end)
        # No cancel scope here: if the loop died inside it, anyio would keep the scope and all that it holds forever.
        self._timeouts.add(state, state.over.set)
        try:
            await state.over.wait()
        except GeneratorExit:  # the loop has died: there is no task any more
            raise
        except BaseException:  # a shutdown cuts the wait short
            self._cut(ending, stage, task)
            raise
        finally:
            self._timeouts.discard(state)
        if not state.ended:
            self._cut(ending, stage, task)
        elif state.failure is not None:
            self._note_error(ending, stage, state.failure)

    async def _run(self, state: _Call, ending: Ending[DataT], call: CloseHook[DataT]) -> None:
        """Make the call in a task of its own, and note in `state` how it ended."""
        otel_context.attach(ending.cause)
        inside.set((*ending.inside, self))
        try:
            await call(ending.session, ending.reason)
        except GeneratorExit:  # the loop has died: nobody waits, and no waiter could be woken
            raise
        except Exception as failure:
            state.failure = failure
        except BaseException as failure:  # its own cancellation, or a group with a cancellation
            state.failure = failure
            state.end()
            raise
        state.end()

    def _cut(self, ending: Ending[DataT], stage: CleanupStage, task: Task) -> None:
        task.cancel()
        self._overstaying.add(task)
        self._note_error(ending, stage, None)

    def _note_error(self, ending: Ending[DataT], stage: CleanupStage, failure: BaseException | None) -> None:
        """Count and log a call that has raised `failure`, or has run out of time if that is None."""
        ending.errors += 1
        error_type = TIMEOUT if failure is None else type_of(failure)
        self._books.add_error(stage, error_type)
        what = "was cut off" if failure is None else "failed"
        with under(ending.cause):
            _logger.warning(
                "the %s of session %s (%s) %s",
                *(stage, fingerprint(ending.session.id), ending.reason, what),
                exc_info=failure,
                extra={**Event.CALL_FAILED.extra, STAGE: stage.value, ERROR_TYPE: error_type},
            )
