"""How something is timed.

Times are CPU time, so that nobody else's turn counts, but for how late the loop is. What is measured alone, in batches,
is the best of them, since noise only adds. What is measured beside another, in turns too short for the machine to
change meanwhile, is the median of the pairs' ratios.
"""

import gc
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from statistics import median
from typing import TypeVar

import anyio
import anyio.lowlevel

TICK = 0.001
"""Seconds from one tick of the loop to the next."""

ItemT = TypeVar("ItemT")
OtherT = TypeVar("OtherT")

Timed = Callable[[Sequence[ItemT]], Awaitable[None]]
"""What is done with each item of a batch, such as an id."""


async def seconds(work: Callable[[], Awaitable[object]]) -> float:
    """Return the CPU time that this process spends on some work."""
    started = time.process_time()
    await work()
    return time.process_time() - started


async def seconds_an_item(work: Timed[ItemT], batch: Sequence[ItemT]) -> float:
    return await seconds(lambda: work(batch)) / len(batch)


async def best(work: Timed[ItemT], items: Iterator[Sequence[ItemT]]) -> float:
    """Return the seconds that an item takes in the best batch."""
    return min([await seconds_an_item(work, batch) for batch in items])


async def best_of(work: Callable[[], Awaitable[object]], times: int) -> float:
    return min([await seconds(work) for _ in range(times)])


async def beside(
    work: Timed[ItemT], items: Iterator[Sequence[ItemT]], other: Timed[OtherT], its: Iterator[Sequence[OtherT]]
) -> tuple[float, float]:
    """Do the one and the other with a batch each, in turns; the one that goes first changes with every pair.

    Returns the seconds that an item takes the one in its best batch, and how many times as long as the other it takes.
    """
    took, ratios = [], []
    for number, (mine, theirs) in enumerate(zip(items, its, strict=True)):
        if number % 2:
            one = await seconds_an_item(work, mine)
            two = await seconds_an_item(other, theirs)
        else:
            two = await seconds_an_item(other, theirs)
            one = await seconds_an_item(work, mine)
        took.append(one)
        ratios.append(one / two)
    return min(took), median(ratios)


def batches(items: Sequence[ItemT], count: int, size: int) -> Iterator[Sequence[ItemT]]:
    """Return `count` batches of `size` items, which start over where they end."""
    many = list(items) * (count * size // len(items) + 1)
    return (many[number * size : (number + 1) * size] for number in range(count))


@contextmanager
def frozen() -> Iterator[None]:
    """Spare the garbage collector what is there now."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


class Lateness:
    """How late a task that ticks is on the loop while something else runs there. `most` is in seconds."""

    def __init__(self) -> None:
        self.most = 0.0

    async def during(self, work: Callable[[], Awaitable[object]]) -> float:
        """Do the work, and return how many seconds it took."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._tick)
            await anyio.sleep(5 * TICK)  # it ticks before the work begins
            self.most = 0.0
            took = await seconds(work)
            await anyio.sleep(5 * TICK)  # and has noticed the end of it
            tasks.cancel_scope.cancel()
        return took

    async def _tick(self) -> None:
        while True:
            due = anyio.current_time() + TICK
            await anyio.sleep_until(due)
            self.most = max(self.most, anyio.current_time() - due)


async def spin() -> None:
    """Keep the loop busy in slices of half a millisecond: how late a task is then is the machine's own doing."""
    for _ in range(300):
        end = time.perf_counter() + 0.0005
        while time.perf_counter() < end:
            pass
        await anyio.lowlevel.checkpoint()
