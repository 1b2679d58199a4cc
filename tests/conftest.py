import os
import signal
import sys
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
from hypothesis import is_hypothesis_test

from otel_sessions._engine import sweep

from .doubles import Ends, FaultyClock
from .signals import Signals
from .virtual import BACKENDS, Clock

hypothesis.settings.register_profile("dev", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True, database=None)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "dev")


def pytest_configure() -> None:
    """Do not ignore SIGHUP, as under nohup: the programs that tests start would keep to it, and not end by it."""
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


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


@pytest.fixture
async def faulty_clock() -> FaultyClock:
    clock = FaultyClock()
    clock.follow_running_loop()
    return clock


@pytest.fixture
def ends() -> Ends:
    return Ends()


@pytest.fixture
def signals() -> Signals:
    return Signals()


@pytest.fixture
def restless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a pass give way to the loop after every step, as if each took more than a pass may at a stretch."""
    monkeypatch.setattr(sweep, "_SLICE", 0.0)


@pytest.fixture
def impatient_threads() -> Iterator[None]:
    """Switch threads a thousand times as often as usual, so that they meet within each other's work."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(5e-6)
    yield
    sys.setswitchinterval(interval)
