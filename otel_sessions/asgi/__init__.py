"""A session and its lease around every request of an ASGI app."""

from otel_sessions.matchers import Scope

from ._client import ClientAddress, client_address
from ._exchange import SESSION, ASGIApp, Message, Receive, Send
from ._middleware import SessionLeaseMiddleware

__all__ = [
    "SESSION",
    "ASGIApp",
    "ClientAddress",
    "Message",
    "Receive",
    "Scope",
    "Send",
    "SessionLeaseMiddleware",
    "client_address",
]
