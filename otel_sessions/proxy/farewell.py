"""Ends a session at the upstream: a DELETE with the credentials of the client's last request."""

import logging

import anyio

from otel_sessions._core.events import Event
from otel_sessions._core.ids import fingerprint
from otel_sessions._core.session import Session
from otel_sessions._core.words import EndReason
from otel_sessions._http.client import BadAnswer, HungUp, UpstreamError
from otel_sessions.asgi._app_sessions import is_told
from otel_sessions.matchers import Headers

from .peer import MCP_ID, Peer, credentials
from .rules import Timeouts
from .ticket import Ticket
from .upstream import Upstream

_logger = logging.getLogger("otel_sessions.proxy")


class Farewell:
    """Ends sessions of the upstream.

    The upstream gets one DELETE for each session. If the connection breaks, it gets a second DELETE on a new
    connection. If the answer is missing, or `is_told` is false for it, the session may still exist at the upstream.
    """

    def __init__(self, upstream: Upstream, close_timeout: float) -> None:
        self._close_timeout = close_timeout
        self._upstream = upstream

    async def to(self, session: Session[Peer], reason: EndReason) -> None:
        """End a session at the upstream, as a close hook of the manager, within `close_timeout`.

        A session that is `fenced` belongs to another proxy of the fleet, which serves it or ends it. Raises
        `ConnectionError` if the upstream may still hold the session.
        """
        if session.data.told or reason is EndReason.FENCED:
            return
        try:
            await self._delete(session.id, session.data.target, session.data.headers)
        except anyio.get_cancelled_exc_class():
            _logger.warning(
                "the upstream did not answer the DELETE for session %s in time",
                fingerprint(session.id),
                extra=Event.UPSTREAM_KEPT_SESSION.extra,
            )
            raise

    async def to_stray(self, session_id: str, target: bytes, headers: Headers) -> None:
        """End a session that the upstream has just made and that the manager cannot have. A failure is logged."""
        problem = None
        with anyio.move_on_after(self._close_timeout, shield=True) as limit:
            try:
                await self._delete(session_id, target, headers)
            except ConnectionError as error:
                problem = str(error)
        if limit.cancelled_caught:
            problem = f"the upstream did not answer the DELETE within {self._close_timeout:g} s"
        if problem is not None:
            stray = fingerprint(session_id)
            _logger.warning(
                "the upstream may still hold session %s, which is not counted: %s",
                *(stray, problem),
                extra=Event.UPSTREAM_KEPT_SESSION.extra,
            )

    async def to_orphan(self, ticket: Ticket) -> None:
        """End the session of a proxy that has died. Raises `ConnectionError` if the upstream may still hold it."""
        await self._delete(ticket.session_id, ticket.target, ticket.headers)

    async def _delete(self, session_id: str, target: bytes, last: Headers) -> None:
        """Send the upstream a DELETE with the credentials of the client's last request."""
        headers = [*credentials(last), (MCP_ID, session_id.encode("latin-1"))]
        try:
            status = await self._ask(target, headers)
        except UpstreamError as error:
            kind = type(error).__name__
            raise ConnectionError(f"the DELETE for a session did not reach the upstream ({kind})") from None
        if not is_told(status):
            raise ConnectionError(f"the upstream answered {status} to the DELETE for a session")

    async def _ask(self, target: bytes, headers: Headers) -> int:
        """Return the status of the answer; ask once more if the first connection breaks. Raises `UpstreamError`."""
        timeouts = Timeouts(connect_timeout=self._close_timeout, idle_timeout=self._close_timeout)
        asked = False
        while True:
            with self._upstream.call(b"DELETE", target, headers, None, timeouts) as call:
                try:
                    return (await call.head()).status
                except (HungUp, BadAnswer):
                    if asked:
                        raise
                    asked = True
