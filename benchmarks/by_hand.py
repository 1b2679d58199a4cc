"""What one would write by hand: a dict, which is the measure of the others, and the dict with a pass over all of it."""

import time
from collections.abc import Callable, Sequence

from .contestant import DATA, Contestant


class BareSession:
    """What a session is at least: its data, and when it was used last."""

    __slots__ = ("clock", "data", "last")

    def __init__(self, data: object, clock: Callable[[], float]) -> None:
        self.data = data
        self.clock = clock
        self.last = clock()

    def touch(self) -> None:
        self.last = self.clock()


class BareDict(Contestant):
    name = "bare dict"
    caveat = "expires nothing; behind a get() and a touch() that reads the clock: the M of the targets"
    expires = False
    correct = False

    def __init__(self, places: int, idle: float, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(places, idle, clock)
        self._sessions: dict[str, BareSession] = {}

    def get(self, session_id: str) -> BareSession | None:
        return self._sessions.get(session_id)

    def add(self, session_id: str, data: object) -> BareSession:
        session = self._sessions[session_id] = BareSession(data, self.clock)
        return session

    def remove(self, session_id: str) -> None:
        del self._sessions[session_id]

    async def create(self, ids: Sequence[str]) -> None:
        add = self.add
        for session_id in ids:
            add(session_id, DATA)

    async def use(self, ids: Sequence[str]) -> None:
        get = self.get
        for session_id in ids:
            get(session_id).touch()  # type: ignore[union-attr]  # it is there, and a check would be measured

    async def churn(self, ids: Sequence[str]) -> None:
        add, remove = self.add, self.remove
        for session_id in ids:
            add(session_id, DATA)
            remove(session_id)

    async def expire(self) -> None:
        return None

    def __len__(self) -> int:
        return len(self._sessions)

    def holds(self, session_id: str) -> bool:
        return self.get(session_id) is not None


class FullScan(BareDict):
    name = "full scan"
    correct = False
    caveat = "the bare dict, each pass over all of it at once; what is due is handed out until then, so it is no rival"
    expires = True

    async def expire(self) -> None:
        now = self.clock()
        due = [session_id for session_id, session in self._sessions.items() if now >= session.last + self.idle]
        for session_id in due:
            del self._sessions[session_id]
