"""Listening sockets, on TCP and on Unix, and how their addresses are written.

The connections of a TCP listener notice that the peer is gone. A Unix listener owns its path: it replaces a path that a
dead process has left behind, and removes its own when it is closed.
"""

import errno
import os
import socket
import stat
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

from otel_sessions._core.exceptions import ConfigError

from .arguments import UNIX, Address
from .flags import naming
from .signals import interruptible

_BACKLOG: Final = 2048
_PROBES: Final = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}
"""Seconds of silence, seconds between probes, number of probes: a peer that is gone is found within a minute."""
_TAKES_NOTHING_MILLISECONDS: Final = 60_000

WATCHFUL: Final = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    *((socket.IPPROTO_TCP, getattr(socket, name), value) for name, value in _PROBES.items() if hasattr(socket, name)),
]
"""Options of a connection that probes a silent peer, as `setsockopt` takes them."""


class _UnixListener(socket.socket):
    """A listening Unix socket, which removes its path when it is closed, unless the path is another's by then."""

    _made: "tuple[Path, os.stat_result] | None" = None

    def bind_to(self, path: Path) -> None:
        self.bind(str(path))
        self._made = path.absolute(), path.stat()

    def close(self) -> None:
        made, self._made = self._made, None
        if made is not None:
            path, ours = made
            with suppress(OSError):  # before it is closed, as no other path can be the same file until then
                if os.path.samestat(path.lstat(), ours):
                    path.unlink()
        super().close()


def listen(address: Address) -> socket.socket:
    """Return a listening socket. The address `::` takes IPv4 as well as IPv6.

    The connections of a TCP listener send at once, and are dropped when their peer is gone. If the system supports it,
    a connection is also dropped when its peer acknowledges no sent data for a minute. The path of a Unix listener has
    the mode that the process's umask leaves. Raises `OSError` if the address cannot be listened on.
    """
    return _listen_on_path(address) if isinstance(address, Path) else _listen_on_port(address)


def listen_as(flag: str, address: Address) -> socket.socket:
    """Return a listening socket for the address of a flag. Raises `ConfigError`, which names the flag."""
    if isinstance(address, Path) and not hasattr(socket, "AF_UNIX"):
        raise ConfigError(f"{flag} {written(address)}: this system has no Unix sockets")
    with naming(flag, written(address)):
        return listen(address)


def listen_for_each(flag: str, address: Address, count: int) -> list[socket.socket]:
    """Return a listening socket for each of several processes. Raises `ConfigError`, which names the flag.

    On Linux, the system gives each socket of a port the same share of the connections (SO_REUSEPORT). Elsewhere, and at
    a path, all processes have the same socket.
    """
    first = listen_as(flag, address)
    if isinstance(address, Path) or not sys.platform.startswith("linux"):
        return [first] * count
    _, port = first.getsockname()[:2]
    first.close()  # it has made sure that nobody else listens there, which sockets that share a port would not notice
    with naming(flag, written(address)), ExitStack() as opened:
        sockets = [opened.enter_context(_listen_on_port((address[0], port), shared=True)) for _ in range(count)]
        opened.pop_all()
    return sockets


def written(address: Address) -> str:
    """Return an address as people write it, with brackets around an IPv6 address."""
    if isinstance(address, Path):
        return f"{UNIX}{address}"
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def address_of(listener: socket.socket) -> Address:
    """Return the address that a socket listens on, with the port that the system has chosen."""
    name = listener.getsockname()
    if isinstance(name, tuple):
        return name[0], name[1]
    return Path(os.fsdecode(name))


def _listen_on_port(address: tuple[str, int], *, shared: bool = False) -> socket.socket:
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    both = family == socket.AF_INET6 and socket.has_dualstack_ipv6()
    try:
        found = interruptible(lambda: socket.getaddrinfo(*address, family, socket.SOCK_STREAM))
    except UnicodeError:
        raise OSError("a part of the host's name is empty or too long") from None
    listener = socket.create_server(
        found[0][4], family=family, backlog=_BACKLOG, dualstack_ipv6=both, reuse_port=shared
    )
    for option in WATCHFUL:  # accepted connections inherit these options
        listener.setsockopt(*option)
    # asyncio sets TCP_NODELAY only on sockets that it makes. Without it, a body waits 40 ms for an acknowledgement.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _TAKES_NOTHING_MILLISECONDS)
    return listener


def _listen_on_path(path: Path) -> socket.socket:
    listener = _UnixListener(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _locked(path.parent):
            _remove_stale(path)
            listener.bind_to(path)
            listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other processes of ours from the folder's sockets: two that start at once must not both replace a path."""
    import fcntl

    with ExitStack() as opened:
        with suppress(OSError):  # a folder that may only be written to, or a file system without locks
            descriptor = os.open(folder, os.O_RDONLY)
            opened.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield


def _remove_stale(path: Path) -> None:
    """Remove the socket of a dead process. Raises `OSError` if the path is in use, or is no socket."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise OSError("the path is there, and is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # else a full backlog keeps this process waiting
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except BlockingIOError:
            pass
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
