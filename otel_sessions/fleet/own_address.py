"""The address that a process of a fleet with a store chooses for itself, so that no two processes share an address.

    address               where the process listens                       who can reach it
    ──────────────────    ────────────────────────────────────────────    ─────────────────────────────
    auto, auto:FOLDER     at a Unix socket of its own in a folder         processes of this machine
    http://10.0.0.7:0     at a free port of this host                     whoever reaches the host

Any other address leads to a listener of the app's own.
"""

import os
import socket
import sys
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from otel_sessions._core.exceptions import ConfigError

from .addresses import Address, random_name, read_address
from .folder import Folder

if TYPE_CHECKING:  # the settings of a proxy without peers are read here
    from .listening import Place

AUTO: Final = "auto"
_IN_FOLDER: Final = f"{AUTO}:"
_NAME: Final = "otel-sessions"
_MOST_PATH: Final = 107 if sys.platform == "linux" else 103
"""Bytes of the path of a Unix socket. A zero byte follows it."""
_BACKLOG: Final = 2048


class Port:
    """A free port of a host. Each run has another port."""

    def __init__(self, host: str) -> None:
        self._host = host
        self._port = 0

    def listen(self, name: str) -> socket.socket:  # noqa: ARG002  # a port has no name
        """Return a socket that listens at a free port. Raises `ConfigError`."""
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        try:
            listening = socket.create_server((self._host, 0), family=family, backlog=_BACKLOG)
        except OSError as error:
            raise ConfigError(f"the process cannot listen at a free port of {self._host}: {error}") from error
        # Accepted connections inherit these. asyncio sets TCP_NODELAY only on sockets that it makes.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        listening.setblocking(False)
        self._port = listening.getsockname()[1]
        return listening

    def address_of(self, name: str) -> str:  # noqa: ARG002  # a port has no name
        """Return the address of the port at which this process listens."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._port}"

    def remove(self, name: str) -> None:
        """Do nothing: a port is free once its listener has closed."""


def own_place(address: str) -> "Place | None":
    """Return where a process of this address listens by itself, or None if the address leads to another listener.

    Makes the folder of `auto`. Raises `ConfigError` if the address is wrong, or its folder cannot be used.
    """
    if is_auto(address):
        return Folder(folder_of(address))
    host = _host_of_free_port(address)
    if host is not None:
        return Port(host)
    _require_reachable(read_address(address))
    return None


def is_auto(address: str) -> bool:
    """Return whether an address asks for a Unix socket of the process's own."""
    return address == AUTO or address.startswith(_IN_FOLDER)


def folder_of(address: str) -> Path:
    """Return the folder of the Unix sockets of `auto`. Raises `ConfigError` if no socket can be in it.

    Without a folder in the address, the folder is `otel-sessions` in `$XDG_RUNTIME_DIR`, or in `/run` without this
    variable.
    """
    given = address.removeprefix(AUTO).removeprefix(":")
    if address != AUTO and not given:
        raise ConfigError("auto: takes a folder, as auto:/run/my-app; or leave the colon out")
    folder = Path(given) if given else Path(os.environ.get("XDG_RUNTIME_DIR") or "/run") / _NAME
    socket_path = folder.absolute() / f"{random_name()}.sock"
    read_address(f"unix:{socket_path}")  # raises for a path that no address can have
    if len(os.fsencode(socket_path)) > _MOST_PATH:
        raise ConfigError(f"the path of the folder {folder} is too long for Unix sockets: name a shorter one")
    return folder


def _host_of_free_port(address: str) -> str | None:
    """Return the host of an address with port 0, or None for any other address. Raises `ConfigError`."""
    try:
        parts = urlsplit(address)
        if parts.port != 0:
            return None
    except ValueError:
        return None  # no address at all
    where = read_address(parts._replace(netloc=parts.netloc[: -len(":0")]).geturl())
    if where.is_tls:
        raise ConfigError(
            f"a process that chooses its port speaks no TLS: use http:// in a private network, not {address!r}"
        )
    if where.path != b"/":
        raise ConfigError(f"an address with port 0 has no path, as http://10.0.0.7:0, not {address!r}")
    _require_reachable(where)
    return where.host


def _require_reachable(where: Address) -> None:
    """Raise `ConfigError` if an address stands for all addresses of a host, so that it leads others to themselves."""
    try:
        is_any = ip_address(where.host).is_unspecified
    except ValueError:  # the name of a host
        return
    if is_any:
        raise ConfigError(f"the address of a process is where others reach it, so it cannot be {where.text!r}")
