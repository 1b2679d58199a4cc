"""Virtual time for this project's own tests, made from what embedders get."""

from collections.abc import Callable

import anyio

from otel_sessions.testing import LoopClock, VirtualLoop, virtual_time

__all__ = ["BACKENDS", "Clock", "VirtualLoop", "settle"]

Clock = LoopClock

BACKENDS: dict[str, Callable[[], dict[str, object]]] = {
    "asyncio": lambda: virtual_time("asyncio")[1],
    "trio": lambda: virtual_time("trio")[1],
}


async def settle() -> None:
    """Let every other task run until it waits; no time passes."""
    await anyio.wait_all_tasks_blocked()
