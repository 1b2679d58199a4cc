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

    @property
    def grant(self) -> int:
        """How many places this process may have now, 0 while it may take none. More may be taken here for a while."""

    def begin(self, run: Run) -> None:
        """Begin with a run of the manager, after `enter` and before the run's first session. Raises nothing."""

    async def ready(self) -> None:
        """Wait for the first grant, or until the store does not answer. Called once, before the run's first session.

        Raises `ConfigError` if this process does not fit into the fleet. The run ends then.
        """

    def has_room(self, taken: int) -> bool:
        """Return whether this process may take one more place: `taken < grant`.

        Asked whenever a place is about to be taken. A creator is refused or waits if the answer is False.
        """

    @property
    def retry_after(self) -> float:
        """After how many seconds a process that was refused a place may have one that is free elsewhere."""

    def is_visible(self, session: Session[Any]) -> bool:
        """Return whether this process may serve a session that it has. Asked for each lookup: a few comparisons."""

    def register(self, session: Session[Any]) -> None:
        """Note a session that was just made. It goes to the store with the next batch. Raises nothing."""

    async def registered(self, session: Session[Any]) -> None:
        """Wait until the store knows a session, or until the outage policy lets it be served without.

        Returns or raises at once when the session is gone. Raises `SessionExists` if another process has this id, and
        `StoreUnavailable` if the store gives no answer and the policy is `closed`. The manager ends the session then:
        as `fenced` or as `failed`.
        """

    def gone(self, session: Session[Any], reason: EndReason) -> None:
        """Note a session that is gone: its holders have left, its sink and hook have run. Raises nothing.

        Called once for each session that was registered, whatever ended it, but not in a forked process.
        """

    async def farewell(self) -> None:
        """Tell the store of all that is gone, and leave. Called once all sessions are gone; the caller cuts it short.

        Raises nothing. Not called if the run ends without its loop, or if the manager's own task is cancelled from
        outside. Then the tasks of the run are cancelled, and `leave` ends the run.
        """
