"""The parent process of several workers: it forks them, replaces the dead, and passes signals on.

It serves no request and has no event loop, so that a worker begins with a clean process. Each worker has a process
group of its own: a terminal's Ctrl-C reaches the parent only, which passes it on once.
"""

import logging
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType
from typing import Final

from otel_sessions._core.events import Event
from otel_sessions._program.signals import ending

_logger = logging.getLogger("otel_sessions.proxy")

COULD_NOT_START: Final = 2
"""The exit status of a process that could not start. The process has said why."""
_SHORTEST_LIFE: Final = 1.0
"""Seconds between two starts of a worker."""
_LOOK_SECONDS: Final = 0.5
_MARGIN_SECONDS: Final = 10.0
"""What a worker may take beyond its time for the shutdown: connections close, telemetry is flushed."""

Work = Callable[[int], int]
"""What a worker does: it gets the end of a pipe that is closed when the parent is gone, and returns an exit status."""


@dataclass(kw_only=True)
class _Worker:
    """One of the workers, over all its lives."""

    number: int
    work: Work
    pid: int | None = None
    started: float = -_SHORTEST_LIFE
    lives: int = 0


class Parent:
    """Runs a process for each of `works`. `patience` is in seconds: the time that a worker has to shut down."""

    def __init__(self, works: Sequence[Work], patience: float, on_ending: Callable[[], None]) -> None:
        self._workers = [_Worker(number=number, work=work) for number, work in enumerate(works, 1)]
        self._patience = patience + _MARGIN_SECONDS
        self._on_ending = on_ending
        self._lifeline, self._own_end = os.pipe()
        self._told: list[int] = []
        self._interrupts = 0
        self._deadline: float | None = None
        self._status = 0

    def run(self) -> int:
        """Run the workers until a signal, or until one cannot start. Return the exit status."""
        with self._signals_noted() as wakeups:
            while self._deadline is None or self._living():
                self._start_due()
                select.select([wakeups], [], [], _LOOK_SECONDS)
                with suppress(BlockingIOError):
                    wakeups.recv(4096)
                while self._told:
                    self._pass_on(self._told.pop(0))
                self._bury()
                if self._deadline is not None and time.monotonic() > self._deadline:
                    self._kill()
        return self._status

    def _living(self) -> list[_Worker]:
        return [worker for worker in self._workers if worker.pid is not None]

    # Starting

    def _start_due(self) -> None:
        """Start the workers that have no process, each once a second at most."""
        for worker in self._workers if self._deadline is None else ():
            now = time.monotonic()
            if worker.pid is None and now - worker.started >= _SHORTEST_LIFE:
                worker.started, worker.lives = now, worker.lives + 1
                worker.pid = self._fork(worker)

    def _fork(self, worker: _Worker) -> int:
        signals = set(ending())
        signal.pthread_sigmask(signal.SIG_BLOCK, signals)  # else the child could swallow a signal as its parent
        try:
            pid = os.fork()
            if not pid:
                self._be(worker)
            return pid
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)

    def _be(self, worker: _Worker) -> None:
        """Be a worker, in the child. Never returns."""
        status = 1
        try:
            os.setpgid(0, 0)
            os.close(self._own_end)
            signal.set_wakeup_fd(-1)
            for each in ending():
                signal.signal(each, signal.SIG_DFL)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, set(ending()))
            status = worker.work(self._lifeline)
        except BaseException as error:
            _logger.error("worker %d has failed", worker.number, exc_info=error, extra=Event.PROXY_WORKER_ENDED.extra)
        finally:
            logging.shutdown()
            os._exit(status)

    # Ending

    def _bury(self) -> None:
        """Note the workers that have ended. Those that could not start at first end all, the others start again."""
        for worker in self._living():
            pid, state = os.waitpid(worker.pid or 0, os.WNOHANG)
            if not pid:
                continue
            worker.pid = None
            status = os.waitstatus_to_exitcode(state)
            if self._deadline is not None:
                continue
            if status == COULD_NOT_START and worker.lives == 1:
                self._status = status
                self._end(signal.SIGTERM)
                continue
            _logger.warning(
                "worker %d has ended (%s), and its sessions with it; it is started again",
                worker.number,
                f"signal {-status}" if status < 0 else f"status {status}",
                extra=Event.PROXY_WORKER_ENDED.extra,
            )

    def _pass_on(self, number: int) -> None:
        self._interrupts += number in (signal.SIGINT, signal.SIGTERM)
        if self._interrupts > 1:
            self._status = 128 + number
        if self._deadline is None or self._interrupts > 1:
            self._end(number)

    def _end(self, number: int) -> None:
        """Tell all workers to end. A worker that is stopped goes on, so that it can end in order."""
        if self._deadline is None:
            self._on_ending()
            self._deadline = time.monotonic() + self._patience
        self._send(number)
        self._send(signal.SIGCONT)

    def _kill(self) -> None:
        for worker in self._living():
            _logger.error("worker %d does not end; it is killed", worker.number, extra=Event.PROXY_WORKER_ENDED.extra)
        self._status = self._status or 1
        self._send(signal.SIGKILL)

    def _send(self, number: int) -> None:
        for worker in self._living():
            with suppress(ProcessLookupError):
                os.kill(worker.pid or 0, number)

    @contextmanager
    def _signals_noted(self) -> Iterator[socket.socket]:
        """Note the signals that end a program, and wake up for them and for the end of a worker."""
        reading, writing = socket.socketpair()
        reading.setblocking(False)
        writing.setblocking(False)
        numbers = (*ending(), signal.SIGCHLD)
        before = {number: signal.signal(number, self._note) for number in numbers}
        woken_before = signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
        try:
            yield reading
        finally:
            signal.set_wakeup_fd(woken_before)
            for number, handler in before.items():
                signal.signal(number, handler)
            reading.close()
            writing.close()
            os.close(self._lifeline)
            os.close(self._own_end)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if number != signal.SIGCHLD:
            self._told.append(number)
