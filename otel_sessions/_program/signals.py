"""Which signals end our programs in order."""

import signal
from collections.abc import Sequence


def ending() -> Sequence[signal.Signals]:
    """Return the signals that end a program in order.

    SIGHUP, which a terminal sends when it closes, is one of them unless it is ignored already, as under nohup.
    """
    return (signal.SIGINT, signal.SIGTERM, *hangups())


def hangups() -> Sequence[signal.Signals]:
    """Return SIGHUP where this system knows the signal and whoever started this process lets it through."""
    known = hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
    return (signal.SIGHUP,) if known else ()
