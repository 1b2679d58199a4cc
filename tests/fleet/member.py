"""A process of a fleet on a real store, for tests that kill and pause it: `python -m tests.fleet.member URL SESSIONS`.

It makes its sessions, prints `made`, then prints every 20 ms how many of them are visible, each with the time.
"""

import sys
import time

import anyio

from otel_sessions import EndReason, Session, SessionManager
from otel_sessions.fleet import ValkeyFleet
from tests.fleet.processes import SECRET

LEASE = 1.5


def fleet(url: str, **options: object) -> ValkeyFleet:
    given: dict[str, object] = {"name": "f", "address": "http://127.0.0.1:1", "shards": 2, "lease": LEASE}
    return ValkeyFleet(url, **{"secret": SECRET, "max_sessions": 400, **given, **options})  # type: ignore[arg-type]


def say(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


async def main(url: str, number: int) -> None:
    async def ended(session: Session[None], reason: EndReason) -> None:
        say("ended", reason)

    fleet_of_member = fleet(url, describe=lambda session: session.id.encode())
    async with SessionManager(fleet=fleet_of_member, on_close=ended) as manager:
        sessions = [await manager.create_session() for _ in range(number)]
        say("made")
        while True:
            visible = sum(session.id in manager for session in sessions)
            say("visible", visible, time.time())
            await anyio.sleep(0.02)


if __name__ == "__main__":
    anyio.run(main, sys.argv[1], int(sys.argv[2]), backend=sys.argv[3])
