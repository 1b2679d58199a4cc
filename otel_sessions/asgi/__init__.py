"""A session and its lease around every request of an ASGI app."""

from otel_sessions.matchers import Scope

from ._app_sessions import EndInApp
from ._exchange import SESSION, ASGIApp, Message, Receive, Send
from ._lifespan import RunManager, lifespan
from ._middleware import SessionLeaseMiddleware

__all__ = [
    "SESSION",
    "ASGIApp",
    "EndInApp",
    "Message",
    "Receive",
    "RunManager",
    "Scope",
    "Send",
    "SessionLeaseMiddleware",
    "lifespan",
]
