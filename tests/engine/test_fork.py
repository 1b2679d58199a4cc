"""A forked process has nothing of its parent's sessions, and its managers work."""

from pathlib import Path

import anyio
import pytest

from otel_sessions import EndReason, JsonLinesSink, SessionConfig, SessionManager, SinkClosed
from otel_sessions._core.forks import Forks, forks
from tests.programs import output_of
from tests.signals import Signals

processes = pytest.mark.processes

PARENT = """
import asyncio
import os
import sys
import threading
import warnings

import anyio
from otel_sessions import ManagerClosed, SessionConfig, SessionManager
from otel_sessions._telemetry import providers
from tests.signals import Signals

warnings.simplefilter("ignore", DeprecationWarning)  # of a fork where threads run
signals = Signals()
manager = SessionManager(SessionConfig(max_sessions=5), meter_provider=signals.meter_provider)


def fork(child):
    \"\"\"Run a function in a forked process, and return once that has ended.\"\"\"
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        try:
            child()
        finally:
            sys.stdout.flush()
            os._exit(0)
    os.waitpid(pid, 0)


def books(of):
    stats = of.get_metrics()
    return stats.total_created, stats.total_cleaned, stats.currently_active, stats.leased, stats.reserved, len(of)


def exported():
    export = signals.export()
    return [int(export.sums(f"session.{what}")["default"]) for what in ("created", "cleaned", "active", "limit")]


async def refused():
    try:
        await manager.create_session()
    except ManagerClosed as error:
        return error.entered


async def use():
    async with manager:
        await manager.create_session()
        print("in use", books(manager), exported())
"""


def after(program: str) -> list[str]:
    return output_of(f"{PARENT}\n{program}")


@processes
def test_a_copy_of_a_running_manager_has_ended_with_empty_books() -> None:
    program = """
def child():
    print("child", books(manager), exported())
    print(session.end_reason, manager.get(session.id), asyncio.run(refused()))

async def main():
    global session
    async with manager:
        session = await manager.create_session()
        await manager.create_session("leased")
        with manager.pin("leased"):
            async with manager.reserve():
                fork(child)
                print("parent", books(manager), exported(), session.end_reason)

asyncio.run(main())
"""
    assert after(program) == [
        "child (0, 0, 0, 0, 0, 0) [0, 0, 0, 0]",
        "shutdown None True",
        "parent (2, 0, 2, 1, 1, 2) [2, 0, 2, 5] None",
    ]


@processes
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_copy_may_be_entered_again_in_the_child(backend: str) -> None:
    program = f"""
def child():
    anyio.run(use, backend={backend!r})
    print("after", books(manager), exported())

async def main():
    async with manager:
        await manager.create_session()
        thread = threading.Thread(target=fork, args=(child,))
        thread.start()
        thread.join()
        print("parent", books(manager), exported())

asyncio.run(main())
"""
    assert after(program) == [
        "in use (1, 0, 1, 0, 0, 1) [1, 0, 1, 5]",
        "after (1, 1, 0, 0, 0, 0) [1, 1, 0, 0]",
        "parent (1, 0, 1, 0, 0, 1) [1, 0, 1, 5]",
    ]


@processes
def test_a_manager_that_had_ended_or_was_gone_before_the_fork_counts_nothing_in_the_child() -> None:
    program = """
asyncio.run(use())
gone = SessionManager(SessionConfig(max_sessions=5), meter_provider=signals.meter_provider)
async def live():
    async with gone:
        await gone.create_session()
asyncio.run(live())
del gone

def child():
    print("child", books(manager), exported())
    asyncio.run(use())

fork(child)
print("parent", books(manager), exported())
"""
    assert after(program) == [
        "in use (1, 0, 1, 0, 0, 1) [1, 0, 1, 5]",
        "child (0, 0, 0, 0, 0, 0) [0, 0, 0, 0]",
        "in use (1, 0, 1, 0, 0, 1) [1, 0, 1, 5]",
        "parent (1, 1, 0, 0, 0, 0) [2, 2, 0, 0]",
    ]


