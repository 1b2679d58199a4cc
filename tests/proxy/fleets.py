"""Several proxies that know each other by a file."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

from tests.processes import HOST, free_port

from .conftest import Proxy, start_proxy

Fleet = dict[str, Proxy]


@contextlib.contextmanager
def start_fleet(
    folder: Path, upstream: str, names: tuple[str, ...] = ("w1", "w2"), *flags: str, scheme: str = "http"
) -> Iterator[Fleet]:
    """Start a proxy for each name, which know each other by a file."""
    ports = {name: free_port() for name in names}
    file, secret = folder / "peers", folder / "secret"
    file.write_text("".join(f"{name}={scheme}://{HOST}:{port}\n" for name, port in ports.items()))
    secret.write_text("a secret of the whole fleet\n")
    common = ("--peers-file", str(file), "--peer-secret-file", str(secret), *flags)
    with contextlib.ExitStack() as started:
        fleet = {}
        for name, port in ports.items():
            own = ("--peer-name", name, "--peer-listen", f"{HOST}:{port}")
            fleet[name] = started.enter_context(start_proxy(folder, upstream, *common, *own))
        yield fleet


@contextlib.contextmanager
def start_crosswise(folder: Path, upstream: str, *flags: str) -> Iterator[Proxy]:
    """Start two proxies behind a balancer: one of them opens all sessions, all that follows comes to the other one."""
    with start_fleet(folder, upstream, ("w1", "w2"), *flags) as fleet, socket.create_server((HOST, 0)) as listener:
        ports = [int(fleet[name].url.rpartition(":")[2]) for name in ("w1", "w2")]
        threading.Thread(target=_balance, args=(listener, *ports), daemon=True).start()
        owner = fleet["w1"]
        yield Proxy(url=f"http://{HOST}:{listener.getsockname()[1]}", health=owner.health, process=owner.process)
        assert fleet["w2"].said_of_itself()["created"] == 0
        listener.shutdown(socket.SHUT_RDWR)


def _balance(listener: socket.socket, opens: int, follows: int) -> None:
    """Serve each request on a connection of its own."""
    while True:
        try:
            client, _ = listener.accept()
        except OSError:  # the test is over
            return
        threading.Thread(target=_relay, args=(client, opens, follows), daemon=True).start()


def _relay(client: socket.socket, opens: int, follows: int) -> None:
    said = b""
    with client, contextlib.suppress(OSError):
        while b"\r\n\r\n" not in said:
            part = client.recv(65536)
            if not part:
                return
            said += part
        head, _, rest = said.partition(b"\r\n\r\n")
        lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"connection:")]
        port = follows if b"\r\nmcp-session-id:" in head.lower() else opens
        with socket.create_connection((HOST, port)) as behind:
            behind.sendall(b"\r\n".join([*lines, b"connection: close"]) + b"\r\n\r\n" + rest)
            threading.Thread(target=_pump, args=(client, behind), daemon=True).start()
            _pump(behind, client)


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
