"""A manager whose sessions outlast every stream of a test, and one session of it."""

from collections.abc import AsyncIterator

import pytest

from otel_sessions import Session, SessionConfig, SessionManager
from tests.virtual import Clock

CONFIG = SessionConfig(max_sessions=200, cleanup_interval=50, max_idle_time=1000, drain_timeout=1)


@pytest.fixture
async def manager(clock: Clock) -> AsyncIterator[SessionManager[None]]:
    async with SessionManager(CONFIG, clock=clock) as manager:
        yield manager


@pytest.fixture
async def session(manager: SessionManager[None]) -> Session[None]:
    return await manager.create_session("s")
