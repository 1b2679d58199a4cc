"""What tests can rely on for the servers that they start: ports of their own, and that nothing stays behind."""

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.processes import ROOT, free_port, running
from tests.waiting import until

pytestmark = pytest.mark.processes

STARTS_OTHERS = """
import os, signal, sys, time
pids = []
for number in range(3):
    pid = os.fork()
    if not pid:
        if number == 1:
            os.setpgid(0, 0)  # as the proxy's workers do
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True:
            time.sleep(60)
    pids.append(pid)
os.kill(pids[2], signal.SIGSTOP)
print(*pids, flush=True)
time.sleep(600)
"""


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("how", ["running", "paused", "killed", "started anew"])
def test_what_a_server_has_started_ends_with_the_test(how: str, tmp_path: Path) -> None:
    with running("parent", [sys.executable, "-c", STARTS_OTHERS], tmp_path) as process:
        pids = until(lambda: process.said().split(), lambda said: len(said) == 3)
        match how:
            case "paused":
                process.pause()
            case "killed":
                process.kill()
            case "started anew":
                process.restart()
                pids = until(lambda: process.said().split(), lambda said: len(said) == 6)
        assert all(is_alive(int(pid)) for pid in pids)
    assert not any(is_alive(int(pid)) for pid in pids)


def test_no_two_processes_of_tests_get_the_same_port() -> None:
    """Whether a test has begun to listen there or not."""
    ask = "from tests.processes import free_port; print(*(free_port() for _ in range(150))); input()"
    command = [sys.executable, "-c", ask]
    pipe = subprocess.PIPE
    with (
        subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True) as one,
        subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True) as other,
    ):
        ports = [port for process in (one, other) for port in (process.stdout or sys.stdin).readline().split()]
        ports += [str(free_port()) for _ in range(150)]
        for process in (one, other):
            process.communicate("\n")
    assert len(ports) == len(set(ports)) == 450
