"""The CPU time of a process with its children, in nanoseconds: the kernel's own count where it shows one.

Linux counts for each thread, in /proc/PID/task/TID/schedstat. Elsewhere it is what psutil says, often in ticks of
10 ms. A reading is kept for each thread (or process), since threads come and go; what one that ended has spent since
the last reading is lost.
"""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import psutil

Reading = dict[int, int]
"""Nanoseconds by thread, or by process."""


class CpuClock(Protocol):
    name: str

    def read(self, process: psutil.Process) -> Reading:
        """Return what the threads of a process and of its children have spent."""


class Schedstat:
    name = "nanoseconds of the scheduler (/proc/PID/task/TID/schedstat)"

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._proc = proc

    def read(self, process: psutil.Process) -> Reading:
        spent: Reading = {}
        for one in (process, *process.children(recursive=True)):
            for thread in (self._proc / str(one.pid) / "task").glob("*"):  # none, if the process has ended since
                with suppress(FileNotFoundError, ProcessLookupError):  # the thread has
                    spent[int(thread.name)] = int((thread / "schedstat").read_text().split()[0])
        return spent


class Ticks:
    name = "psutil's CPU times, often in ticks of 10 ms: /proc/PID/task/TID/schedstat is not here"

    def read(self, process: psutil.Process) -> Reading:
        times = {one.pid: one.cpu_times() for one in (process, *process.children(recursive=True))}
        return {pid: round((time.user + time.system) * 1e9) for pid, time in times.items()}


def cpu_clock(proc: Path = Path("/proc")) -> CpuClock:
    """Return the finest clock that is here. A kernel that was told not to count shows zeros."""
    own = proc / "self" / "schedstat"
    return Schedstat(proc) if own.exists() and int(own.read_text().split()[0]) else Ticks()


def spent(before: Mapping[int, int], after: Mapping[int, int]) -> float:
    """Return the seconds between two readings."""
    return sum(now - before.get(thread, 0) for thread, now in after.items()) / 1e9
