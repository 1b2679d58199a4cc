"""A sink that writes each session's record as a line of JSON, before the session is cleaned."""

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
"""Seconds for a writer to end that has been told to, if its disk lets it."""


class JsonLinesSink(Generic[DataT]):
    """Appends each session's record to a file, as a line of JSON (see `Record`).

        async with JsonLinesSink[Upstream]("sessions.jsonl") as sink, SessionManager[Upstream](sink=sink) as manager:
            ...

    Enter it around the manager. Entering opens the file. Leaving writes what is still queued. Each takes
    `close_timeout` seconds at most. A sink may be entered again after it was left. Its counts go on.

    `describe(session)` returns what to add under the key `description`: a mapping that `json` can encode. The mapping
    is written as it is. `describe` runs on the event loop, so it should only look at `session.data`. If it raises, or
    returns something that is no JSON or too long, the record is written without a description. The record then has
    `description_error`, and the manager counts an error of its sink.

    A file that the sink makes has mode 0600. Before the file passes `max_bytes`, it becomes `path.1`, and `path.1`
    becomes `path.2`, up to `path.keep`. The oldest file is deleted. If the file or its folder is moved or deleted, the
    sink makes it anew. There is no fsync: what is written outlives the process, not a power cut. It needs a POSIX
    system.

    Only one sink at a time writes to a path, in whatever process: a second sink is refused on entry. So give each
    process a path of its own. On a file system without locks two sinks are not noticed, and lose files when they
    rotate.

    If the disk refuses a record, the sink tries again until the disk takes it. Meanwhile a queue of `queue_bytes`
    fills. A record that finds the queue full is dropped, and so is a record that is still queued when leaving took too
    long. `export` then raises `SinkFull`, which the manager counts as an error of its sink. A log line says so, at most
    once a minute while the sink runs. Records given to `export` = `written` + `dropped` + `waiting`.
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
        """Take the settings; nothing is opened yet. Raises `ConfigError`, which names the one that is wrong."""
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
        """How many records are in the file, or were before it was rotated away."""
        return self._writer.written

    @property
    def dropped(self) -> int:
        """How many records were given and will never be written."""
        return self._writer.dropped

    @property
    def waiting(self) -> int:
        """How many records are queued, and neither written nor dropped yet."""
        return self._writer.waiting

    async def __aenter__(self) -> Self:
        """Open the file. Raises `OSError` if the file cannot be opened, and `SinkClosed` while the sink is in use."""
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
        """Write what is queued, even if the block was cancelled. What takes too long is dropped, which is logged."""
        writer = self._writer
        writer.finish()
        cancelled = await self._ended(self._close_timeout)
        writer.abandon()
        cancelled = await self._ended(_GRACE) or cancelled  # so that it has let go of the file, if it can
        self._entered = False
        if writer.dropped:
            given = writer.dropped + writer.written
            _logger.error("%d of %d records were not written to %s", writer.dropped, given, self.path)
        if cancelled is not None:
            raise cancelled

    async def export(self, session: Session[DataT], reason: EndReason) -> None:
        """Queue a session's record, without waiting.

        Raises `SinkFull` and `SinkClosed` when the record is dropped, and what is wrong with its description.
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
        """Wait until the writer has ended, for so long; return the cancellation that came meanwhile, if any did."""
        thread = self._writer.thread
        deadline = time.monotonic() + seconds  # a disk takes real time, whatever time the loop has
        cancelled: BaseException | None = None
        with anyio.CancelScope(shield=True):
            while thread.is_alive() and (left := deadline - time.monotonic()) > 0:
                try:
                    await to_thread.run_sync(thread.join, left, limiter=anyio.CapacityLimiter(1))
                except anyio.get_cancelled_exc_class() as error:  # asyncio's own cancellation passes the shield
                    cancelled = error
        return cancelled

    def _new_writer(self) -> Writer:
        journal = Journal(self.path, max_bytes=self._max_bytes, keep=self._keep)
        return Writer(journal, queue_bytes=self._queue_bytes)

    def _record(self, session: Session[DataT], reason: EndReason) -> Record:
        return Record.of(session, reason, None if self._describe is None else self._describe(session))
