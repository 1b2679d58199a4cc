"""What one process has done, one line for each event. A line that was written survives `kill -9`.

All processes of a machine share the monotonic clock, so the times of several journals can be compared.
"""

import os
import time
from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class Kind(StrEnum):
    """What can happen."""

    ASKED = "asked"
    """The load is about to make a session."""
    MADE = "made"
    """The session was acknowledged."""
    REFUSED = "refused"
    SERVED = "served"
    """The process had the session. The time is from before the look."""
    BLIND = "blind"
    """The process has the session, and must not serve it now."""
    ENDED = "ended"
    """The close hook was called. The detail is the reason."""
    ORPHAN = "orphan"
    """The hook for orphans was called. The detail is the token."""
    CLEANED = "cleaned"
    """The hook for orphans has returned."""
    READY = "ready"
    """The process runs its load."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One event. `at` is the monotonic clock in nanoseconds."""

    at: int
    kind: Kind
    session: str
    detail: str


class Journal:
    """Writes events, each with one system call."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def note(self, kind: Kind, session: str = "-", detail: object = "-", at: int | None = None) -> None:
        when = time.monotonic_ns() if at is None else at
        os.write(self._file, f"{when} {kind} {session} {detail}\n".encode())


class Reading:
    """Reads a journal while its process writes it. `entries` has what was read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._place = 0
        self.entries: list[Entry] = []
        self.counts = Counter[Kind]()

    def refresh(self) -> None:
        """Read what was written since the last time."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._place)
            text = file.read()
        text = text[: text.rfind(b"\n") + 1]
        self._place += len(text)
        for line in text.decode().splitlines():
            at, kind, session, detail = line.split(" ")
            self.entries.append(Entry(at=int(at), kind=Kind(kind), session=session, detail=detail))
            self.counts[Kind(kind)] += 1

    def sessions(self, kind: Kind) -> set[str]:
        """Return the sessions to which something has happened."""
        return {entry.session for entry in self.entries if entry.kind is kind}
