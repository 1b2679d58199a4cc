"""A program with managers in trouble: hooks that fail and hang, a sink that fails, passes that abort and are cut off, a
cap that is met, and a pass that is late. It exports for as long as it runs, and says at its end what its books say.

What it does is known beforehand, pass by pass, so a test can hold Prometheus against it.
"""

import json
import sys
import time

import anyio

from otel_sessions import EndReason, Session, SessionConfig, SessionManager, TooManySessions
from otel_sessions._program.otlp import exporting

SECRET = "an-id-that-nobody-may-see"
CONFIG = SessionConfig(
    cleanup_interval=600.0, max_idle_time=600.0, max_sessions=4, close_timeout=0.1, emergency_idle_time=500.0
)


class Clock:
    """A monotonic clock that can be set forward, and broken."""

    def __init__(self) -> None:
        self.ahead = 0.0
        self.broken = False

    def __call__(self) -> float:
        if self.broken:
            raise OSError("the clock is broken")
        return time.monotonic() + self.ahead


async def hook(session: Session[str], reason: EndReason) -> None:
    if session.data == "fails":
        raise ValueError("the upstream hung up first")
    if session.data == "hangs":
        await anyio.sleep_forever()


class FailingSink:
    async def export(self, session: Session[str], reason: EndReason) -> None:
        if session.data == "unexportable":
            raise OSError("no space left on device")


async def end_one(manager: SessionManager[str], data: str) -> None:
    """Make a session and let a pass end it."""
    (await manager.create_session(f"{SECRET}-{data}", data=data)).fail("on purpose")
    await manager.cleanup_stale_sessions()


async def troubles(manager: SessionManager[str], clock: Clock) -> None:
    for data in ("well", "fails", "hangs", "unexportable"):
        await end_one(manager, data)
    clock.broken = True
    await manager.cleanup_stale_sessions()
    clock.broken = False
    with anyio.move_on_after(0.02):
        await end_one(manager, "hangs")
    await manager.close_session((await manager.create_session(data="well")).id)
    while len(manager) < 4:
        await manager.create_session(data="well")
    for _ in range(3):
        try:
            await manager.create_session(data="refused")
        except TooManySessions:
            continue


async def main(seconds: float) -> None:
    late = Clock()
    clock = Clock()
    manager = SessionManager[str](CONFIG, name="troubled", on_close=hook, sink=FailingSink(), clock=clock)
    async with manager, SessionManager[None](CONFIG, name="late", clock=late):
        await troubles(manager, clock)
        late.ahead = 2000.0
        await anyio.sleep(seconds)
    stats = manager.get_metrics()
    books = {
        "created": stats.total_created,
        "cleaned": dict(stats.cleaned_by_reason),
        "rejected": dict(stats.rejected),
        "runs": stats.cleanup_runs,
        "errors": stats.cleanup_errors,
        "active": stats.currently_active,
    }
    sys.stdout.write(json.dumps(books) + "\n")


if __name__ == "__main__":
    with exporting("otel-sessions-proxy"):
        anyio.run(main, float(sys.argv[1]))
