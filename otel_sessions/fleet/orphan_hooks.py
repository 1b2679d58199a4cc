"""The embedder's hook for sessions of dead processes, bounded in time and in number.

What always holds: each orphan that was claimed is settled, whatever its hook does, unless this run ends before. Then
its claim runs out, and another process runs the hook again.
"""

import logging
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeAlias

import anyio

from otel_sessions._core.events import Event
from otel_sessions._core.words import OrphanOutcome
from otel_sessions._engine.sharing import Run
from otel_sessions._engine.tasks import Tasks

from .orphans import Claimed, Settled
from .scripts import MOST

_logger = logging.getLogger("otel_sessions")


@dataclass(frozen=True, kw_only=True, slots=True)
class Orphan:
    """A session whose process has died.

    `ref` stands for its id in the store; the id itself is known to its process only. `blob` is what `describe` returned
    for it. `token` grows each time that a process begins to end it: a hook may run again after a crash, with a larger
    token. `age` is in seconds. `owner` is the number of the membership of the dead process.
    """

    ref: str
    blob: bytes
    token: int
    age: float
    owner: int


OrphanHook: TypeAlias = Callable[[Orphan], Awaitable[None]]


class OrphanHooks:
    """Runs the hooks of one run. `settle` takes an orphan whose hook has run, and returns False if it is too late.

    `note` is told what became of each orphan. `wake` is called when there is something to settle.
    """

    def __init__(
        self,
        hook: OrphanHook | None,
        run: Run,
        settle: Callable[[Claimed], bool],
        note: Callable[[Claimed, OrphanOutcome], None],
        wake: Callable[[], None],
    ) -> None:
        self._hook: Final = hook
        self._run: Final = run
        self._settle: Final = settle
        self._note: Final = note
        self._wake: Final = wake
        self._calls: Final = Tasks()
        self._running = 0
        self._failed: set[Claimed] = set()

    @property
    def room(self) -> int:
        """For how many more orphans a hook is free."""
        return MOST if self._hook is None else max(0, self._run.max_concurrent_closes - self._running)

    def begin(self, claimed: Claimed, now: float, within: AbstractContextManager[None]) -> None:
        """Run the hook of an orphan `within` a block. `now` is the store's time in seconds since 1970."""
        if self._hook is None:
            self._end(claimed)
            return
        orphan = Orphan(
            ref=claimed.ref,
            blob=claimed.blob,
            token=claimed.turn,
            age=max(0.0, now - claimed.created / 1000),
            owner=claimed.owner,
        )
        self._running += 1
        hook = partial(_call_within, within, self._hook, orphan)
        self._run.start("fleet orphans", partial(self._serve, hook, claimed))

    def settled(self, settled: Settled) -> None:
        """Note what became of an orphan."""
        failed = settled.claimed in self._failed
        self._failed.discard(settled.claimed)
        done = OrphanOutcome.FAILED if failed else OrphanOutcome.CLEANED
        self._note(settled.claimed, done if settled.counted else OrphanOutcome.TAKEN)

    async def _serve(self, hook: Callable[[], Awaitable[None]], claimed: Claimed) -> None:
        over = anyio.Event()
        failures: list[Exception] = []

        async def call() -> None:
            try:
                await hook()
            except Exception as error:
                failures.append(error)

        task = self._calls.start("otel-sessions orphan", call, on_end=over.set)
        try:
            with anyio.move_on_after(self._run.close_timeout):
                await over.wait()
        finally:
            self._running -= 1
            if not task.done:
                task.cancel()
        if failures or not over.is_set():
            self._note_failure(claimed, failures[0] if failures else None)
        self._end(claimed)

    def _note_failure(self, claimed: Claimed, failure: Exception | None) -> None:
        self._failed.add(claimed)
        _logger.warning(
            "the hook of an orphan %s",
            "was cut off" if failure is None else "failed",
            exc_info=failure,
            extra=Event.ORPHAN_HOOK_FAILED.extra,
        )

    def _end(self, claimed: Claimed) -> None:
        if not self._settle(claimed):
            self._failed.discard(claimed)
            self._note(claimed, OrphanOutcome.TAKEN)
        self._wake()


async def _call_within(within: AbstractContextManager[None], hook: OrphanHook, orphan: Orphan) -> None:
    with within:
        await hook(orphan)
