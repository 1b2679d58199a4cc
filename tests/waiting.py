"""Waiting for what other tasks and other processes bring about."""

import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import anyio
import pytest

ValueT = TypeVar("ValueT")
PATIENCE: Final = 100.0
"""Seconds; longer than anything takes on a machine that is busy. Only what never comes takes as long."""
NEVER: Final = "600"
"""What a program is given as a limit, in seconds, that must not be what ends the wait."""


def until(read: Callable[[], ValueT], wanted: Callable[[ValueT], bool], seconds: float = PATIENCE) -> ValueT:
    """Read until the value is as wanted, and return it, in real time. Fail with the last one."""
    end = time.monotonic() + seconds
    while not wanted(value := read()):
        if time.monotonic() > end:
            pytest.fail(f"after {seconds:g} s it was still {value!r}")
        time.sleep(0.1)
    return value


ATTEMPTS: Final = 5


async def until_succeeds(attempt: Callable[[], Awaitable[bool]]) -> None:
    """Make an attempt until it returns True, a few times at most. A machine that stands still may spoil some."""
    with anyio.fail_after(PATIENCE):
        for _ in range(ATTEMPTS):
            if await attempt():
                return
    pytest.fail(f"none of {ATTEMPTS} attempts succeeded")


async def until_happened(happened: Callable[[], bool]) -> None:
    """Wait until something has happened, in real or in virtual time. What runs on the loop goes on meanwhile."""
    with anyio.fail_after(PATIENCE):
        while True:
            if happened():
                return
            await anyio.sleep(0.05)
