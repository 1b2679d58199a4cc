"""A session and its lease around every request of an ASGI app."""

from otel_sessions.matchers import Scope

from ._app_sessions import EndInApp
from ._client import ClientAddress, client_address
from ._exchange import ASGIApp, Message, Receive, Send
from ._lifespan import RunManager, lifespan
from ._middleware import SessionLeaseMiddleware
from ._roles import OPENING, SESSION
from ._session_of import session_of

__all__ = [
    "OPENING",
    "SESSION",
    "ASGIApp",
    "ClientAddress",
    "EndInApp",
    "Message",
    "Receive",
    "RunManager",
    "Scope",
    "Send",
    "SessionLeaseMiddleware",
    "client_address",
    "lifespan",
    "session_of",
]
