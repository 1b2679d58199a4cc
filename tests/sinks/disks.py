"""A disk that tests slow down, fill and repair, as a sink's writer meets it; every other thread has the real one."""

import errno
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType

import anyio.to_thread
import pytest

from otel_sessions import JsonLinesSink, Record, read_records
from tests.waiting import PATIENCE


class Disk:
    """Takes everything, unless it is told otherwise."""

    def __init__(self, write: Callable[[int, bytes], int]) -> None:
        self._write = write
        self._released = threading.Event()
        self._released.set()
        self.reached = threading.Event()
        """Set when somebody waits for a disk that hangs."""
        self.full = False
        self.answers: deque[int] = deque()
        """How much of each of the next writes it takes: so many bytes, or all but so many where negative."""
        self.writes = 0

    def hang(self) -> None:
        self.reached.clear()
        self._released.clear()

    def release(self) -> None:
        self._released.set()

    def wait(self) -> None:
        self.reached.set()
        assert self._released.wait(PATIENCE)

    def write(self, descriptor: int, data: bytes) -> int:
        if threading.current_thread().name != "otel-sessions sink":
            return self._write(descriptor, data)
        if not self._released.is_set():
            self.wait()
        self.writes += 1
        if self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if self.answers:
            data = data[: self.answers.popleft()]
        return self._write(descriptor, data)

    def hanging(self) -> AbstractContextManager[None]:
        """Hang until the block is left."""
        disk = self

        class Hanging(AbstractContextManager[None]):
            def __enter__(self) -> None:
                disk.hang()

            def __exit__(
                self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
            ) -> None:
                disk.release()

        return Hanging()


def replace_disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    disk = Disk(os.write)
    monkeypatch.setattr(os, "write", disk.write)
    return disk


def records_in(*paths: Path) -> list[Record]:
    """Return all records in files, in the order of the paths."""
    found = []
    for path in paths:
        with path.open("rb") as file:
            found += [item for item in read_records(file) if isinstance(item, Record)]
    return found


def rotated(path: Path) -> list[Path]:
    """Return the files of a sink, the oldest first."""
    older = [other for other in path.parent.glob(f"{path.name}.*") if other.suffix[1:].isdecimal()]
    return [*sorted(older, key=lambda other: -int(other.suffix[1:])), path]


async def nothing_waits(sink: "JsonLinesSink[None]") -> None:
    """Return once the writer, which has a real disk and so real time, has nothing left to do."""
    await until(lambda: not sink.waiting)


async def until(condition: Callable[[], bool]) -> None:
    """Wait, on a thread, for what another thread brings about."""

    def wait() -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.001)

    await anyio.to_thread.run_sync(wait)
