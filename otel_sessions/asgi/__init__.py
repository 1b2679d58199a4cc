"""A session and its lease around every request of an ASGI app."""

from otel_sessions.matchers import Scope

from ._exchange import ASGIApp, Message, Receive, Send
from ._middleware import SessionLeaseMiddleware
from ._roles import OPENING, SESSION
from ._session_of import session_of

__all__ = [
    "OPENING",
    "SESSION",
    "ASGIApp",
    "Message",
    "Receive",
    "Scope",
    "Send",
    "SessionLeaseMiddleware",
    "session_of",
]
