"""The processes that the demo starts, and the ports that they listen on.

This module binds a port and hands the socket over. So the port is known to be free before a process starts, and an
early request waits instead of failing. When the block of `running` is left, in whatever way, no process remains.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Final

HOST: Final = "127.0.0.1"
_STOP_SECONDS: Final = 15.0
_OF_ONE_PROXY: Final = ("OTEL_SESSIONS_PROXY_", "OTEL_SESSIONS_ADMIN_", "OTEL_SESSIONS_FLEET_")
_STDERR_LINES: Final = 20
"""The number of latest lines of a process's stderr that are kept."""


def url_of(listener: socket.socket) -> str:
    return f"http://{HOST}:{listener.getsockname()[1]}"


class Child:
    """A process that serves on a socket.

    `lines` is the number of lines that the process has written to stdout. `last_line` is the latest line, or None.
    `stderr_tail` has the latest lines on stderr: written at once, they would spoil the view.
    """

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.last_line: str | None = None
        self.lines = 0
        self.stderr_tail: Final[deque[str]] = deque(maxlen=_STDERR_LINES)
        self._process = process
        self._asked = False
        assert process.stdout is not None
        assert process.stderr is not None
        self._readers = [
            threading.Thread(target=self._keep_latest, args=[process.stdout], daemon=True),
            threading.Thread(target=self.stderr_tail.extend, args=[_lines(process.stderr)], daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    @property
    def ended_well(self) -> bool:
        return self._process.poll() == 0

    @property
    def killed(self) -> bool:
        """Whether the process was killed from outside, as the system does when memory runs out."""
        return self._process.poll() == -signal.SIGKILL and not self._asked

    def ask_to_stop(self) -> None:
        """Tell the process to stop, only once: a second signal would end the process at once."""
        if not self._asked and not self.ended:
            self._asked = True
            self._process.terminate()

    def kill(self) -> None:
        """Kill the process at once. It gets no chance to put anything in order."""
        self._process.kill()

    def stop(self) -> None:
        """Tell the process to stop, and wait. Kill the process if it does not stop within `_STOP_SECONDS`."""
        self.ask_to_stop()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.stderr_tail.append(f"killed: the process had not stopped after {_STOP_SECONDS:g} s")
        finally:
            self._process.kill()  # does nothing if the process has stopped
            self._process.wait()
        for reader in self._readers:
            reader.join()

    def _keep_latest(self, stdout: IO[str]) -> None:
        for line in _lines(stdout):
            self.last_line = line
            self.lines += 1


@contextmanager
def running(
    module: str, listener: socket.socket, *arguments: str, environ: Mapping[str, str] | None = None
) -> Iterator[Child]:
    """Run a module of this package during the block. The module takes over `listener`.

    The process has its own session, so that Ctrl-C reaches only the parent, and the process is stopped in order.
    """
    descriptor = listener.fileno()
    with listener:
        process = subprocess.Popen(
            [sys.executable, "-m", f"{__package__}.{module}", "--descriptor", str(descriptor), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            pass_fds=[descriptor],
            start_new_session=True,
            env={**_inherited_environ(), **(environ or {})},
        )
    with process:
        child = Child(process)
        try:
            yield child
        finally:
            child.stop()


def _inherited_environ() -> dict[str, str]:
    """Return this process's environment without the proxy's own settings.

    These settings are for a single proxy: two proxies cannot share an address or a file of records.
    """
    return {name: value for name, value in os.environ.items() if not name.startswith(_OF_ONE_PROXY)}


def _lines(stream: IO[str]) -> Iterator[str]:
    """Yield the lines as they come, without their ends. A line that the process's end has cut off is dropped."""
    return (line[:-1] for line in stream if line.endswith("\n"))
