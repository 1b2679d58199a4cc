"""What stands in for the embedder's code, its clock and its fleet.

Hooks, sinks, requests and clocks wait or break. The fleet has a store that a test moves.
"""

from collections.abc import Awaitable, Callable
from typing import Any, NoReturn

import anyio

from otel_sessions import EndReason, Peer, Session, SessionManager, SessionNotFound
from otel_sessions._engine.sharing import Run

from .virtual import Clock

Hook = Callable[[Session[Any], EndReason], Awaitable[None]]


class Ends:
    """A close hook that keeps what it was told: (session id, reason), in order."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, EndReason]] = []

    async def __call__(self, session: Session[Any], reason: EndReason) -> None:
        self.seen.append((session.id, reason))


class SlowHook:
    """A close hook that takes so many seconds, then does as `then` does."""

    def __init__(self, seconds: float, then: Hook | None = None) -> None:
        self._seconds = seconds
        self._then = then

    async def __call__(self, session: Session[Any], reason: EndReason) -> None:
        await anyio.sleep(self._seconds)
        if self._then is not None:
            await self._then(session, reason)


class Stubborn:
    """A close hook that swallows every cancellation until it is released."""

    def __init__(self) -> None:
        self.released = anyio.Event()
        self.cancellations = 0

    async def __call__(self, session: Session[Any], reason: EndReason) -> None:
        while not self.released.is_set():
            try:
                with anyio.CancelScope(shield=True):
                    await self.released.wait()
            except anyio.get_cancelled_exc_class():
                self.cancellations += 1


async def hang(session: Session[Any], reason: EndReason) -> None:
    await anyio.sleep_forever()


async def fail(session: Session[Any], reason: EndReason) -> None:
    raise ConnectionError("the upstream is gone")


class Sink:
    """A sink that keeps the ids it was given, then does as `then` does."""

    def __init__(self, then: Hook | None = None) -> None:
        self.exported: list[str] = []
        self._then = then

    async def export(self, session: Session[Any], reason: EndReason) -> None:
        self.exported.append(session.id)
        if self._then is not None:
            await self._then(session, reason)


class Request:
    """A request that holds a session until it is cancelled, and takes a while to leave then."""

    def __init__(self, manager: SessionManager[Any], session_id: str, lingers: float = 0.0) -> None:
        self._lease = manager.lease(session_id)
        self._lingers = lingers
        self.error: SessionNotFound | None = None
        self.left_at: float | None = None

    async def __call__(self) -> None:
        try:
            async with self._lease:
                try:
                    await anyio.sleep_forever()
                finally:
                    with anyio.CancelScope(shield=True):
                        await anyio.sleep(self._lingers)
        except SessionNotFound as error:
            self.error = error
            self.left_at = anyio.current_time()

    @property
    def reason(self) -> EndReason | None:
        assert self.error is not None
        return self.error.reason


class FaultyClock(Clock):
    """A clock that gives wrong readings, or raises, while it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.wrong: Callable[[float], float] | None = None
        self._good_readings = 0

    def __call__(self) -> float:
        if self.wrong is None or self._good_readings > 0:
            self._good_readings -= 1
            return self.true()
        return self.wrong(self.true())

    def true(self) -> float:
        return super().__call__()

    def break_down(self, *, good_readings: int = 0) -> None:
        """Raise OSError at every reading after so many good ones."""
        self.wrong, self._good_readings = refuse, good_readings

    def mend(self) -> None:
        self.wrong, self._good_readings = None, 0


def refuse(now: float) -> NoReturn:
    """Be the reading of a clock that cannot be read."""
    raise OSError("no time today")


class CountingClock:
    """A clock that shows how often it was read: a second later each time."""

    def __init__(self) -> None:
        self.readings = 0

    def __call__(self) -> float:
        self.readings += 1
        return float(self.readings)


class StoreFleet:
    """A fleet with one cap, whose store is the test: it moves the grant, hides sessions, and answers or does not."""

    name = "w1"

    def __init__(self, grant: int = 1000, farewell: float = 0.0) -> None:
        self.grant = grant
        self.hidden: set[Session[Any]] = set()
        self.silent = False
        """Whether the store does not answer registrations."""
        self.refusal: Exception | None = None
        """What a registration raises."""
        self.ready_takes = 0.0
        self.unready: Exception | None = None
        """What the manager's entry raises."""
        self.peer: Peer | None = None
        """Where ids lead that are not here."""
        self.retry_after = 5.0
        self.standing: dict[Session[Any], None] = {}
        """The sessions that were registered and are not gone."""
        self.gone_for: list[tuple[str, EndReason]] = []
        self.said: list[str] = []
        """What the manager has told the fleet of its run, in order."""
        self.farewell_takes = farewell
        self._changed: anyio.Event | None = None

    def enter(self) -> None:
        self.said.append("enter")

    def begin(self, run: Run) -> None:
        self.run = run
        self.said.append("begin")

    async def ready(self) -> None:
        await anyio.sleep(self.ready_takes)
        if self.unready is not None:
            raise self.unready

    def leave(self) -> None:
        self.said.append("leave")

    async def wait_quiet(self) -> None:
        self.said.append("wait_quiet")

    async def farewell(self) -> None:
        self.said.append(f"farewell with {len(self.standing)}")
        await anyio.sleep(self.farewell_takes)
        self.said.append("farewell said")

    async def locate(self, session_id: str) -> Peer | None:
        return self.peer

    def has_room(self, taken: int) -> bool:
        return taken < self.grant

    def is_visible(self, session: Session[Any]) -> bool:
        return session not in self.hidden

    def register(self, session: Session[Any]) -> None:
        self.standing[session] = None

    async def registered(self, session: Session[Any]) -> None:
        while self.silent and session in self.standing:
            if self._changed is None or self._changed.is_set():
                self._changed = anyio.Event()
            await self._changed.wait()
        if self.refusal is not None:
            raise self.refusal

    def gone(self, session: Session[Any], reason: EndReason) -> None:
        del self.standing[session]  # fails for a session that is gone already, or was never registered
        assert session.end_reason is reason
        self.gone_for.append((session.id, reason))
        self._wake()

    def answer(self) -> None:
        """Let the store answer from now on."""
        self.silent = False
        self._wake()

    def give(self, grant: int) -> None:
        """Set the grant, and tell the manager."""
        self.grant = grant
        self.run.room_changed()

    def _wake(self) -> None:
        if self._changed is not None:
            self._changed.set()
