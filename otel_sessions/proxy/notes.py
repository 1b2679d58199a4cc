"""Lines of the log about what may happen very often: a line in so many seconds at most, with how often it happened."""

import logging
import time

_logger = logging.getLogger("otel_sessions.proxy")


class Notes:
    """Counts what happens, and logs at once what has not been logged for `seconds`."""

    def __init__(self, level: int, what: str, *, seconds: float) -> None:
        self._level = level
        self._what = what
        self._seconds = seconds
        self._count = 0
        self._logged: float | None = None

    def note(self, why: str) -> None:
        """Count it once more; `why` is said of the last time."""
        self._count += 1
        now = time.monotonic()
        if self._logged is None or now - self._logged >= self._seconds:
            _logger.log(self._level, "%s: %d; %s", self._what, self._count, why)
            self._count, self._logged = 0, now
