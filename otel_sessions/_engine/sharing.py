"""What a manager and a fleet with one cap and one set of books have to say to each other.

The manager owns its sessions, as without a fleet. It asks for room before it reserves a place, tells of each session
that was made and of each session that is gone, and hands out no session that the fleet calls invisible. The fleet runs
its own work in a task of the run, and never calls the manager from another loop.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from otel_sessions._core.session import Session
from otel_sessions._core.words import EndReason

from .owners import Fleet


class Run(Protocol):
    """What one run of a manager gives to its fleet."""

    @property
    def taken(self) -> int:
        """How many places are taken here: sessions that live or close, and reservations."""

    @property
    def close_timeout(self) -> float:
        """Seconds that a hook may take."""

    @property
    def max_concurrent_closes(self) -> int:
        """How many hooks may run at once."""

    def clock(self) -> float:
        """Return the seconds of the manager's clock."""

    def start(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        """Run work in a task of the run. The task is cancelled when the run ends, after `SharedFleet.farewell`."""

    def room_changed(self) -> None:
        """The fleet may have more room: creators that wait are asked again."""

    def end(self, due: Mapping[EndReason, Sequence[str]]) -> None:
        """End sessions by their ids, visible or not, with sink and close hook. Ids without a session are left out."""


@runtime_checkable
class SharedFleet(Fleet, Protocol):
    """A fleet whose processes share one cap and one set of books, in a store."""

    def begin(self, run: Run) -> None:
        """Begin with a run of the manager, right after `enter`."""

    def has_room(self, taken: int) -> bool:
        """Return whether this process may take one more place beyond those that are taken here."""

    def is_visible(self, session: Session[Any]) -> bool:
        """Return whether this process may serve a session that it has. Asked for each lookup: a few comparisons."""

    def register(self, session: Session[Any]) -> None:
        """Note a session that was just made. It goes to the store with the next batch."""

    async def registered(self, session: Session[Any]) -> None:
        """Wait until the store knows a session, or until the outage policy lets it be served without.

        Raises `SessionExists` if another process has this id, and `StoreUnavailable` if the store gives no answer and
        the policy is `closed`. The manager has ended the session then.
        """

    def gone(self, session: Session[Any], reason: EndReason) -> None:
        """Note a session that is gone: its holders have left, its sink and hook have run."""

    async def farewell(self) -> None:
        """Tell the store of all that is gone, and leave. Called once all sessions are gone; the caller limits it."""
