"""Proxies of a fleet with a store that choose where their peers reach them: `--fleet-address auto`.

Each process has a Unix socket in a folder that only this user may open. What always holds: the address that the store
has of a process is the socket on which this process listens for its peers.
"""

import dataclasses
import socket
from collections.abc import Sequence
from pathlib import Path

from otel_sessions.fleet.addresses import random_name
from otel_sessions.fleet.folder import Folder
from otel_sessions.fleet.own_address import AUTO, folder_of

from .settings import Settings


def with_own_socket(settings: Settings) -> tuple[Settings, Path | None]:
    """Return the settings with an address for peers, and its path, if the process is to choose its address itself.

    Else return the settings and None. Raises `ConfigError` if the folder cannot be used.
    """
    if settings.fleet is None or not settings.fleet.is_auto:
        return settings, None
    path = Folder(folder_of(settings.fleet.address)).path_of(random_name())
    return with_socket(settings, path), path


def sockets_of_workers(address: str, count: int, private: Path) -> Sequence[Path]:
    """Return the path of a socket for each worker: in the folder that the address names, else in `private`.

    Raises `ConfigError` if the folder cannot be used.
    """
    if address == AUTO:
        return [Folder(private).path_of(str(number)) for number in range(1, count + 1)]
    return [Folder(folder_of(address)).path_of(random_name()) for _ in range(count)]


def with_socket(settings: Settings, path: Path) -> Settings:
    """Return the settings of a process whose peers reach it at a Unix socket."""
    assert settings.fleet is not None
    fleet = dataclasses.replace(settings.fleet, address=f"unix:{path}")
    return dataclasses.replace(settings, fleet=fleet, peer_listen=path)


def listen_at(path: Path) -> socket.socket:
    """Listen at such a socket, and remove the sockets of dead processes. Raises `ConfigError`."""
    return Folder(path.parent).listen(path.stem)


def remove(path: Path) -> None:
    """Remove the socket of a process that takes no more."""
    Folder(path.parent).remove(path.stem)
