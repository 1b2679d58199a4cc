"""Exchanges whose session another process has: passed on to it, or taken from the process that has passed them on.

The middleware knows its fleet by one protocol. How an exchange travels is the fleet's business. If no process takes the
exchange, the middleware goes on as if its id were unknown, with the body as it came.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Literal, Protocol, runtime_checkable

from otel_sessions._core.exceptions import ConfigError, SessionNotFound
from otel_sessions._engine.manager import SessionManager
from otel_sessions._engine.owners import Fleet, Peer
from otel_sessions.matchers import AdoptingMatcher, Scope

from ._exchange import ASGIApp, Exchange, Message, Receive, Send
from ._hints import HintingMatcher

_MOST_KEPT: Final = 65536
"""The largest part of a body, in bytes, that can be given again."""
_MOST_MESSAGES: Final = 1024

FORWARDED: Final = "otel_sessions.fleet.forwarded"
"""In a scope: whether the request says that another process has passed it on, if somebody has looked already."""

Serve = Callable[[str, Scope, Receive, Send], Awaitable[bool | None]]
"""Serves an exchange in the session of an id. Returns False, and has sent nothing, if the session is not here.
Any other value means that the exchange was served.

The scope is a copy for this exchange alone, and is changed.
"""


@runtime_checkable
class Forwarding(Fleet, Protocol):
    """A fleet that passes exchanges on."""

    needs_hints: bool
    """Whether the fleet finds a session only by the hint in its id."""

    async def locate_again(self, session_id: str, wrong: Peer) -> Peer | None:
        """Return the process that an id leads to, after a fresh look. Return None if it is still the wrong one."""

    def forward(self, peer: Peer, session_id: str, scope: Scope, receive: Receive, send: Send) -> Awaitable[bool]:
        """Pass an exchange on to the peer that an id leads to, and its answer back.

        Return False, and send nothing, if the session is not there. Raises `PeerUnavailable` if the peer does not
        answer. Nothing was sent then, or the answer stays incomplete.
        """

    def is_forwarded(self, scope: Scope) -> bool:
        """Return whether an exchange says that another process has passed it on."""

    def take(self, scope: Scope, receive: Receive, send: Send, serve: Serve) -> Awaitable[None]:
        """Serve an exchange that another process has passed on, by `serve`. Refuse it if no peer has signed it."""


@runtime_checkable
class Listening(Protocol):
    """A fleet with listeners of its own, which serve the app."""

    def serve_part(self, app: ASGIApp) -> None:
        """Serve by the part of an app that begins with its middleware, unless the whole app is known."""

    def serve_whole(self, app: ASGIApp, state: Mapping[str, object]) -> None:
        """Serve by the whole app. Of several, the first one that a run of the manager is told is the outermost.

        `state` is what the app's lifespan gives its requests.
        """


@runtime_checkable
class Answering(Protocol):
    """A fleet whose processes ask each other about their sessions, for admin tools."""

    def answer_for(self, manager: SessionManager[Any]) -> None:
        """Answer for this manager from now on."""


async def not_here() -> Literal[False]:
    """Return what `Serve` returns if the session is not here."""
    return False


def tell_part(manager: SessionManager[Any], app: ASGIApp) -> None:
    """Tell the fleet of a manager the manager, and the part of an app that begins with the middleware."""
    fleet: object = manager.fleet
    if isinstance(fleet, Answering):
        fleet.answer_for(manager)
    if isinstance(fleet, Listening):
        fleet.serve_part(app)


def tell_whole(manager: SessionManager[Any], app: object, state: object) -> None:
    """Tell the fleet of a manager the whole app and the state of its lifespan, if it wants to know."""
    fleet: object = manager.fleet
    if isinstance(fleet, Listening) and callable(app):
        fleet.serve_whole(app, state if isinstance(state, Mapping) else {})


def forwarding_of(manager: SessionManager[Any]) -> Forwarding | None:
    """Return the fleet of a manager, or None. Raises `ConfigError` if the fleet passes no exchanges on."""
    fleet = manager.fleet
    if fleet is None or isinstance(fleet, Forwarding):
        return fleet
    raise ConfigError(f"fleet takes a fleet of otel_sessions.fleet, not {fleet!r}")


def hinting(matcher: AdoptingMatcher, fleet: Forwarding) -> AdoptingMatcher:
    """Return the matcher of an app that makes ids, with hints if it wants hints.

    Raises `ConfigError` if it wants no hints and the fleet needs them.
    """
    if matcher.hint:
        return HintingMatcher(matcher, lambda: fleet.name)
    if fleet.needs_hints:
        raise ConfigError("the fleet finds sessions by hints in their ids: use McpMatcher(hint=True)")
    return matcher


async def forward(
    fleet: Forwarding,
    session_ids: tuple[str, ...],
    exchange: Exchange,
    scope: Scope,
    receive: Receive,
    send: Send,
) -> bool:
    """Pass an exchange on by the first of its ids that leads to its session. Return False if no id does.

    Raises `PeerUnavailable`, and `SessionNotFound` if more of the body was read than can be given again.
    """
    for session_id in session_ids:
        peer, is_first = await fleet.locate(session_id), True
        while peer is not None:
            kept = _Kept(receive)
            if await fleet.forward(peer, session_id, scope, kept, send):
                return True
            if not kept.is_whole:
                raise SessionNotFound(session_id)
            exchange.put_back(kept.messages)
            peer = await fleet.locate_again(session_id, peer) if is_first else None
            is_first = False
    return False


class _Kept:
    """A `receive` that keeps what it returns, up to a size."""

    __slots__ = ("_receive", "_size", "is_whole", "messages")

    def __init__(self, receive: Receive) -> None:
        self.messages: list[Message] = []
        self.is_whole = True
        """Whether all that was returned is kept."""
        self._receive = receive
        self._size = 0

    async def __call__(self) -> Message:
        message: Message = await self._receive()
        if self.is_whole:
            self._size += len(message.get("body") or b"")
            self.is_whole = self._size <= _MOST_KEPT and len(self.messages) < _MOST_MESSAGES
            if self.is_whole:
                self.messages.append(message)
            else:
                self.messages.clear()
        return message
