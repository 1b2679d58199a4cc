"""An admin API with a manager behind it, and a client of the API."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from httpx2 import ASGITransport, AsyncClient

from otel_sessions import SessionConfig, SessionManager
from otel_sessions.admin import admin_app
from tests.virtual import Clock

TOKEN = "the-admin-token"
RIGHT = {"authorization": f"Bearer {TOKEN}"}


def client_of(app: Any, **headers: str) -> AsyncClient:
    return AsyncClient(
        transport=ASGITransport(app, raise_app_exceptions=False), base_url="http://admin.test", headers=headers
    )


@pytest.fixture
async def manager(clock: Clock) -> AsyncIterator[SessionManager[str]]:
    config = SessionConfig(cleanup_interval=600, max_idle_time=100, max_sessions=10)
    async with SessionManager[str](config, name="proxy", clock=clock) as manager:
        yield manager


@pytest.fixture
async def admin(manager: SessionManager[str]) -> AsyncIterator[AsyncClient]:
    async with client_of(admin_app(manager, token=TOKEN), **RIGHT) as client:
        yield client
