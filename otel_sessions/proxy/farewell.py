"""How the upstream is told that a session is over: by a DELETE with what the session's client last showed."""

import logging
from http import HTTPStatus
from typing import Final

import anyio
import httpx2

from otel_sessions.matchers import Headers
from otel_sessions.session import Session
from otel_sessions.words import EndReason

from .peer import MCP_ID, Peer, credentials
from .rules import Timeouts
from .upstream import Upstream

_logger = logging.getLogger("otel_sessions.proxy")

_GONE_OR_UNABLE: Final = (HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED)


class Farewell:
    """Ends sessions of the upstream's."""

    def __init__(self, upstream: Upstream, seconds: float) -> None:
        self.seconds: Final = seconds
        self._upstream = upstream

    async def to(self, session: Session[Peer], _reason: EndReason) -> None:
        """End the upstream's session with ours. Raises what goes wrong; a manager's close hook."""
        if not session.data.told:
            await self._delete(session.id, session.data.target, session.data.headers)

    async def to_stray(self, session_id: str, target: bytes, headers: Headers) -> None:
        """End a session that the upstream has just made and that can be none of ours; what goes wrong is logged."""
        with anyio.CancelScope(shield=True):
            try:
                with anyio.fail_after(self.seconds):
                    await self._delete(session_id, target, headers)
            except (ConnectionError, TimeoutError) as error:
                _logger.warning("the upstream keeps a session that nobody counts: %r", error)

    async def _delete(self, session_id: str, target: bytes, last: Headers) -> None:
        """Send the upstream a DELETE with what the client showed in its last request."""
        timeouts = Timeouts(connect=self.seconds, idle=self.seconds)
        headers = [*credentials(last), (MCP_ID, session_id.encode("latin-1"))]
        try:
            async with self._upstream.ask("DELETE", target, headers, None, timeouts) as response:
                status = response.status_code
        except httpx2.TransportError as error:
            raise ConnectionError(f"the upstream did not hear the end of a session: {type(error).__name__}") from None
        if status >= HTTPStatus.MULTIPLE_CHOICES and status not in _GONE_OR_UNABLE:
            raise ConnectionError(f"the upstream answered {status} to the end of a session")
