"""A session on its way out: it was ended for one reason, and is not removed yet.

An ending is `LEAVING` while the holders leave, `CALLING` while the sink and the close hook run, and `GONE` when the
session is removed. An ending never goes back. A caller that ends several sessions together waits for their batch.
"""

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from enum import Enum
from typing import Any, Generic

from opentelemetry.context import Context

from otel_sessions._core.session import DataT, Session
from otel_sessions._core.words import CleanupStage, EndReason

from .leases import Holder
from .quiet import Quiet

CloseHook = Callable[[Session[DataT], EndReason], Awaitable[None]]
"""The embedder's code for an ended session, called with the session and its end reason. What it raises is logged."""

inside: ContextVar[tuple[Any, ...]] = ContextVar("otel_sessions_inside", default=())
"""The `Hooks` objects whose calls the running task is part of."""


class Batch:
    """The endings that one caller waits for together.

    `errors` is the number of hooks and exports that failed. `cut` is True if the end of the run abandoned an ending.
    """

    def __init__(self) -> None:
        self.pending = 0
        self.errors = 0
        self.cut = False
        self._quiet = Quiet()

    async def wait(self) -> None:
        """Return when all endings are gone."""
        await self._quiet.wait(lambda: not self.pending)

    def note_end(self, errors: int) -> None:
        self.pending -= 1
        self.errors += errors
        if not self.pending:
            self._quiet.note()


class EndingState(Enum):
    LEAVING = "leaving"
    CALLING = "calling"
    GONE = "gone"


class Ending(Generic[DataT]):
    """One session's ending: the holders that have to leave, the calls to make then, and the batch that waits.

    `cause` is the telemetry context of the pass or the caller that ended the session. `errors` counts failed calls.
    """

    def __init__(
        self,
        *,
        session: Session[DataT],
        reason: EndReason,
        cause: Context,
        batch: Batch,
        holders: list[Holder[DataT]],
        calls: list[tuple[CleanupStage, CloseHook[DataT]]],
    ) -> None:
        self.session = session
        self.reason = reason
        self.cause = cause
        self.batch = batch
        self.holders = dict.fromkeys(holders)
        self.calls = calls
        self.state = EndingState.LEAVING
        self.errors = 0
        self.inside = inside.get()
