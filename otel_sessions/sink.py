"""What a session's record is exported to before the session is cleaned."""

from typing import Protocol

from .session import DataT, Session
from .words import EndReason


class SessionSink(Protocol[DataT]):
    """Takes the record of every session that ends, before its close hook runs."""

    async def export(self, session: Session[DataT], reason: EndReason) -> None:
        """Take one record, within the manager's `close_timeout`.

        What it raises is logged and counted, and never stops the cleanup.
        """
