"""Processes that tests start, on loopback, and that nothing leaves behind."""

import atexit
import contextlib
import itertools
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import httpx2
import psutil
import pytest

from .waiting import PATIENCE

ROOT: Final = Path(__file__).parents[1]
HOST: Final = "127.0.0.1"


_PORTS: Final = range(10_000, 20_000)
"""Systems give no connection such a port by themselves, nor the port 10,000 higher, where a node of a cluster talks."""
_CLAIMS: Final = deque[socket.socket]()
_MOST_CLAIMS: Final = 400


@atexit.register
def _give_claims_back() -> None:
    while _CLAIMS:
        _CLAIMS.pop().close()


def free_port() -> int:
    """Return a port that is free, and that no other process of any tests gets.

    The claim to a port is the UDP port of the same number, which this process keeps.
    """
    for port in itertools.islice(itertools.cycle(_PORTS), secrets.randbelow(len(_PORTS)), None):
        claim = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            claim.bind((HOST, port))
            socket.create_server((HOST, port)).close()
        except OSError:
            claim.close()
            continue
        _CLAIMS.append(claim)
        if len(_CLAIMS) > _MOST_CLAIMS:
            _CLAIMS.popleft().close()
        return port
    raise AssertionError("never reached")


class Running:
    """A process in a session of its own, and the file that has everything it said."""

    def __init__(self, command: list[str], log: Path, environ: Mapping[str, str]) -> None:
        self.log: Final = log
        self._command = command
        self._environ = {**clean_environ(), **environ}
        self._leaders: list[int] = []
        self.process = self._start()

    def terminate(self) -> int:
        """Tell it to stop, and return its exit status; kill it, and fail, if it does not stop."""
        self.process.terminate()
        return self.end()

    def end(self) -> int:
        """Wait for its end, and return its exit status; kill it, and fail, if the end does not come."""
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.kill()
            pytest.fail(f"{self._command} did not stop; it said:\n{self.said()}")

    def kill(self) -> None:
        """Kill the process alone. What it has started goes on for now."""
        self.process.kill()
        self.process.wait()

    def kill_all(self) -> None:
        """Kill the process and all that it has started, also what is stopped, or has a process group of its own."""
        self.kill()
        for leader in self._leaders:
            kill_session(leader)

    def pause(self) -> None:
        """Make it accept connections and never answer."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def restart(self) -> None:
        self.kill()
        self.process = self._start()

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def _start(self) -> "subprocess.Popen[bytes]":
        with self.log.open("ab") as output:
            process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self._environ,
                cwd=ROOT,
                start_new_session=True,
            )
        self._leaders.append(process.pid)
        return process


def kill_session(leader: int) -> None:
    """Kill every process of a session until none is left: one may start another meanwhile."""
    while members := [process for process in psutil.process_iter() if _is_in(process, leader)]:
        for process in members:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(members, timeout=1.0)


def _is_in(process: psutil.Process, leader: int) -> bool:
    """Return whether a process of a session runs. Nobody may wait for a dead one where no init process does."""
    with contextlib.suppress(psutil.Error, OSError):
        return os.getsid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE
    return False


@contextlib.contextmanager
def running(
    name: str, command: list[str], folder: Path, environ: Mapping[str, str] | None = None
) -> Iterator[Running]:  # only read
    """Run a program for as long as the block lasts, without the environment's own OTEL variables.

    What the program has started ends with the block, too.
    """
    process = Running(command, folder / f"{name}.log", environ or {})
    try:
        yield process
    finally:
        process.kill_all()


@contextlib.contextmanager
def running_module(module: str, folder: Path, *arguments: str, name: str = "", **environ: str) -> Iterator[Running]:
    """The same for a module of ours, or of these tests."""
    package = "tests" if module.startswith(("stack.", "proxy.origin")) else "otel_sessions"
    command = [sys.executable, "-m", f"{package}.{module}", *arguments]
    with running(name or module, command, folder, environ) as process:
        yield process


@contextlib.contextmanager
def killed_late(process: "subprocess.Popen[str]", seconds: float = PATIENCE) -> Iterator[None]:
    """Kill a process at the end of the block, and after so many seconds, so that reading from it ends at last."""
    late = threading.Timer(seconds, process.kill)
    late.start()
    try:
        yield
    finally:
        late.cancel()
        process.kill()


def clean_environ() -> dict[str, str]:
    """Return the environment without its OTEL variables, and with compiled code kept in a folder of the tests.

    Where the environment forbids to keep any, compilation is most of what a short process costs.
    """
    kept = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(ROOT / "build" / "bytecode")}
    return {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")} | kept


def until_listens(port: int, process: Running) -> None:
    """Wait until somebody listens."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and process.process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection((HOST, port), 1.0):
            return
        time.sleep(0.1)
    pytest.fail(f"nobody listens on port {port}; the program said:\n{process.said()}", pytrace=False)


def until_answers(url: str, process: Running, *, status: int = 200) -> None:
    """Wait until a URL answers as it should."""
    end = time.monotonic() + PATIENCE
    with httpx2.Client(trust_env=False, timeout=PATIENCE) as http:
        while time.monotonic() < end:
            if process.process.poll() is not None:
                break
            with contextlib.suppress(httpx2.HTTPError):
                if http.get(url, timeout=PATIENCE).status_code == status:
                    return
            time.sleep(0.1)
    pytest.fail(f"{url} does not answer; its program said:\n{process.said()}", pytrace=False)
