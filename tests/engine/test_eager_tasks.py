"""Eager tasks of asyncio: a close hook runs within the step that ends its session, and may end others of that pass."""

import asyncio
import sys
from typing import Any

import anyio
import pytest

from otel_sessions import EndReason, Outcome, Session, SessionConfig, SessionManager, TooManySessions
from tests.doubles import Ends
from tests.virtual import Clock, VirtualLoop, settle

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.version_info < (3, 12), reason="asyncio has eager tasks from Python 3.12 on"),
]


def eager_loop() -> VirtualLoop:
    loop = VirtualLoop()
    loop.set_task_factory(getattr(asyncio, "eager_task_factory", None))
    return loop


@pytest.fixture(params=["asyncio"])
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"loop_factory": eager_loop}


class Meddler(Ends):
    """A close hook that ends every other session that it can find, each once, and makes a new one now and then."""

    manager: SessionManager[None]

    def __init__(self) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.closed = 0

    async def __call__(self, session: Session[Any], reason: EndReason) -> None:
        await super().__call__(session, reason)
        for target in self.targets:
            self.closed += await self.manager.close_session(target)
            assert target not in self.manager


def due_in_every_way(sessions: list[Session[None]]) -> None:
    for session in sessions[::3]:
        session.fail("the upstream hung up")
    for session in sessions[1::3]:
        session.touch()


CONFIG = SessionConfig(cleanup_interval=10, max_idle_time=20, max_session_age=30, max_sessions=None)


@pytest.mark.parametrize("clean", ["cleanup_stale_sessions", "emergency_cleanup", "interval", "shutdown"])
async def test_hooks_that_end_sessions_of_the_same_stride_end_each_of_them_once(clock: Clock, clean: str) -> None:
    meddler = Meddler()
    manager = meddler.manager = SessionManager(CONFIG, clock=clock, on_close=meddler)
    async with manager:
        sessions = [await manager.create_session(str(number)) for number in range(90)]
        meddler.targets = [session.id for session in sessions]
        await anyio.sleep(15)
        due_in_every_way(sessions)
        clock.skew += 10
        if clean == "interval":
            await anyio.sleep(11)
        else:
            await getattr(manager, clean)()
        last = manager.get_metrics().last_cleanup
        assert last is not None
        assert last.outcome is Outcome.SUCCESS
        await settle()
    assert sorted(session_id for session_id, _ in meddler.seen) == sorted(session.id for session in sessions)
    stats = manager.get_metrics()
    assert (stats.total_created, stats.total_cleaned, stats.cleanup_errors) == (90, 90, 0)
    assert all(session.end_reason for session in sessions)


async def test_a_hook_that_creates_and_leases_within_the_pass_leaves_no_session_unfiled(clock: Clock) -> None:
    made: list[Session[None]] = []

    async def create(session: Session[None], reason: EndReason) -> None:
        if len(made) < 50:
            made.append(await manager.create_session())
            with manager.pin(made[-1].id):
                made[-1].touch()

    manager = SessionManager(CONFIG, clock=clock, on_close=create)
    async with manager:
        for _ in range(50):
            await manager.create_session()
        await anyio.sleep(31)
        assert len(made) == 50
        assert len(manager) == 50
        await anyio.sleep(32)
        assert len(manager) == 0


@pytest.mark.parametrize("hooked", [False, True])
async def test_a_creator_at_the_cap_gets_the_place_that_a_pass_frees_at_once(
    clock: Clock, ends: Ends, hooked: bool
) -> None:
    settings = SessionConfig(max_sessions=3, emergency_idle_time=5)
    async with SessionManager(settings, clock=clock, on_close=ends if hooked else None) as manager:
        for _ in range(3):
            await manager.create_session()
        await anyio.sleep(5)
        await manager.create_session()
        assert manager.get_metrics().cleaned_by_reason[EndReason.EVICTED] == 1
        with pytest.raises(TooManySessions):  # within the same second
            await manager.create_session()
        assert len(manager) == 3


async def test_the_hook_of_an_evicted_client_session_may_end_the_creators_others(clock: Clock) -> None:
    meddler = Meddler()
    settings = SessionConfig(max_sessions_per_client=3, per_client_at_cap="evict_oldest")
    manager = meddler.manager = SessionManager(settings, clock=clock, on_close=meddler)
    async with manager:
        for name in ("one", "two", "three"):
            await manager.create_session(name, client="ada")
        meddler.targets = ["two"]
        await manager.create_session("new", client="ada")
        assert sorted(meddler.seen) == [("one", EndReason.EVICTED), ("two", EndReason.CLOSED)]
        assert len(manager) == 2
        await manager.create_session("newer", client="ada")
        assert len(meddler.seen) == 2


async def test_a_hook_that_asks_for_the_shutdown_from_within_a_pass_gets_it(clock: Clock) -> None:
    async def shut_down(session: Session[None], reason: EndReason) -> None:
        await manager.shutdown()

    manager = SessionManager(CONFIG, clock=clock, on_close=shut_down)
    async with manager:
        sessions = [await manager.create_session() for _ in range(70)]
        due_in_every_way(sessions)
        await anyio.sleep(15)
    stats = manager.get_metrics()
    assert (stats.total_created, stats.total_cleaned, stats.cleanup_errors) == (70, 70, 0)
