"""How long the body of a request that may open a session may take: one deadline, from the first look at it on.

While the middleware looks at the start of a body, and while a place is reserved, a client may not drip. A request that
turns out to open nothing has as long as it likes, part by part.
"""

import math
from typing import Final, cast

import anyio

from otel_sessions.asgi import OPENING, SESSION, Message, Receive
from otel_sessions.matchers import Scope

from .exchange import Stalled

_END: Final = "otel_sessions.proxy.opening"


class OpeningTime:
    """Gives a body that may open a session `seconds` as a whole, None for no limit."""

    def __init__(self, seconds: float | None) -> None:
        self._seconds = math.inf if seconds is None else seconds

    def look(self, scope: Scope, receive: Receive) -> Receive:
        """Return the `receive` for the middleware's look. It raises `Stalled` once the body is late."""
        return _in_time(receive, self._end(scope))

    def open(self, scope: Scope, receive: Receive) -> Receive:
        """Return the `receive` for the app. If the request opens a session, it raises `Stalled` once the body is late.

        The time of the look counts.
        """
        is_opening = OPENING in scope and scope[SESSION] is None
        return _in_time(receive, self._end(scope)) if is_opening else receive

    def _end(self, scope: Scope) -> float:
        return cast("float", scope.setdefault(_END, anyio.current_time() + self._seconds))


def _in_time(receive: Receive, end: float) -> Receive:
    reading = True

    async def receive_in_time() -> Message:
        nonlocal reading
        message: Message | None = None
        with anyio.CancelScope(deadline=end if reading else math.inf):
            message = await receive()
        if message is None:
            raise Stalled
        reading = bool(message.get("more_body", False))
        return message

    return receive_in_time
