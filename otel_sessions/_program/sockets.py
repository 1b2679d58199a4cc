"""Sockets that find out by themselves that whoever is at their other end is gone."""

import socket
from typing import Final

from .flags import naming

_PROBES: Final = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}
"""Seconds of silence, seconds between probes, probes: a peer that is gone is found within a minute."""
_TAKES_NOTHING_MILLISECONDS: Final = 60_000

WATCHFUL: Final = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    *((socket.IPPROTO_TCP, getattr(socket, name), value) for name, value in _PROBES.items() if hasattr(socket, name)),
]
"""Options of a connection, as `setsockopt` takes them."""


def listen(address: tuple[str, int]) -> socket.socket:
    """Return a listening socket whose connections send at once, and are given up when their peer is gone.

    So are those, where the system can do that, whose peer takes nothing for a minute of what waits for it. Raises
    `OSError`.
    """
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    listener = socket.create_server(address, family=family, backlog=2048)
    for option in WATCHFUL:  # inherited by what is accepted
        listener.setsockopt(*option)
    # asyncio sets it on sockets of its own making only; without it a body waits 40 ms for the head's acknowledgement.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _TAKES_NOTHING_MILLISECONDS)
    return listener


def listen_as(flag: str, address: tuple[str, int]) -> socket.socket:
    """Return a listening socket for the address that a flag names. Raises `ConfigError`, with the flag."""
    with naming(flag, written(address)):
        return listen(address)


def written(address: tuple[str, int]) -> str:
    """Return a host and a port as people write them."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
