"""Which event loop is running, and whether it has ended.

An asyncio loop is known by its object, a trio loop by the token of its run.
"""

import asyncio
from collections.abc import Callable

import anyio


class Home:
    """The event loop that is running when this object is made. On trio it stands for one run of trio."""

    def __init__(self) -> None:
        self._asyncio: asyncio.AbstractEventLoop | None = None
        self._trio: object = None
        self.is_closed: Callable[[], bool] = _never
        """Whether the loop will never run again.

        Always False on trio: trio ends its system tasks before its loop ends, so nothing of a manager is left then.
        """
        if anyio.get_cancelled_exc_class() is asyncio.CancelledError:
            self._asyncio = asyncio.get_running_loop()
            self.is_closed = self._asyncio.is_closed
        else:
            self._trio = _trio_run()

    def is_here(self) -> bool:
        """Return whether the caller runs on this loop."""
        if self._asyncio is None:
            return self._trio is _trio_run()
        try:
            return asyncio.get_running_loop() is self._asyncio
        except RuntimeError:  # no asyncio loop is running in this thread
            return False


def _never() -> bool:
    return False


def is_collected(error: BaseException | None) -> bool:
    """Return whether a block ends because its coroutine was closed, even if the block then raised another error."""
    while error is not None and not isinstance(error, GeneratorExit):
        error = error.__context__
    return error is not None


def _trio_run() -> object:
    """Return the token of the running trio loop, or None if trio is not running in this thread."""
    import trio

    try:
        return trio.lowlevel.current_trio_token()
    except RuntimeError:
        return None
