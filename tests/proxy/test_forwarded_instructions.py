"""How much two proxies do together for a request, counted in instructions, which no load on the machine changes."""

import socket
import sys
from contextlib import ExitStack, closing
from itertools import repeat
from pathlib import Path

import pytest

from tests.processes import HOST, Running, free_port, running, until_listens

from . import instructions
from .instructions import POST_IN_SESSION, VALGRIND

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(VALGRIND is None, reason="needs valgrind: apt-get install valgrind"),
]

MOST_FORWARDED = 445_000
"""Instructions of both processes for a POST of 200 bytes at the process that is not its session's owner."""


class Fleet:
    """Two proxies under callgrind. `w1` has a session."""

    def __init__(self, folder: Path, upstream: str, exits: ExitStack) -> None:
        ports = {name: (free_port(), free_port()) for name in ("w1", "w2")}
        secret = folder / "secret"
        secret.write_text("a secret of the whole fleet\n")
        common = ["--upstream", upstream, "--peer-secret-file", str(secret)]
        for name, (_, private) in ports.items():
            common += ["--peers", f"{name}=http://{HOST}:{private}"]
        self._processes: list[Running] = []
        self.clients: dict[str, socket.socket] = {}
        for name, (port, private) in ports.items():
            command = [str(VALGRIND), "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={folder}/{name}"]
            command += [sys.executable, "-m", "otel_sessions.cli", "proxy", *common]
            command += ["--listen", f"{HOST}:{port}", "--peer-name", name, "--peer-listen", f"{HOST}:{private}"]
            process = exits.enter_context(running(f"callgrind-{name}", command, folder, {"PYTHONHASHSEED": "0"}))
            until_listens(port, process)
            self.clients[name] = exits.enter_context(closing(socket.create_connection((HOST, port))))
            self._processes.append(process)
        self._session = instructions._opened(self.clients["w1"])

    def instructions(self, name: str) -> float:
        """Return how many instructions both execute for a request at a process. Ends the processes."""
        client, request = self.clients[name], POST_IN_SESSION.raw(self._session, 0)
        instructions._ask(client, repeat(request, instructions._BEFORE))
        for process in self._processes:
            instructions._count("on", process.process.pid)
        instructions._ask(client, repeat(request, instructions._COUNTED))
        for process in self._processes:
            instructions._count("off", process.process.pid)
        counted = 0
        for process in self._processes:
            process.terminate()
            found = instructions._COLLECTED.search(process.said())
            assert found is not None, process.said()
            counted += int(found[1])
        return counted / instructions._COUNTED


def test_a_forwarded_small_post_takes_no_more_instructions_than_it_may(tmp_path: Path) -> None:
    with instructions._upstream() as upstream, ExitStack() as exits:
        assert Fleet(tmp_path, upstream, exits).instructions("w2") <= MOST_FORWARDED
