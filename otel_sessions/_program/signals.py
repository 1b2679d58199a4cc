"""The signals that end our programs in order, and calls that must not hold up Ctrl-C."""

import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TypeVar

V = TypeVar("V")


def ending() -> Sequence[signal.Signals]:
    """Return the signals that end a program in order.

    A terminal sends SIGHUP when it closes. SIGHUP is in the list unless it is ignored already, as under nohup.
    """
    return (signal.SIGINT, signal.SIGTERM, *hangups())


def hangups() -> Sequence[signal.Signals]:
    """Return SIGHUP if this system has the signal and the parent process did not have it ignored."""
    known = hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
    return (signal.SIGHUP,) if known else ()


def interruptible(call: Callable[[], V]) -> V:
    """Return what a call returns, or raise what it raises, from a thread of its own.

    Python handles Ctrl-C between two lines only, and a call of the system's resolver may take half a minute. The thread
    of a call that nobody waits for does not keep the process.
    """
    done: Future[V] = Future()

    def run() -> None:
        try:
            done.set_result(call())
        except BaseException as error:
            done.set_exception(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        return done.result()
    finally:
        if done.done():
            thread.join()  # a process with threads must not fork
