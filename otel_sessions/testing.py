"""Help for tests of code that uses a manager: clocks, virtual time for both loops, and pytest fixtures.

In virtual time nothing waits: when every task of a loop waits, the loop's time jumps to the next timer. A `LoopClock`
reads the loop's time, so a manager and its loop always agree. The module works without pytest; then it has no fixtures.

With pytest, name this module in a `conftest.py`, or import the fixtures. The fixtures are async, so they need anyio's
pytest plugin. No fixture is used unless a test asks for it. PYTEST_DONT_REWRITE
"""

import asyncio
import math
import selectors
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

import anyio

from otel_sessions import SessionManager

__all__ = ["LoopClock", "ManualClock", "VirtualLoop", "run_in_virtual_time", "virtual_time"]

ValueT = TypeVar("ValueT")


class ManualClock:
    """A clock that a test moves, in seconds from `start`. It may be read on any thread.

        clock = ManualClock()
        async with SessionManager(SessionConfig(max_idle_time=60), clock=clock) as manager:
            session = await manager.create_session()
            clock.advance(60)
            assert manager.get(session.id) is None

    The clock decides what is idle and what is expired. It wakes no task: the background task, hooks and drains wait by
    the time of the event loop. To move both times together, use virtual time and a `LoopClock`.
    """

    def __init__(self, start: float = 0.0) -> None:
        self._now = start

    def advance(self, seconds: float) -> None:
        """Move the clock forward. Raises `ValueError` if `seconds` is negative or not finite."""
        self._now += _forward(seconds)

    def __call__(self) -> float:
        """Return the time in seconds."""
        return self._now


class LoopClock:
    """The time of an event loop, in seconds, for a manager's `clock`. It may be read on any thread.

        async def story() -> None:
            async with SessionManager(clock=LoopClock()) as manager:
                session = await manager.create_session()
                await anyio.sleep(3600)
                assert manager.get(session.id) is None

        run_in_virtual_time(story)

    The clock follows the loop that is running when the clock is made. A clock that is made outside a loop follows the
    loop that first reads the clock. Call `follow_running_loop` before you enter a manager again on another loop.

    Set `skew`, in seconds, to move the manager's time away from the loop's time. So a test lets a clock jump.
    """

    def __init__(self) -> None:
        self.skew = 0.0
        self._loop_time: Callable[[], float] | None = _running_time()

    def follow_running_loop(self) -> None:
        """Take the time from the loop that runs now. Raises `RuntimeError` if no loop runs in this thread."""
        self._loop_time = _running_time()
        if self._loop_time is None:
            raise RuntimeError("no event loop runs in this thread; make or first read a LoopClock inside a loop")

    def __call__(self) -> float:
        """Return the loop's time plus `skew`. Raises `RuntimeError` as long as there was no loop to follow."""
        if self._loop_time is None:
            self.follow_running_loop()
        assert self._loop_time is not None
        return self._loop_time() + self.skew


class VirtualLoop(asyncio.SelectorEventLoop):
    """An asyncio loop that jumps to its next timer instead of waiting for it.

        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runner.run(story())

    What is ready comes first: a task, a callback, a socket. A loop without a timer waits for another thread or for a
    socket, as any loop does. Work in threads takes no virtual time, so timers do not wait for such work.
    """

    def __init__(self) -> None:
        self._now = 1000.0
        super().__init__(_NoWaiting(self))
        self._clock_resolution = 1e-7  # asyncio's own: after half a year 1e-9 s is lost in a float, and timers stick

    def time(self) -> float:
        """Return the virtual time in seconds."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Move the time as if the loop had been busy for so long. Raises `ValueError` if it is negative or infinite."""
        self._now += _forward(seconds)


class _NoWaiting(selectors.DefaultSelector):
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            return super().select(None)  # only another thread or a socket can go on from here
        ready = super().select(0)
        if not ready:
            self._loop.advance(max(0.0, timeout))
        return ready


def virtual_time(backend: str = "asyncio") -> tuple[str, dict[str, object]]:
    """Return a value for the fixture `anyio_backend` of anyio's pytest plugin: the tests then run in virtual time.

        @pytest.fixture(params=["asyncio", "trio"])
        def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, object]]:
            return virtual_time(request.param)

    `backend` is `asyncio` or `trio`. Every run needs a new value, since it holds the clock of trio. Raises `ValueError`
    for another backend, and `ImportError` if trio is not installed.
    """
    if backend == "asyncio":
        return backend, {"loop_factory": VirtualLoop}
    if backend == "trio":
        from trio.testing import MockClock

        return backend, {"clock": MockClock(autojump_threshold=0)}
    raise ValueError(f"no virtual time for the backend {backend!r}; take 'asyncio' or 'trio'")


def run_in_virtual_time(main: Callable[[], Awaitable[ValueT]], *, backend: str = "asyncio") -> ValueT:
    """Run an async function on a new loop in virtual time, and return its value.

        def test_a_session_ends_after_an_hour() -> None:
            async def story() -> None:
                ...

            run_in_virtual_time(story)

    `backend` is `asyncio` or `trio`. Raises what `main` raises, and what `virtual_time` raises.
    """
    name, options = virtual_time(backend)
    return anyio.run(main, backend=name, backend_options=options)


def _forward(seconds: float) -> float:
    if not (math.isfinite(seconds) and seconds >= 0):
        raise ValueError(f"time moves forward by a finite number of seconds, not by {seconds!r}")
    return seconds


def _running_time() -> Callable[[], float] | None:
    """Return what reads the time of the loop that runs in this thread, from any thread. None without a loop."""
    try:
        anyio.current_time()
    except RuntimeError:  # of anyio or of what it asks, according to the version
        return None
    if anyio.get_cancelled_exc_class() is asyncio.CancelledError:
        return asyncio.get_running_loop().time
    import trio

    return trio.lowlevel.current_clock().current_time


try:
    import pytest
except ImportError:
    pass
else:
    __all__ += ["new_session_manager", "session_clock", "session_manager"]

    @pytest.fixture
    async def session_clock(anyio_backend: object) -> LoopClock:
        """Return the clock of the test's loop."""
        return LoopClock()

    @pytest.fixture
    def new_session_manager(session_clock: LoopClock) -> SessionManager[None]:
        """Return a manager with the default settings that no block has entered. Override it to make your own."""
        return SessionManager(clock=session_clock)

    @pytest.fixture
    async def session_manager(
        anyio_backend: object, new_session_manager: SessionManager[ValueT]
    ) -> AsyncIterator[SessionManager[ValueT]]:
        """Run the manager for one test, then end the sessions that the test left open, for the reason `shutdown`.

        The test gets an error if a hook or a sink fails in this shutdown. What fails before is for the test to judge.
        """
        async with new_session_manager as manager:
            yield manager
            before = manager.get_metrics().cleanup_errors
        failed = manager.get_metrics().cleanup_errors - before
        if failed:
            pytest.fail(f"{failed} hooks or sinks failed when the test's manager shut down; its log says why")
