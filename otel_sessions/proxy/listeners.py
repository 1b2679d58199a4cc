"""The sockets on which a proxy listens for its clients and for health checks.

What always holds: either all of them are open, or none is.
"""

import socket
from collections.abc import Sequence
from contextlib import ExitStack

from otel_sessions._program.sockets import listen_as

from . import options
from .settings import Settings


def open_listeners(
    settings: Settings, listeners: Sequence[socket.socket] = (), health: socket.socket | None = None
) -> tuple[Sequence[socket.socket], socket.socket | None]:
    """Return the sockets, and open those that are not given. Raises `ConfigError`, and then leaves no socket open."""
    with ExitStack() as opened:
        if not listeners:
            flag = options.LISTEN.flag
            listeners = [opened.enter_context(listen_as(flag, address)) for address in settings.addresses]
        if health is None and settings.health is not None:
            health = opened.enter_context(listen_as(options.HEALTH.flag, settings.health))
        opened.pop_all()
    return listeners, health
