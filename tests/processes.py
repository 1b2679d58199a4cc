"""Processes that tests start, on loopback, and that nothing leaves behind."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import httpx2
import pytest

from .waiting import PATIENCE

ROOT: Final = Path(__file__).parents[1]
HOST: Final = "127.0.0.1"


def free_port() -> int:
    with socket.create_server((HOST, 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


class Running:
    """A process, and the file that has everything it said."""

    def __init__(self, command: list[str], log: Path, environ: Mapping[str, str]) -> None:
        self.log: Final = log
        self._command = command
        self._environ = {**clean_environ(), **environ}
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
        self.process.kill()
        self.process.wait()

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
            return subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=self._environ, cwd=ROOT
            )


@contextlib.contextmanager
def running(
    name: str, command: list[str], folder: Path, environ: Mapping[str, str] | None = None
) -> Iterator[Running]:  # only read
    """Run a program for as long as the block lasts, without the environment's own OTEL variables."""
    process = Running(command, folder / f"{name}.log", environ or {})
    try:
        yield process
    finally:
        process.resume()
        process.kill()


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
    with httpx2.Client(trust_env=False) as http:
        while time.monotonic() < end:
            if process.process.poll() is not None:
                break
            with contextlib.suppress(httpx2.HTTPError):
                if http.get(url, timeout=PATIENCE).status_code == status:
                    return
            time.sleep(0.1)
    pytest.fail(f"{url} does not answer; its program said:\n{process.said()}", pytrace=False)
