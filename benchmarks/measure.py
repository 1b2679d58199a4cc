"""One contestant at one size, in a process of its own: `python -m benchmarks.measure NAME SIZE SEED` prints JSON.

A process of its own keeps memory and garbage collection fair: nobody inherits another's arenas or collections. The
collector is on, as for users; what is there when a measurement starts is frozen first. The one exception is a bare dict
of as many sessions, made once the memory is counted, that get and touch are measured beside: processes of different
moments cannot be compared that closely.
"""

import gc
import json
import random
import secrets
import sys
from collections.abc import Sequence

import anyio
import psutil

from .by_hand import BareDict
from .clocks import Clock, RealClock, SettableClock
from .contestant import Contestant
from .contestants import BY_NAME
from .ours import Ours, OursWithSdk
from .timing import Lateness, batches, beside, best, best_of, frozen, seconds, spin

FOREVER = 86400.0
COARSE = 10_000
"""Below so many sessions, pages of memory are too coarse to say what one takes."""
PAIRS, BATCH = 41, 10_000
"""How often get and touch are measured beside the bare dict's, and with how many ids. With fewer ids a turn is mostly
about what the other one's has left in the processor's caches; with more, the machine has time to change."""

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
        numbers["use"], numbers["use of M"] = await get_and_touch(store, ids, dice)
        with frozen():
            new = [secrets.token_urlsafe(32) for _ in range(2_000)]
            numbers["churn"] = await best(store.churn, batches(new, 7, 2_000))
            numbers["idle pass"] = await best_of(store.expire, 30) if kind.expires else None
            numbers["export"] = await best_of(store.collect, 7) if isinstance(store, OursWithSdk) else None
        require(store, ids)
    return numbers


async def get_and_touch(store: Contestant, ids: Sequence[str], dice: random.Random) -> tuple[float, float]:
    """Return the seconds that they take, and how many times as long as in a bare dict of the same sessions."""
    bare = BareDict(len(ids), FOREVER)
    await bare.create(ids)
    order, another = dice.sample(ids, len(ids)), dice.sample(ids, len(ids))
    with frozen():
        # What a touch allocates lies in the order of touches; left in that of creation, the younger store is faster.
        await store.use(order)
        await bare.use(another)
        return await beside(store.use, batches(order, PAIRS, BATCH), bare.use, batches(another, PAIRS, BATCH))


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


def main(name: str, size: str, seed: str) -> None:
    print(json.dumps(anyio.run(measure, BY_NAME[name], int(size), random.Random(seed))))


if __name__ == "__main__":
    main(*sys.argv[1:])
