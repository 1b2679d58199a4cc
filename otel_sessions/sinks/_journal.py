"""A file that lines are appended to: rotated by size, and found again after it was moved or removed.

A line that is torn, by a crash or a full disk, is never joined by another: the next one starts on a fresh line. Nothing
is ever cut from a file. All calls wait for the disk, so they belong on a thread of their own.
"""

import errno
import os
import stat
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

_OWN_FILE = 0o600
_OWN_FOLDER = 0o700


class Journal:
    """Appends to `path`; what would pass `max_bytes` moves it to `path.1`, that to `path.2`, up to `path.keep`."""

    def __init__(self, path: Path, *, max_bytes: int, keep: int) -> None:
        self.path = path
        self._max_bytes = max_bytes
        self._keep = keep
        self._descriptor: int | None = None
        self._torn = False

    def open(self) -> None:
        """Open the file, made where it is missing, and lock it. Raises `OSError`, also where another one holds it."""
        descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOCTTY, _OWN_FILE)
        try:
            state = os.fstat(descriptor)
            if not stat.S_ISREG(state.st_mode):
                raise OSError(errno.EINVAL, "Not a regular file", str(self.path))
            _lock(descriptor, self.path)
            self._torn = state.st_size > 0 and os.pread(descriptor, 1, state.st_size - 1) != b"\n"
        except BaseException:
            os.close(descriptor)
            raise
        before, self._descriptor = self._descriptor, descriptor
        if before is not None:
            os.close(before)

    def append(self, lines: Sequence[bytes]) -> int:
        """Write as many of the lines, from the first on, as one file takes in one write, and return how many.

        Raises `OSError` if not one was written whole; a part of it may stand in the file then.
        """
        try:
            return self._append(lines)
        except BaseException:
            self.close()  # whatever state it is in, opening it anew finds out
            raise

    def close(self) -> None:
        """Let go of the file. Raises `OSError` where the disk has lost something that it had taken."""
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            os.close(descriptor)

    def _append(self, lines: Sequence[bytes]) -> int:
        descriptor, size = self._current()
        if size and size + self._torn + len(lines[0]) > self._max_bytes:
            self._rotate()
            descriptor, size = self._current()
        start = b"\n" if self._torn else b""
        ends = list(accumulate(len(line) for line in lines))
        fitting = max(1, bisect_right(ends, self._max_bytes - size - len(start)))
        written = os.write(descriptor, start + b"".join(lines[:fitting])) - len(start)
        self._torn = False
        if written < ends[fitting - 1]:
            self.close()
        whole = bisect_right(ends, written + 1)  # one that lacks nothing but its end is finished by the next
        if not whole:
            raise OSError(errno.ENOSPC, "Only a part of a line could be written", str(self.path))
        return whole

    def _current(self) -> tuple[int, int]:
        """Return the file that stands under the path, opened if it is not the one we know, and its size."""
        if self._descriptor is not None:
            try:
                if os.path.samestat(self.path.stat(), state := os.fstat(self._descriptor)):
                    return self._descriptor, state.st_size
            except FileNotFoundError:
                pass
        try:
            self.open()
        except FileNotFoundError:
            self.path.parent.mkdir(_OWN_FOLDER, parents=True, exist_ok=True)
            self.open()
        assert self._descriptor is not None
        return self._descriptor, os.fstat(self._descriptor).st_size

    def _rotate(self) -> None:
        """Move every file one place up, as far as the first free one, and begin a new one. Can be done again."""
        free = next((place for place in range(1, self._keep) if not self._older(place).exists()), self._keep)
        for place in range(free, 1, -1):
            self._older(place - 1).replace(self._older(place))
        self.path.replace(self._older(1))
        self.open()

    def _older(self, place: int) -> Path:
        return Path(f"{self.path}.{place}")


def _lock(descriptor: int, path: Path) -> None:
    from fcntl import LOCK_EX, LOCK_NB, flock  # not on Windows, where the rest of the package can be imported

    try:
        flock(descriptor, LOCK_EX | LOCK_NB)
    except BlockingIOError as error:
        raise BlockingIOError(error.errno, "Another sink writes to this file", str(path)) from None
    except OSError:  # a file system without locks
        pass
