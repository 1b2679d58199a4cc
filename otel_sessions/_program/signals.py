"""The signals that end our programs in order."""

import signal
from collections.abc import Sequence


def ending() -> Sequence[signal.Signals]:
    """Return the signals that end a program in order.

    A terminal sends SIGHUP when it closes. SIGHUP is in the list unless it is ignored already, as under nohup.
    """
    return (signal.SIGINT, signal.SIGTERM, *hangups())


def hangups() -> Sequence[signal.Signals]:
    """Return SIGHUP if this system has the signal and the parent process did not have it ignored."""
    known = hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
    return (signal.SIGHUP,) if known else ()
