"""How many instructions the proxy executes for a request, as callgrind counts them: no other program changes the count.

`python -m tests.proxy.instructions` prints the count of each kind of request.
"""

import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tests.processes import HOST, ROOT, clean_environ, free_port, killed_late, running, until_listens
from tests.waiting import PATIENCE

VALGRIND: Final = shutil.which("valgrind")
_COLLECTED: Final = re.compile(r"Collected : (\d+)")
_BEFORE, _COUNTED = 150, 300
"""How many requests come before the count, to fill caches and free lists, and how many are counted."""
_TEXT: Final = b'{"jsonrpc":"2.0","id":1,"method":"tools/call"}'
_HEADERS: Final = (
    b"Host: 127.0.0.1:8080\r\nAccept: application/json, text/event-stream\r\nAccept-Encoding: gzip\r\n"
    b"Connection: keep-alive\r\nUser-Agent: test\r\n"
)
_EVENTS: Final = b"/events"
_STREAM: Final = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)
_DATA: Final = b'data: {"id":"chatcmpl-1","choices":[{"index":0,"delta":{"content":" token"}}]}\n\n'
_EVENT: Final = b"%x\r\n%b\r\n" % (len(_DATA), _DATA)
_OPENING: Final = b'{"jsonrpc":"2.0","id":0,"method":"initialize"}'


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of request: its method, the bytes of its body, and whether it is in a session.

    The head of each request is that of the one before, or is `traced`: then a header has another value each time.
    """

    method: str
    body: int
    in_session: bool
    traced: bool = False

    def raw(self, session_id: str, number: int) -> bytes:
        body = _TEXT.ljust(self.body) if self.body else b""
        said = f"Mcp-Session-Id: {session_id}\r\n" if self.in_session else "Mcp-Protocol-Version: 2026-07-28\r\n"
        if self.traced:
            said += f"Traceparent: 00-{number:032x}-{number:016x}-01\r\n"
        return _request(self.method, said, body)


POST_IN_SESSION: Final = Kind(method="POST", body=200, in_session=True)
POST_TRACED: Final = Kind(method="POST", body=200, in_session=True, traced=True)
POST_OUTSIDE: Final = Kind(method="POST", body=200, in_session=False)
GET_IN_SESSION: Final = Kind(method="GET", body=0, in_session=True)
GET_OUTSIDE: Final = Kind(method="GET", body=0, in_session=False)


def instructions(kind: Kind, *flags: str) -> float:
    """Return how many instructions the proxy executes for a request of a kind.

    The count begins when the proxy has answered some requests of this kind, and ends before the proxy does. Skips the
    test if callgrind cannot be told so, since that takes a system that lets it trace processes.
    """

    def ask(client: socket.socket, session_id: str) -> Iterator[None]:
        requests = [kind.raw(session_id, number) for number in range(1, _BEFORE + _COUNTED + 1)]
        _ask(client, requests[:_BEFORE])
        yield
        _ask(client, requests[_BEFORE:])

    with _upstream() as upstream:
        return _counted(upstream, ask, flags)


def instructions_of_an_event(*flags: str) -> float:
    """Return how many instructions the proxy executes for an event of a stream in a session.

    The upstream sends the next event when the client has read the last one. So each event comes alone.
    """
    asked = threading.Semaphore(0)

    def read(client: socket.socket, session_id: str) -> Iterator[None]:
        client.sendall(_request("GET", f"Mcp-Session-Id: {session_id}\r\n", b"", _EVENTS))
        _read_events(client, asked, _BEFORE)
        yield
        _read_events(client, asked, _COUNTED)

    with _upstream(asked) as upstream:
        return _counted(upstream, read, flags)


def _counted(upstream: str, use: Callable[[socket.socket, str], Iterator[None]], flags: Sequence[str]) -> float:
    """Return what `use` costs the proxy a time, behind the point where it yields. It gets a client and a session."""
    assert VALGRIND is not None
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        command = [VALGRIND, "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={folder}/out"]
        command += [sys.executable, "-m", "otel_sessions.cli", "proxy"]
        command += ["--upstream", upstream, "--listen", f"{HOST}:{port}", *flags]
        with running("callgrind", command, Path(folder), {"PYTHONHASHSEED": "0"}) as process:
            until_listens(port, process)
            with closing(socket.create_connection((HOST, port))) as client:
                using = use(client, _opened(client))
                next(using)
                _count("on", process.process.pid)
                next(using, None)
                _count("off", process.process.pid)
            process.terminate()
            said = process.said()
    found = _COLLECTED.search(said)
    assert found is not None, said
    return int(found[1]) / _COUNTED


def instructions_of(module: str, *arguments: str, count: int) -> float:
    """Return how many instructions a program executes for each of `count` things that it does for a line on stdin.

    It writes a line once it can begin, and once it has done them. Python's hashes are the same in each run, so the
    number is, too.
    """
    assert VALGRIND is not None
    with tempfile.TemporaryDirectory() as folder:
        command = [VALGRIND, "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={folder}/out"]
        pipe = subprocess.PIPE
        with (
            subprocess.Popen(
                [*command, sys.executable, "-m", module, *arguments],
                env={**clean_environ(), "PYTHONHASHSEED": "0"},
                cwd=ROOT,
                stdin=pipe,
                stdout=pipe,
                stderr=pipe,
                text=True,
            ) as process,
            killed_late(process),
        ):
            assert process.stdout is not None
            assert process.stdin is not None
            process.stdout.readline()
            _count("on", process.pid)
            process.stdin.write("go\n")
            process.stdin.flush()
            process.stdout.readline()
            _count("off", process.pid)
            _, said = process.communicate()
    found = _COLLECTED.search(said)
    assert found is not None, said
    return int(found[1]) / count


def _count(whether: str, pid: int) -> None:
    command = ["callgrind_control", "--instr=" + whether, str(pid)]
    told = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    if told.returncode:
        pytest.skip(f"callgrind cannot be told what to count: {told.stderr}")


def _ask(client: socket.socket, requests: Iterable[bytes]) -> None:
    for request in requests:
        head = _answer_to(client, request)
        assert head.startswith(b"HTTP/1.1 200 "), head


def _read_events(client: socket.socket, asked: threading.Semaphore, count: int) -> None:
    """Ask the upstream for so many events, and read each before the next."""
    held = b""
    for _ in range(count):
        asked.release()
        while not held.endswith(_EVENT):
            data = client.recv(65536)
            assert data, held
            held += data
        held = b""


def _opened(client: socket.socket) -> str:
    head = _answer_to(client, _request("POST", "", _OPENING))
    found = re.search(rb"mcp-session-id: (\S+)", head)
    assert found is not None, head
    return found[1].decode()


def _request(method: str, said: str, body: bytes, target: bytes = b"/mcp") -> bytes:
    length = b"Content-Type: application/json\r\nContent-Length: %d\r\n" % len(body) if body else b""
    return b"%b %b HTTP/1.1\r\n%b%b%b\r\n%b" % (method.encode(), target, _HEADERS, said.encode(), length, body)


def _answer_to(client: socket.socket, request: bytes) -> bytes:
    client.sendall(request)
    return next(_messages(client))


def _messages(connection: socket.socket) -> Iterator[bytes]:
    """Yield each message that comes over a connection, until its end."""
    held = b""
    while data := connection.recv(65536):
        held += data
        head, ended, rest = held.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", head)
        size = int(length[1]) if length else 0
        if ended and len(rest) >= size:
            yield head
            held = rest[size:]


@contextmanager
def _upstream(asked: threading.Semaphore | None = None) -> Iterator[str]:
    """Run an upstream that answers each request at once, with a session's id for those that bring none.

    A stream has an event for each time that `asked` is released.
    """
    asked = asked or threading.Semaphore(0)
    with socket.create_server((HOST, 0)) as listener:
        threading.Thread(target=_serve, args=(listener, asked), daemon=True).start()
        yield f"http://{HOST}:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)


def _serve(listener: socket.socket, asked: threading.Semaphore) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:  # the test is over
            return
        threading.Thread(target=_answer, args=(connection, asked), daemon=True).start()


def _answer(connection: socket.socket, asked: threading.Semaphore) -> None:
    names = b"mcp-session-id: of-the-upstream\r\n"
    with connection, suppress(OSError):  # the proxy breaks a stream off at its end
        for head in _messages(connection):
            if _EVENTS in head:
                connection.sendall(_STREAM)
                while asked.acquire():
                    connection.sendall(_EVENT)
            opens = b"mcp-session-id" not in head.lower() and b"mcp-protocol-version" not in head.lower()
            connection.sendall(
                b"HTTP/1.1 200 OK\r\nServer: test\r\nDate: Sat, 28 Nov 2026 12:00:00 GMT\r\n"
                b"Content-Type: application/json\r\n%bContent-Length: 14\r\n\r\na small answer"
                % (names if opens else b"")
            )


if __name__ == "__main__":
    for name, kind in list(globals().items()):
        if isinstance(kind, Kind) and (len(sys.argv) == 1 or name in sys.argv):
            print(f"{name:<20}{instructions(kind):>10,.0f}", flush=True)  # noqa: T201
    if len(sys.argv) == 1 or "EVENT" in sys.argv:
        print(f"{'EVENT':<20}{instructions_of_an_event():>10,.0f}", flush=True)  # noqa: T201
