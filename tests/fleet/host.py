"""What a manager does for its fleet, without a manager: for tests of the fleet alone."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

import anyio

from otel_sessions import EndReason, Session, SessionConfig, SessionManager
from otel_sessions._engine.tasks import Tasks
from otel_sessions.fleet.shared import StoreFleet


class Host:
    def __init__(self, fleet: StoreFleet, manager: SessionManager[None]) -> None:
        self.fleet = fleet
        self.manager = manager
        self.tasks = Tasks()
        self.sessions: dict[str, Session[None]] = {}
        self.ended: list[tuple[str, EndReason]] = []
        self.rooms = 0
        self.close_timeout = 5.0
        self.max_concurrent_closes = 32

    @property
    def taken(self) -> int:
        return len(self.sessions)

    def clock(self) -> float:
        return anyio.current_time()

    def start(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        self.tasks.start(name, work)

    def room_changed(self) -> None:
        self.rooms += 1

    def end(self, due: Mapping[EndReason, Sequence[str]]) -> None:
        for reason, ids in due.items():
            for session_id in ids:
                self.close(session_id, reason)

    async def open(self, session_id: str | None = None) -> Session[None] | None:
        if not self.fleet.has_room(self.taken):
            return None
        session = await self.manager.create_session(session_id)
        self.sessions[session.id] = session
        self.fleet.register(session)
        try:
            await self.fleet.registered(session)
        except BaseException:
            self.close(session.id, EndReason.FAILED)
            raise
        return session

    def close(self, session_id: str, reason: EndReason = EndReason.CLOSED) -> None:
        session = self.sessions.pop(session_id, None)
        if session is not None:
            self.ended.append((session_id, reason))
            self.fleet.gone(session, reason)

    @property
    def visible(self) -> int:
        return sum(map(self.fleet.is_visible, self.sessions.values()))

    async def leave(self) -> None:
        for session_id in list(self.sessions):
            self.close(session_id, EndReason.SHUTDOWN)
        with anyio.move_on_after(10):
            await self.fleet.farewell()
        await self.die()

    async def die(self) -> None:
        self.tasks.cancel()
        self.fleet.leave()
        await self.tasks.wait_empty()


@asynccontextmanager
async def hosting(fleet: StoreFleet) -> AsyncIterator[Host]:
    async with SessionManager(SessionConfig(max_idle_time=None, max_session_age=None)) as manager:
        fleet.enter()
        host = Host(fleet, manager)
        fleet.begin(host)
        await fleet.ready()
        try:
            yield host
        finally:
            await host.die()
