"""A bounded queue of lines, and the thread that writes the lines to a journal.

Every line that is given to the writer is either written or counted as dropped. The giver never waits for the disk. If
the disk refuses a line, the thread tries again until the disk takes the line or the writer is abandoned.
"""

import logging
import threading
from collections import deque
from contextlib import suppress
from time import monotonic
from typing import Final

from otel_sessions._core.events import Event
from otel_sessions._core.forks import forks

from ._journal import Journal

_logger = logging.getLogger("otel_sessions")

_BATCH: Final = 65536
"""Bytes to write at once. Few writes are better: at each write the loop and this thread switch the interpreter."""
_GATHERING: Final = 0.01
"""Seconds to wait for more lines after a write, if less than a batch is queued."""
_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 5.0
_SECONDS_BETWEEN_WARNINGS: Final = 60.0


class Writer:
    """Lines given = `written` + `dropped` + `waiting`. All methods work on any thread."""

    def __init__(self, journal: Journal, *, queue_bytes: int) -> None:
        self.written = 0
        self.dropped = 0
        self.accepting = False
        self.opened = threading.Event()
        """Set when the file is open, or cannot be opened. Then `failure` says why."""
        self.failure: Exception | None = None
        # A daemon: the process can end even if the disk never answers.
        self.thread: Final = threading.Thread(target=self._run, name="otel-sessions sink", daemon=True)
        self._journal = journal
        self._queue_bytes = queue_bytes
        self._queue: deque[bytes] = deque()
        self._queued_bytes = 0
        self._changed = threading.Condition()
        self._finishing = threading.Event()
        self._abandoned = threading.Event()
        self._warned_at = -_SECONDS_BETWEEN_WARNINGS
        forks.add(self)

    def start_anew_after_fork(self) -> None:
        """Accept no line in a forked process, where no thread writes. The parent writes the queued lines."""
        self._changed = threading.Condition()
        self.accepting = False
        self.written = self.dropped = self._queued_bytes = 0
        self._queue.clear()

    def go_on_from(self, last: "Writer") -> None:
        """Take over the counts of a writer that has ended."""
        self.written, self.dropped = last.written, last.dropped

    @property
    def waiting(self) -> int:
        """The number of lines that are queued, and neither written nor dropped yet."""
        return len(self._queue)

    def put(self, line: bytes) -> bool:
        """Queue a line and return True. Drop it and return False if the queue is full or the writer not `accepting`."""
        with self._changed:
            if self.accepting and self._queued_bytes + len(line) <= self._queue_bytes:
                self._queue.append(line)
                self._queued_bytes += len(line)
                self._changed.notify()
                return True
            self.dropped += 1
        if self.accepting:
            self._warn(f"the queue of {self._queue_bytes} bytes is full")
        return False

    def drop(self) -> None:
        """Count a record as dropped that could not become a line."""
        with self._changed:
            self.dropped += 1

    def finish(self) -> None:
        """Accept no more lines, and end the thread when all lines are written."""
        with self._changed:
            self.accepting = False
            self._finishing.set()
            self._changed.notify()

    def abandon(self) -> None:
        """Drop the queued lines, and end the thread as soon as the disk lets it go on."""
        with self._changed:
            self._abandoned.set()
            self.dropped += len(self._queue)
            self._queue.clear()
        self.finish()

    def _run(self) -> None:
        try:
            self._journal.open()
        except Exception as error:
            self.failure = error
            return
        finally:
            self.opened.set()
        pause = _FIRST_PAUSE
        while lines := self._next():
            try:
                self._note_written(self._journal.append(lines))
                if self._queued_bytes < _BATCH:
                    self._finishing.wait(_GATHERING)
                pause = _FIRST_PAUSE
            except Exception as error:
                with suppress(Exception):  # a log handler must not end this thread either
                    self._warn(error)
                pause = self._rest(pause)
        try:
            self._journal.close()
        except Exception as error:
            _logger.error(
                "%s may lack its last records: %s", self._journal.path, error, extra=Event.SINK_INCOMPLETE.extra
            )

    def _next(self) -> list[bytes]:
        """Return the next lines to write, which stay queued until they are written. An empty list is the end."""
        with self._changed:
            while not self._queue and not self._finishing.is_set():
                self._changed.wait()
            lines: list[bytes] = []
            size = 0
            for line in self._queue:
                size += len(line)
                if lines and size > _BATCH:
                    break
                lines.append(line)
            return lines

    def _note_written(self, count: int) -> None:
        with self._changed:
            if not self._abandoned.is_set():  # else the lines were counted as dropped
                for _ in range(count):
                    self._queued_bytes -= len(self._queue.popleft())
                self.written += count

    def _rest(self, pause: float) -> float:
        """Wait before the next attempt. Return the next pause in seconds: longer, but short when finishing."""
        if self._finishing.wait(pause):
            self._abandoned.wait(_FIRST_PAUSE)
            return _FIRST_PAUSE
        return min(2 * pause, _LONGEST_PAUSE)

    def _warn(self, trouble: object) -> None:
        now = monotonic()
        with self._changed:
            if now < self._warned_at + _SECONDS_BETWEEN_WARNINGS:
                return
            self._warned_at = now
        state = (self._journal.path, trouble, self.waiting, self.dropped)
        _logger.warning(
            "records wait to be written to %s: %s (%d waiting, %d dropped so far)",
            *state,
            extra=Event.SINK_BEHIND.extra,
        )
