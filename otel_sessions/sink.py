"""What a session's record is exported to before the session is cleaned."""

from typing import Protocol, TypeVar

from .session import Session
from .words import EndReason

SinkDataT = TypeVar("SinkDataT", contravariant=True)


class SessionSink(Protocol[SinkDataT]):
    """Takes the record of every session that ends, before its close hook runs."""

    async def export(self, session: Session[SinkDataT], reason: EndReason) -> None:
        """Take one record, within the manager's `close_timeout`.

        What it raises is logged and counted, and never stops the cleanup.
        """
