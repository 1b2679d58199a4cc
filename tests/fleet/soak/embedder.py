"""A process of the fault matrix: `python -m tests.fleet.soak.embedder ORDERS`.

It makes, serves and ends sessions, and writes all of it to its journal. SIGTERM ends it as a deploy would. It also ends
when its standard input ends, so that it never outlives the test.
"""

import os
import random
import signal
import sys
import threading
import time
from pathlib import Path

import anyio

from otel_sessions import (
    EndReason,
    Session,
    SessionConfig,
    SessionExists,
    SessionManager,
    SessionNotFound,
    StoreUnavailable,
    TooManySessions,
)
from otel_sessions.fleet import Orphan, ValkeyFleet

from .journal import Journal, Kind
from .orders import SECRET, Orders

_LONGEST_HOOK = 1.0
"""Seconds for one hook. A claim lasts five seconds longer, so a survivor of a survivor waits for both."""


class Load:
    """What one process does, and the journal of it."""

    def __init__(self, orders: Orders) -> None:
        self.orders = orders
        self.journal = Journal(Path(orders.journal))
        self.has: dict[str, None] = {}
        """The sessions that were acknowledged here and have not ended."""
        self._made = 0
        self._under_way = 0
        self._dice = random.Random(orders.name)  # noqa: S311  # the load's dice are no secret

    async def closed(self, session: Session[None], reason: EndReason) -> None:
        self.has.pop(session.id, None)
        self.journal.note(Kind.ENDED, session.id, reason)

    async def orphaned(self, orphan: Orphan) -> None:
        session = orphan.blob.decode()
        self.journal.note(Kind.ORPHAN, session, orphan.token)
        await anyio.sleep(self.orders.hook)
        self.journal.note(Kind.CLEANED, session, orphan.token)

    async def run(self, manager: SessionManager[None]) -> None:
        self.journal.note(Kind.READY)
        async with anyio.create_task_group() as tasks:
            for _ in range(self.orders.creators):
                tasks.start_soon(self._make, manager)
            tasks.start_soon(self._use, manager)

    async def _make(self, manager: SessionManager[None]) -> None:
        while True:
            if len(self.has) + self._under_way < self.orders.wanted:
                await self._make_one(manager)
            else:
                await anyio.sleep(self.orders.tick)

    async def _make_one(self, manager: SessionManager[None]) -> None:
        self._made += 1
        session_id = f"{self.orders.name}-{self._made}"
        self.journal.note(Kind.ASKED, session_id)
        self._under_way += 1
        try:
            session = await manager.create_session(session_id)
        except (TooManySessions, StoreUnavailable, SessionExists, SessionNotFound) as error:
            self.journal.note(Kind.REFUSED, session_id, type(error).__name__)
            await anyio.sleep(self.orders.tick)
        else:
            self.journal.note(Kind.MADE, session_id)
            if session.end_reason is None:
                self.has[session_id] = None
        finally:
            self._under_way -= 1

    async def _use(self, manager: SessionManager[None]) -> None:
        while True:
            ids = list(self.has)
            for session_id in self._dice.sample(ids, min(self.orders.serves, len(ids))):
                self._serve(manager, session_id)
            if len(ids) > 1 and manager.get(ending := self._dice.choice(ids)) is not None:
                await manager.close_session(ending)  # as a client does: only what is served can be ended
            await anyio.sleep(self.orders.tick)

    def _serve(self, manager: SessionManager[None], session_id: str) -> None:
        before = time.monotonic_ns()
        seen = manager.get(session_id)
        self.journal.note(Kind.BLIND if seen is None else Kind.SERVED, session_id, at=before)


async def main(orders: Orders) -> None:
    load = Load(orders)
    fleet = ValkeyFleet(
        orders.url,
        name=orders.fleet,
        address="http://127.0.0.1:1",
        secret=SECRET,
        max_sessions=orders.cap,
        lease=orders.lease,
        outage=orders.policy,  # type: ignore[arg-type]
        shards=orders.shards,
        describe=lambda session: session.id.encode(),
        on_orphan=load.orphaned,
        cluster=orders.cluster,
        sentinel=orders.sentinel,
    )
    config = SessionConfig(max_sessions=orders.cap, max_idle_time=None, close_timeout=_LONGEST_HOOK)
    with anyio.open_signal_receiver(signal.SIGTERM) as signals:
        async with (
            SessionManager(config, fleet=fleet, on_close=load.closed) as manager,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(load.run, manager)
            async for _ in signals:
                tasks.cancel_scope.cancel()
                break


def _end_with_the_test() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_end_with_the_test, daemon=True).start()
    told = Orders.loads(sys.argv[1])
    anyio.run(main, told, backend=told.backend)
