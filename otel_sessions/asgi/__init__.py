"""A session and its lease around every request of an ASGI app."""

from otel_sessions.matchers import Scope

from ._client import ClientAddress, client_address
from ._exchange import ASGIApp, Message, Receive, Send
from ._middleware import SessionLeaseMiddleware
from ._roles import OPENING, SESSION
from ._session_of import session_of

__all__ = [
    "OPENING",
    "SESSION",
    "ASGIApp",
    "ClientAddress",
    "Message",
    "Receive",
    "Scope",
    "Send",
    "SessionLeaseMiddleware",
    "client_address",
    "session_of",
]
