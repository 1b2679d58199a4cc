"""One contestant at one size, in a process of its own: `python -m benchmarks.measure NAME SIZE SEED` prints JSON.

A process of its own keeps memory and garbage collection fair: nobody inherits another's arenas or collections. The
collector is on, as for users; what is there when a measurement starts is frozen first. Times are CPU time, so that
nobody else's turn counts, but for how late the loop is. Where a measurement has batches, its number is the best of
them, since noise only adds: how far processes lie apart is for the run to show.
"""

import gc
import json
import random
import secrets
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager

import anyio
import anyio.lowlevel
import psutil

from .clocks import Clock, RealClock, SettableClock
from .contestant import Contestant
from .contestants import BY_NAME
from .ours import Ours, OursWithSdk

FOREVER = 86400.0
TICK = 0.001
"""Seconds from one tick of the loop to the next."""
COARSE = 10_000
"""Below so many sessions, pages of memory are too coarse to say what one takes."""

Numbers = dict[str, float | None]


async def measure(kind: type[Contestant], size: int, dice: random.Random) -> Numbers:
    """Return every number of a contestant with `size` live sessions: seconds an operation, and bytes a session."""
    ids = [secrets.token_urlsafe(32) for _ in range(size)]
    return {**await standing(kind, ids, dice), **await expiring(kind, ids, dice)}


async def standing(kind: type[Contestant], ids: Sequence[str], dice: random.Random) -> Numbers:
    """Measure while nothing is due. One more place than sessions, so that one can come and go."""
    size = len(ids)
    gc.collect()
    before = psutil.Process().memory_info().rss
    async with kind(size + 1, FOREVER) as store:
        numbers: Numbers = {"create": await seconds(lambda: store.create(ids)) / size}
        await store.use(ids)  # the first touch of each takes memory as well
        taken = psutil.Process().memory_info().rss - before
        numbers["bytes"] = taken / size if size >= COARSE else None
        with frozen():
            order = list(ids)
            dice.shuffle(order)
            numbers["use"] = await best(store.use, batches(order, 7, 50_000))
            new = [secrets.token_urlsafe(32) for _ in range(2_000)]
            numbers["churn"] = await best(store.churn, batches(new, 7, 2_000))
            numbers["idle pass"] = await best_of(store.expire, 30) if kind.expires else None
            numbers["export"] = await best_of(store.collect, 7) if isinstance(store, OursWithSdk) else None
        require(store, ids)
    return numbers


async def refusal(store: Ours) -> float:
    """Measure between two emergency passes: no time passes for the manager, so there is only the first one."""
    await store.refuse(1)
    await anyio.wait_all_tasks_blocked()  # the pass that the first one asked for
    return await best_of(lambda: store.refuse(1_000), 7) / 1_000


async def expiring(kind: type[Contestant], ids: Sequence[str], dice: random.Random) -> Numbers:
    """Let half of all sessions, any half, come due at once; measure its pass, and the loop meanwhile.

    Then the other half is used, and a pass measured that finds them where they would be due by now if they were not.
    """
    if not kind.expires:
        return {}
    idle = 1.0 + len(ids) * 6e-6 if kind.own_clock else 100.0
    chosen = list(ids)
    dice.shuffle(chosen)
    due, used = chosen[: len(ids) // 2], chosen[len(ids) // 2 :]
    clock: Clock = RealClock() if kind.own_clock else SettableClock()
    async with kind(len(ids), idle, clock.read) as store:
        await store.create(due)
        filled = clock.read()
        await clock.pass_time(idle * 0.6)
        await store.create(used)
        late = Lateness()
        with frozen():
            refused = await refusal(store) if isinstance(store, Ours) else None
            await clock.pass_time(max(0.0, filled + idle - clock.read()))
            expired = await late.during(store.expire)
            require(store, used)
            await store.use(used)
            await clock.pass_time(idle * 0.7)
            anew = await seconds(store.expire)
            require(store, used)
        await store.use(used)
    alone = Lateness()
    await alone.during(spin)
    return {
        "expired": expired / len(due),
        "late": late.most,
        "late alone": alone.most,
        "filed anew": anew / len(used),
        "refusal": refused,
    }


def require(store: Contestant, sessions: Sequence[str]) -> None:
    if len(store) != len(sessions):
        raise RuntimeError(f"{len(store)} sessions are left where {len(sessions)} have to be")


async def spin() -> None:
    """Keep the loop busy in slices of half a millisecond: how late a task is then is the machine's own doing."""
    for _ in range(300):
        end = time.perf_counter() + 0.0005
        while time.perf_counter() < end:
            pass
        await anyio.lowlevel.checkpoint()


class Lateness:
    """How late a task that ticks is on the loop while something else runs there. `most` is in seconds."""

    def __init__(self) -> None:
        self.most = 0.0

    async def during(self, work: Callable[[], Awaitable[object]]) -> float:
        """Do the work, and return how many seconds it took."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._tick)
            await anyio.sleep(5 * TICK)
            self.most = 0.0
            took = await seconds(work)
            await anyio.sleep(5 * TICK)
            tasks.cancel_scope.cancel()
        return took

    async def _tick(self) -> None:
        while True:
            due = anyio.current_time() + TICK
            await anyio.sleep_until(due)
            self.most = max(self.most, anyio.current_time() - due)


async def seconds(work: Callable[[], Awaitable[object]]) -> float:
    """Return the CPU time that this process spends on some work."""
    started = time.process_time()
    await work()
    return time.process_time() - started


async def best(work: Callable[[Sequence[str]], Awaitable[None]], ids: Iterator[Sequence[str]]) -> float:
    """Return the seconds that an id takes in the best batch."""
    return min([await seconds(lambda batch=batch: work(batch)) / len(batch) for batch in ids])  # type: ignore[misc]  # a default in a lambda


async def best_of(work: Callable[[], Awaitable[object]], times: int) -> float:
    return min([await seconds(work) for _ in range(times)])


def batches(ids: Sequence[str], count: int, size: int) -> Iterator[Sequence[str]]:
    """Return `count` batches of `size` ids, which start over where they end."""
    many = list(ids) * (count * size // len(ids) + 1)
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


def main(name: str, size: str, seed: str) -> None:
    print(json.dumps(anyio.run(measure, BY_NAME[name], int(size), random.Random(seed))))


if __name__ == "__main__":
    main(*sys.argv[1:])
