import os
from typing import Any

import anyio
import hypothesis
import pytest
from hypothesis import is_hypothesis_test

from otel_sessions import EndReason, Session

from .virtual import BACKENDS, Clock

hypothesis.settings.register_profile("dev", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True, database=None)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "dev")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Do not trace Hypothesis' tests, which takes twice as long: the others cover the lines that they run again and
    again."""
    for item in items:
        if is_hypothesis_test(getattr(item, "obj", None)):
            item.add_marker(pytest.mark.no_cover)


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


@pytest.fixture
def ends() -> Ends:
    return Ends()
