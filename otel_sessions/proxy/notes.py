"""Lines of the log about what may happen very often: a line in so many seconds at most, with how often it happened."""

import time
from collections.abc import Callable


class Notes:
    """Counts what happens, and calls `write` at once with what has not been written for `seconds`.

    `write` takes how often it happened, and why it did the last time.
    """

    def __init__(self, write: Callable[[int, str], None], *, seconds: float) -> None:
        self._write = write
        self._seconds = seconds
        self._count = 0
        self._written: float | None = None

    def note(self, why: str) -> None:
        """Count it once more; `why` is said of the last time."""
        self._count += 1
        now = time.monotonic()
        if self._written is None or now - self._written >= self._seconds:
            self._write(self._count, why)
            self._count, self._written = 0, now
