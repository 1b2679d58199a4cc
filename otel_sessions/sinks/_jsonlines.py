"""A sink that writes the record of each session as a line of JSON, before the session is cleaned."""

import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Generic, Self

import anyio
from anyio import to_thread

from otel_sessions._core.config import check_count, check_seconds
from otel_sessions._core.events import Event
from otel_sessions._core.exceptions import SinkClosed, SinkFull
from otel_sessions._core.ids import fingerprint
from otel_sessions._core.session import DataT, Session
from otel_sessions._core.words import EndReason

from ._journal import Journal
from ._writer import Writer
from .records import Record

_logger = logging.getLogger("otel_sessions")

_MIB: Final = 1024 * 1024
_GRACE: Final = 0.1
"""Seconds to wait for the end of an abandoned writer, which may wait for its disk."""


class JsonLinesSink(Generic[DataT]):
    """Appends the record of each ended session to a file, as a line of JSON (see `Record`).

        async with JsonLinesSink[Upstream]("sessions.jsonl") as sink, SessionManager[Upstream](sink=sink) as manager:
            ...

    Enter the sink around the manager. Entering opens the file; leaving writes the queued records. Each takes at most
    `close_timeout` seconds. A sink that was left may be entered again, and its counts go on.

    `describe(session)` returns a mapping that `json` can encode. The record has this mapping under `description`.
    `describe` runs on the event loop, so it should only read `session.data`. If `describe` raises, or its result is not
    JSON or too long, the record is written without a description. `description_error` then names the exception, and the
    manager counts an error of its sink.

    A file that the sink makes has mode 0600. Before the file passes `max_bytes`, it becomes `path.1`, and `path.1`
    becomes `path.2`, up to `path.keep`. The oldest file is deleted. If the file or its folder is moved or deleted, the
    sink makes a new file. The sink calls no fsync: a record survives the end of the process, but not a power cut. The
    sink needs a POSIX system.

    Only one sink at a time writes to a path, in all processes together. Entering a second sink raises `OSError`. So
    give each process a path of its own. A file system without locks does not refuse the second sink. Two sinks on one
    path lose files when they rotate.

    If the disk refuses a record, the sink tries again until the disk takes it. Meanwhile a queue of `queue_bytes`
    fills. If the queue is full, the record is dropped and `export` raises `SinkFull`, which the manager counts as an
    error of its sink. If leaving takes too long, the queued records are dropped. A log line counts the dropped
    records, at most once a minute while the sink runs. Records given to `export` = `written` + `dropped` + `waiting`.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        max_bytes: int = 64 * _MIB,
        keep: int = 4,
        describe: Callable[[Session[DataT]], Mapping[str, object]] | None = None,
        queue_bytes: int = 16 * _MIB,
        close_timeout: float = 5.0,
    ) -> None:
        """Take the settings. No file is opened yet. Raises `ConfigError`, which names the wrong setting."""
        self.path: Final = Path(path).absolute()
        self._describe = describe
        self._close_timeout = check_seconds("close_timeout", close_timeout)
        self._max_bytes = check_count("max_bytes", max_bytes)
        self._keep = check_count("keep", keep)
        self._queue_bytes = check_count("queue_bytes", queue_bytes)
        self._entered = False
        self._writer = self._new_writer()

    @property
    def written(self) -> int:
        """The number of records that were written, to this file or to files before it."""
        return self._writer.written

    @property
    def dropped(self) -> int:
        """The number of records that were given to `export` and will never be written."""
        return self._writer.dropped

    @property
    def waiting(self) -> int:
        """The number of records that are queued, and neither written nor dropped yet."""
        return self._writer.waiting

    async def __aenter__(self) -> Self:
        """Open the file. Raises `OSError` if the file cannot be opened in time, `SinkClosed` if the sink is in use."""
        if self._entered:
            raise SinkClosed(f"the sink of {self.path} is in use; leave its block first")
        self._entered = True
        if self._writer.thread.ident is not None:
            last, self._writer = self._writer, self._new_writer()
            self._writer.go_on_from(last)
        writer = self._writer
        writer.thread.start()
        try:
            opened = await to_thread.run_sync(
                writer.opened.wait, self._close_timeout, abandon_on_cancel=True, limiter=anyio.CapacityLimiter(1)
            )
            if writer.failure is not None:
                raise writer.failure
            if not opened:
                raise TimeoutError(f"{self.path} could not be opened within {self._close_timeout:g} s")
        except BaseException:
            writer.abandon()
            self._entered = False
            raise
        writer.accepting = True
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Write the queued records, even if the block was cancelled. Drop and log the records that take too long."""
        writer = self._writer
        writer.finish()
        cancelled = await self._ended(self._close_timeout)
        writer.abandon()
        cancelled = await self._ended(_GRACE) or cancelled  # time for the writer to close the file
        self._entered = False
        if writer.dropped:
            given = writer.dropped + writer.written
            _logger.error(
                "%d of %d records were not written to %s",
                *(writer.dropped, given, self.path),
                extra=Event.SINK_LOST_RECORDS.extra,
            )
        if cancelled is not None:
            raise cancelled

    async def export(self, session: Session[DataT], reason: EndReason) -> None:
        """Queue the record of a session, without waiting.

        Raises `SinkFull` or `SinkClosed` if the record is dropped. Raises the error of `describe` or of its result if
        the record is written without a description.
        """
        flaw: Exception | None = None
        try:
            try:
                line = self._record(session, reason).line()
            except Exception as error:
                flaw = error
                line = Record.of(session, reason, description_error=type(flaw).__name__).line()
        except BaseException:
            self._writer.drop()
            raise
        if not self._writer.put(line):
            what = f"the record of session {fingerprint(session.id)} is dropped"
            if not self._writer.accepting:
                raise SinkClosed(
                    f"{what}: the sink of {self.path} is not running; use it inside its `async with` block"
                )
            raise SinkFull(f"{what}: the queue for {self.path} is full")
        if flaw is not None:
            flaw.add_note("the session's record is written without a description")
            raise flaw

    def __repr__(self) -> str:
        return (
            f"<JsonLinesSink {str(self.path)!r} {self.written} written, {self.waiting} waiting, {self.dropped} dropped>"
        )

    async def _ended(self, seconds: float) -> BaseException | None:
        """Wait at most `seconds` for the end of the writer. Return a cancellation that came meanwhile, or None."""
        thread = self._writer.thread
        deadline = time.monotonic() + seconds  # a disk takes real time, even if the time of the loop is virtual
        cancelled: BaseException | None = None
        with anyio.CancelScope(shield=True):
            while thread.is_alive() and (left := deadline - time.monotonic()) > 0:
                try:
                    await to_thread.run_sync(thread.join, left, limiter=anyio.CapacityLimiter(1))
                except anyio.get_cancelled_exc_class() as error:  # asyncio's own cancellation ignores the shield
                    cancelled = error
        return cancelled

    def _new_writer(self) -> Writer:
        journal = Journal(self.path, max_bytes=self._max_bytes, keep=self._keep)
        return Writer(journal, queue_bytes=self._queue_bytes)

    def _record(self, session: Session[DataT], reason: EndReason) -> Record:
        return Record.of(session, reason, None if self._describe is None else self._describe(session))
