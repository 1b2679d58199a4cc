"""One contestant at one size, in a process of its own: `python -m benchmarks.measure NAME SIZE SEED` prints JSON.

A process of its own keeps memory and garbage collection fair: nobody inherits another's arenas or collections. The
collector is on, as for users; what is there when a measurement starts is frozen first. The exceptions are two bare
dicts: one of as many sessions, made once the memory is counted, and one of 1,000 (`unit.py`). What is measured is given
as a multiple of what they take, since processes of different moments cannot be compared that closely.
"""

import gc
import json
import random
import secrets
import sys
from collections.abc import Sequence

import anyio
import psutil

from otel_sessions.asgi import SessionLeaseMiddleware
from otel_sessions.matchers import HeaderMatcher

from .by_hand import BareDict
from .clocks import Clock, RealClock, SettableClock
from .contestant import Contestant
from .contestants import BY_NAME
from .ours import Ours, OursWithSdk
from .requests import Server, bare_app, request_of
from .timing import Lateness, batches, beside, best, best_of, frozen, seconds, spin
from .unit import Unit

FOREVER = 86400.0
COARSE = 10_000
"""Below so many sessions, pages of memory are too coarse to say what one takes, and a tenth too few to be timed."""
PAIRS, BATCH = 41, 10_000
"""How often get and touch are measured beside the bare dict's, and with how many ids. With fewer ids a turn is mostly
about what the other one's has left in the processor's caches; with more, the machine has time to change."""
USES, USED = 21, 2_000
"""How often leases and requests are measured beside u, and how many at a time: each takes tens of u."""

Numbers = dict[str, float | None]


async def measure(kind: type[Contestant], size: int, dice: random.Random) -> Numbers:
    """Return every number of a contestant with `size` live sessions.

    They are u an operation; multiples of what the bare dict of that size takes (`of M`); seconds (`u`, `late`,
    `late alone`); bytes a session (`bytes`).
    """
    ids = [secrets.token_urlsafe(32) for _ in range(size)]
    unit = await Unit.ready()
    return {
        "u": await unit.seconds(),
        **await standing(kind, ids, dice, unit),
        **await creating(kind, ids),
        **await expiring(kind, ids, dice, unit),
    }


async def standing(kind: type[Contestant], ids: Sequence[str], dice: random.Random, unit: Unit) -> Numbers:
    """Measure while nothing is due. One more place than sessions, so that one can come and go."""
    size = len(ids)
    gc.collect()
    before = psutil.Process().memory_info().rss
    async with kind(size + 1, FOREVER) as store:
        numbers: Numbers = {"create": await seconds(lambda: store.create(ids)) / size / await unit.seconds()}
        await store.use(ids)  # the first touch of each takes memory as well
        taken = psutil.Process().memory_info().rss - before
        numbers["bytes"] = taken / size if size >= COARSE else None
        numbers |= await beside_bare(store, ids, dice)
        with frozen():
            u = await unit.seconds()
            new = [secrets.token_urlsafe(32) for _ in range(2_000)]
            numbers["churn"] = await best(store.churn, batches(new, 7, 2_000)) / u
            numbers["idle pass"] = await best_of(store.expire, 30) / u if kind.expires else None
            numbers["export"] = await best_of(store.collect, 7) / u if isinstance(store, OursWithSdk) else None
            if isinstance(store, Ours):
                numbers |= await leasing(store, dice.choices(ids, k=USED), unit)
        require(store, ids)
    return numbers


async def beside_bare(store: Contestant, ids: Sequence[str], dice: random.Random) -> Numbers:
    """Return how many times as long get and touch take, in two steps and in one, as in a bare dict of as many."""
    bare = BareDict(len(ids), FOREVER)
    await bare.create(ids)
    order, another = dice.sample(ids, len(ids)), dice.sample(ids, len(ids))
    with frozen():
        # What a touch allocates lies in the order of touches; left in that of creation, the younger store is faster.
        await store.use(order)
        await bare.use(another)
        _, use = await beside(store.use, batches(order, PAIRS, BATCH), bare.use, batches(another, PAIRS, BATCH))
        if not isinstance(store, Ours):
            return {"use of M": use, "touch of M": use}
        _, touch = await beside(store.touch, batches(order, PAIRS, BATCH), bare.use, batches(another, PAIRS, BATCH))
        return {"use of M": use, "touch of M": touch}


async def leasing(store: Ours, ids: Sequence[str], unit: Unit) -> Numbers:
    """Measure what keeps a session for a block, and a request of an ASGI app in its session."""
    middleware = Server(SessionLeaseMiddleware(bare_app, store.manager, HeaderMatcher()))
    requests = [request_of(session_id) for session_id in ids]
    numbers: Numbers = {
        "pin": await unit.of(store.pin, [ids] * USES),
        "hold": await unit.of(store.hold, [ids] * USES),
        "lease": await unit.of(store.lease, [ids] * USES),
        "middleware": await unit.of(middleware.serve, [requests] * USES),
        "bare app": await unit.of(Server(bare_app).serve, [requests] * USES),
    }
    if middleware.answered != USES * len(requests):
        raise RuntimeError(f"{middleware.answered} of {USES * len(requests)} requests were answered")
    return numbers


async def creating(kind: type[Contestant], ids: Sequence[str]) -> Numbers:
    """Return how many times as long as in a bare dict it takes us to make the last tenth of all sessions, by turns."""
    if len(ids) < COARSE or not issubclass(kind, Ours):
        return {"create of M": None}
    bare, most = BareDict(len(ids), FOREVER), len(ids) - len(ids) // 10
    async with kind(len(ids), FOREVER) as store:
        await store.create(ids[:most])
        await bare.create(ids[:most])
        with frozen():
            turns = [ids[start : start + len(ids) // 200] for start in range(most, len(ids), len(ids) // 200)]
            _, ratio = await beside(store.create, iter(turns), bare.create, iter(turns))
        require(store, ids)
    return {"create of M": ratio}


async def refusal(store: Ours) -> float:
    """Measure between two emergency passes: no time passes for the manager, so there is only the first one."""
    await store.refuse(1)
    await anyio.wait_all_tasks_blocked()  # the pass that the first one asked for
    return await best_of(lambda: store.refuse(1_000), 7) / 1_000


async def expiring(kind: type[Contestant], ids: Sequence[str], dice: random.Random, unit: Unit) -> Numbers:
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
            u = await unit.seconds()
            refused = await refusal(store) / u if isinstance(store, Ours) else None
            await clock.pass_time(max(0.0, filled + idle - clock.read()))
            expired = await late.during(store.expire)
            u = min(u, await unit.seconds())
            require(store, used)
            await store.use(used)
            await clock.pass_time(idle * 0.7)
            anew = await seconds(store.expire)
            require(store, used)
        await store.use(used)
    alone = Lateness()
    await alone.during(spin)
    return {
        "expired": expired / len(due) / u,
        "late": late.most,
        "late alone": alone.most,
        "filed anew": anew / len(used) / u,
        "refusal": refused,
    }


def require(store: Contestant, sessions: Sequence[str]) -> None:
    if len(store) != len(sessions):
        raise RuntimeError(f"{len(store)} sessions are left where {len(sessions)} have to be")


def main(name: str, size: str, seed: str) -> None:
    print(json.dumps(anyio.run(measure, BY_NAME[name], int(size), random.Random(seed))))


if __name__ == "__main__":
    main(*sys.argv[1:])
