"""One deadline, which moves at almost no cost."""

import asyncio
from itertools import pairwise
from typing import Any

import pytest

from otel_sessions._http.deadline import Deadline
from tests.virtual import VirtualLoop

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"loop_factory": VirtualLoop}


class Expired:
    """When a deadline expired, in seconds since the test began."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self.at: list[float] = []
        self.deadline = Deadline(self._loop, lambda: self.at.append(round(self._loop.time() - self._began, 3)))


async def test_it_expires_once_when_its_time_is_over() -> None:
    expired = Expired()
    expired.deadline.set(5)
    await asyncio.sleep(20)
    assert expired.at == [5]


@pytest.mark.parametrize(("first", "second", "at"), [(5, 9, [11]), (9, 1, [3]), (5, None, []), (None, 4, [6])])
async def test_a_deadline_that_has_moved_expires_where_it_is_now(
    first: float | None, second: float | None, at: list[float]
) -> None:
    expired = Expired()
    expired.deadline.set(first)
    await asyncio.sleep(2)
    expired.deadline.set(second)
    await asyncio.sleep(20)
    assert expired.at == at


async def test_a_deadline_that_was_taken_away_can_be_set_again() -> None:
    expired = Expired()
    for _ in range(2):
        expired.deadline.set(5)
        expired.deadline.set(None)
        await asyncio.sleep(10)
    expired.deadline.set(5)
    await asyncio.sleep(10)
    assert expired.at == [25]


async def test_it_can_be_set_again_by_what_it_calls() -> None:
    loop = asyncio.get_running_loop()
    calls: list[float] = []

    def again() -> None:
        calls.append(loop.time())
        if len(calls) < 3:
            deadline.set(4)

    deadline = Deadline(loop, again)
    deadline.set(4)
    await asyncio.sleep(30)
    assert [late - early for early, late in pairwise(calls)] == [4, 4]


async def test_a_closed_deadline_never_expires_and_stays_closed() -> None:
    expired = Expired()
    expired.deadline.set(5)
    expired.deadline.close()
    expired.deadline.set(5)
    await asyncio.sleep(20)
    assert expired.at == []


async def test_moving_it_away_a_thousand_times_takes_one_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    expired = Expired()
    loop = asyncio.get_running_loop()
    call_at, timers = loop.call_at, []

    def counted(when: float, callback: Any, *args: Any) -> asyncio.TimerHandle:
        timers.append(when)
        return call_at(when, callback, *args)

    monkeypatch.setattr(loop, "call_at", counted)
    for _ in range(1000):
        expired.deadline.set(5)
    assert len(timers) == 1