@processes
def test_a_new_manager_works_in_the_child() -> None:
    program = """
def child():
    global manager
    manager = SessionManager(SessionConfig(max_sessions=5), meter_provider=signals.meter_provider)
    asyncio.run(use())

async def main():
    async with manager:
        await manager.create_session()
        thread = threading.Thread(target=fork, args=(child,))
        thread.start()
        thread.join()

asyncio.run(main())
"""
    assert after(program) == ["in use (1, 0, 1, 0, 0, 1) [1, 0, 1, 5]"]


@processes
def test_locks_that_are_held_during_the_fork_do_not_hold_the_child() -> None:
    program = """
asyncio.run(use())
metrics = manager._telemetry._registration.metrics
held, over = threading.Event(), threading.Event()

def hold():
    with providers._registry._lock, metrics._creating:
        held.set()
        over.wait()

thread = threading.Thread(target=hold)
thread.start()
held.wait()

def child():
    print("child", books(manager), exported())
    asyncio.run(use())

fork(child)
over.set()
thread.join()
"""
    assert after(program) == [
        "in use (1, 0, 1, 0, 0, 1) [1, 0, 1, 5]",
        "child (0, 0, 0, 0, 0, 0) [0, 0, 0, 0]",
        "in use (1, 0, 1, 0, 0, 1) [1, 0, 1, 5]",
    ]


@processes
def test_leaving_the_block_in_the_child_ends_nothing_and_waits_for_nothing() -> None:
    program = """
async def hook(session, reason):
    print("the hook runs in", "the child" if os.getpid() != parent else "the parent")

manager = SessionManager(SessionConfig(max_sessions=5), on_close=hook, meter_provider=signals.meter_provider)
parent = os.getpid()

async def leave():
    await manager.shutdown()
    await manager.__aexit__(None, None, None)

def child():
    asyncio.run(leave())
    print("child", books(manager))

async def main():
    async with manager:
        await manager.create_session()
        thread = threading.Thread(target=fork, args=(child,))
        thread.start()
        thread.join()

asyncio.run(main())
print("parent", books(manager))
"""
    assert after(program) == [
        "child (0, 0, 0, 0, 0, 0)",
        "the hook runs in the parent",
        "parent (1, 1, 0, 0, 0, 0)",
    ]


@processes
def test_the_copy_of_a_sink_loses_no_record_in_silence(tmp_path: Path) -> None:
    program = f"""
from otel_sessions import JsonLinesSink, SinkClosed

async def export(sink, session):
    try:
        await sink.export(session, "closed")
    except SinkClosed as error:
        print("child", "use it inside its `async with` block" in str(error))
        print(sink.waiting, sink.written, sink.dropped)

async def main():
    sink = JsonLinesSink({str(tmp_path / "sessions.jsonl")!r})
    async with sink, SessionManager(sink=sink) as manager:
        session = await manager.create_session()
        await manager.close_session(session.id)
        thread = threading.Thread(target=fork, args=(lambda: asyncio.run(export(sink, session)),))
        thread.start()
        thread.join()
    print("parent", sink.waiting, sink.written, sink.dropped)

asyncio.run(main())
"""
    assert after(program) == ["child True", "0 0 1", "parent 0 1 0"]


@pytest.mark.anyio
async def test_what_a_fork_calls_in_the_child_empties_all_books(tmp_path: Path) -> None:
    """The same within this process, where it can be traced."""
    signals = Signals()
    manager = SessionManager(SessionConfig(max_sessions=5), meter_provider=signals.meter_provider)
    sink = JsonLinesSink(tmp_path / "sessions.jsonl")
    async with manager:
        session = await manager.create_session()
        with pytest.raises(SinkClosed):
            await sink.export(session, EndReason.CLOSED)
        forks.start_anew()
    assert session.end_reason is EndReason.SHUTDOWN
    assert (manager.get_metrics().total_created, sink.dropped) == (0, 0)
    assert signals.export().sums("session.created") == {"default": 0}
    async with manager:
        await manager.create_session()
        await anyio.lowlevel.checkpoint()
        assert signals.export().sums("session.active") == {"default": 1}


def test_what_cannot_begin_anew_keeps_nothing_else_from_it(caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        def start_anew_after_fork(self) -> None:
            raise OSError("broken")

    class Sound:
        anew = False

        def start_anew_after_fork(self) -> None:
            self.anew = True

    known, broken, sound = Forks(), Broken(), Sound()
    known.add(broken)
    known.add(sound)

    known.start_anew()

    assert sound.anew
    assert "could not begin anew" in caplog.text
