"""Sockets that notice that the peer is gone."""

import socket
from typing import Final

from .flags import naming

_PROBES: Final = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}
"""Seconds of silence, seconds between probes, number of probes: a peer that is gone is found within a minute."""
_TAKES_NOTHING_MILLISECONDS: Final = 60_000

WATCHFUL: Final = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    *((socket.IPPROTO_TCP, getattr(socket, name), value) for name, value in _PROBES.items() if hasattr(socket, name)),
]
"""Options of a connection that probes a silent peer, as `setsockopt` takes them."""


def listen(address: tuple[str, int]) -> socket.socket:
    """Return a listening socket whose connections send at once, and are dropped when their peer is gone.

    If the system supports it, a connection is also dropped when its peer acknowledges no sent data for a minute. Raises
    `OSError` if the address cannot be listened on.
    """
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    listener = socket.create_server(address, family=family, backlog=2048)
    for option in WATCHFUL:  # accepted connections inherit these options
        listener.setsockopt(*option)
    # asyncio sets TCP_NODELAY only on sockets that it makes. Without it, a body waits 40 ms for an acknowledgement.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _TAKES_NOTHING_MILLISECONDS)
    return listener


def listen_as(flag: str, address: tuple[str, int]) -> socket.socket:
    """Return a listening socket for the address of a flag. Raises `ConfigError`, which names the flag."""
    with naming(flag, written(address)):
        return listen(address)


def written(address: tuple[str, int]) -> str:
    """Return an address as people write it, with brackets around an IPv6 address."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
