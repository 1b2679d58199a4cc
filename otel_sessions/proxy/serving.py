"""What the connections of one server share, and which of them gives way to a new one."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from otel_sessions.asgi import ASGIApp

if TYPE_CHECKING:
    from .client_socket import WebSocket


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What a client's connection is allowed: `max_header` bytes a head, and seconds."""

    max_header: int = 65536
    head_timeout: float = 30.0
    idle_timeout: float | None = 300.0


class Idle(Protocol):
    """A connection between two requests."""

    @property
    def is_silent(self) -> bool:
        """Whether the client has taken all that was written, and nothing of a next request has come."""
        ...

    def give_way(self) -> None:
        """Free the place and the descriptor at once, also if the client does not say goodbye."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Serving:
    """What the connections of a server share. `upgrade` makes the protocol that a WebSocket goes on with.

    `idle` has the connections between two requests; the connection that has idled longest comes first.
    """

    app: ASGIApp
    limits: Limits
    upgrade: "Callable[[], WebSocket]"
    connections: set[object] = field(default_factory=set)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    idle: dict[Idle, None] = field(default_factory=dict)

    def make_room(self) -> bool:
        """Close the connection that has idled longest between two requests, and return whether there was one.

        A connection with a request under way never gives way, nor does a connection with one that nobody has read yet.
        """
        for connection in self.idle:
            if connection.is_silent:
                connection.give_way()
                return True
        return False
