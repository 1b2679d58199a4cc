"""Which event loop this is, asyncio's by itself, trio's by the token of its run; and what a dead one leaves behind."""

import asyncio

import anyio


class Home:
    """The event loop that runs where this is made. Trio's stands for one run of it."""

    def __init__(self) -> None:
        self._asyncio: asyncio.AbstractEventLoop | None = None
        self._trio: object = None
        if anyio.get_cancelled_exc_class() is asyncio.CancelledError:
            self._asyncio = asyncio.get_running_loop()
        else:
            self._trio = _trio_run()

    def is_here(self) -> bool:
        """Return whether the caller runs on this loop."""
        if self._asyncio is None:
            return self._trio is _trio_run()
        try:
            return asyncio.get_running_loop() is self._asyncio
        except RuntimeError:  # no loop of asyncio runs here
            return False

    def is_closed(self) -> bool:
        """Return whether the loop will never run again.

        False for trio's, which ends its system tasks, and so whatever belongs to them, before it closes.
        """
        return self._asyncio is not None and self._asyncio.is_closed()


def is_collected(error: BaseException | None) -> bool:
    """Return whether a block ends because its coroutine is closed, whatever its own code raised in answer."""
    while error is not None and not isinstance(error, GeneratorExit):
        error = error.__context__
    return error is not None


def _trio_run() -> object:
    """Return what stands for the running loop of trio, None where it does not run."""
    import trio

    try:
        return trio.lowlevel.current_trio_token()
    except RuntimeError:
        return None
