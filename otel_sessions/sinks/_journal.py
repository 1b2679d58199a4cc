"""A file to which lines are appended. It is rotated by size, and made again after it was moved or removed.

A crash or a full disk may tear a line. The next line then starts on a fresh line, so it never joins the torn line. No
file is ever cut. All calls wait for the disk, so they belong on a thread of their own.
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
    """Appends lines to the file at `path`.

    Before the file passes `max_bytes`, it moves to `path.1`. The old `path.1` moves to `path.2`, up to `path.keep`.
    """

    def __init__(self, path: Path, *, max_bytes: int, keep: int) -> None:
        self.path = path
        self._max_bytes = max_bytes
        self._keep = keep
        self._descriptor: int | None = None
        self._torn = False

    def open(self) -> None:
        """Open the file, made if it is missing, and lock it. Raises `OSError`, also if another sink holds the lock."""
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
        """Write as many of the first lines as the file takes in one write. Return the number of lines written.

        Raises `OSError` if no line was written whole; the file may then end with a part of a line.
        """
        try:
            return self._append(lines)
        except BaseException:
            self.close()  # opening the file again finds out its state
            raise

    def close(self) -> None:
        """Close the file. Raises `OSError` if the disk has lost bytes that it had taken."""
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
        whole = bisect_right(ends, written + 1)  # the next write completes a line that lacks only its line end
        if not whole:
            raise OSError(errno.ENOSPC, "Only a part of a line could be written", str(self.path))
        return whole

    def _current(self) -> tuple[int, int]:
        """Return the descriptor and the size of the file at `path`. Open the file if it is not the open file."""
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
        """Move every file one place up, as far as the first free place, and begin a new file. Can be repeated."""
        free = next((place for place in range(1, self._keep) if not self._older(place).exists()), self._keep)
        for place in range(free, 1, -1):
            self._older(place - 1).replace(self._older(place))
        self.path.replace(self._older(1))
        self.open()

    def _older(self, place: int) -> Path:
        return Path(f"{self.path}.{place}")


def _lock(descriptor: int, path: Path) -> None:
    from fcntl import LOCK_EX, LOCK_NB, flock  # not on Windows, where the package can still be imported

    try:
        flock(descriptor, LOCK_EX | LOCK_NB)
    except BlockingIOError as error:
        raise BlockingIOError(error.errno, "Another sink writes to this file", str(path)) from None
    except OSError:  # a file system without locks
        pass
