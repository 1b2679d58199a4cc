"""The sessions of a proxy that has died: another proxy of the fleet ends them at the upstream.

Each proxy leaves a ticket with the store for each of its sessions. A session whose ticket is too large has none: nobody
can end it at the upstream, and it is counted as failed.
"""

import logging
from collections.abc import Callable
from typing import Final

from otel_sessions._core.events import Event
from otel_sessions._core.session import Session
from otel_sessions.fleet import Orphan
from otel_sessions.fleet.signing import Secrets
from otel_sessions.fleet.store import session_ref

from .farewell import Farewell
from .peer import Peer
from .ticket import Ticket, require_cipher, seal, unseal

_MOST_BYTES: Final = 512
"""What a fleet's store keeps for a session."""

_logger = logging.getLogger("otel_sessions.proxy")


class OrphanFarewell:
    """Says what the store keeps for a session, and ends an orphan with it. `secrets` returns the fleet's secrets.

    Raises `ConfigError` if the package that encrypts is missing.
    """

    def __init__(self, farewell: Farewell, secrets: Callable[[], Secrets]) -> None:
        require_cipher()
        self._farewell = farewell
        self._secrets = secrets
        self._has_warned = False

    def describe(self, session: Session[Peer]) -> bytes:
        """Return the ticket of a session, encrypted, or no bytes if the ticket is too large."""
        ticket = Ticket(session_id=session.id, target=session.data.target, headers=session.data.headers)
        sealed = seal(ticket, self._secrets().keys)
        if len(sealed) <= _MOST_BYTES:
            return sealed
        if not self._has_warned:
            self._has_warned = True
            _logger.warning(
                "a session's id, path and credentials exceed %d bytes: if this proxy dies, nobody ends such sessions "
                "at the upstream",
                _MOST_BYTES,
                extra=Event.BLOB_LEFT_OUT.extra,
            )
        return b""

    async def end(self, orphan: Orphan) -> None:
        """End an orphan at the upstream. Raises `ConnectionError` if the upstream may still hold it.

        A ticket counts only for its own session: whoever can write the store could move it to another one.
        """
        keys = self._secrets().keys
        ticket = unseal(orphan.blob, keys)
        if ticket is None or orphan.ref not in [session_ref(ticket.session_id, key) for key in keys]:
            why = "it has no ticket" if not orphan.blob else "no secret of this proxy opens its ticket"
            raise ConnectionError(f"the upstream may still hold the session of a dead proxy: {why}")
        await self._farewell.to_orphan(ticket)
