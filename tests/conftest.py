import os
from typing import Any

import hypothesis
import pytest

from otel_sessions import EndReason, Session

from .virtual import BACKENDS, Clock

hypothesis.settings.register_profile("dev", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True, database=None)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "dev")


@pytest.fixture(params=list(BACKENDS))
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    return request.param, BACKENDS[request.param]()


@pytest.fixture
async def clock() -> Clock:
    clock = Clock()
    clock.follow_running_loop()
    return clock


class Ends:
    """A close hook that keeps what it was told: (session id, reason), in order."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, EndReason]] = []

    async def __call__(self, session: Session[Any], reason: EndReason) -> None:
        self.seen.append((session.id, reason))


@pytest.fixture
def ends() -> Ends:
    return Ends()
