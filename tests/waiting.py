"""Waiting for what other processes bring about."""

import time
from collections.abc import Callable
from typing import TypeVar

import pytest

ValueT = TypeVar("ValueT")


def until(read: Callable[[], ValueT], wanted: Callable[[ValueT], bool], seconds: float = 30.0) -> ValueT:
    """Read until the value is as wanted, and return it. Fail with the last one."""
    end = time.monotonic() + seconds
    while not wanted(value := read()):
        if time.monotonic() > end:
            pytest.fail(f"after {seconds:g} s it was still {value!r}")
        time.sleep(0.1)
    return value
