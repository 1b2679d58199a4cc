"""A `JsonLinesSink` against its one promise: what goes in comes out as a line, once, or is counted as dropped.

Hypothesis chooses when records come, what the disk takes of each write, when files are moved and deleted, and when the
sink is left and a new one entered.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import anyio.from_thread
import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from otel_sessions import (
    EndReason,
    JsonLinesSink,
    Record,
    SessionConfig,
    SessionManager,
    SinkFull,
    fingerprint,
    read_records,
)
from otel_sessions.sinks import _writer as writer_module
from otel_sessions.sinks.records import Skipped
from tests.waiting import PATIENCE

from .disks import Disk, rotated

BACKENDS = ["asyncio", "trio"]


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.0005)


class Model(RuleBasedStateMachine):
    backend = "asyncio"

    def __init__(self) -> None:
        super().__init__()
        self._patch = pytest.MonkeyPatch()
        self._disk = Disk(os.write)
        self._patch.setattr(os, "write", self._disk.write)
        self._patch.setattr(writer_module, "_GATHERING", 0.0005)
        self._patch.setattr(writer_module, "_FIRST_PAUSE", 0.001)
        self._patch.setattr(writer_module, "_LONGEST_PAUSE", 0.002)
        self._folder = tempfile.TemporaryDirectory()  # an example needs one of its own
        self._path = Path(self._folder.name) / "folder" / "sessions.jsonl"
        self._moved: list[Path] = []
        self._deleted: list[str] = []
        self._torn = self._parts = 0
        self._accepted: list[str] = []
        self._written = self._lost = self._refused = 0
        self._opening = anyio.from_thread.start_blocking_portal(self.backend)
        self._portal = self._opening.__enter__()
        manager = SessionManager(SessionConfig(max_sessions=None))
        self._managing = self._portal.wrap_async_context_manager(manager)
        self._manager = self._managing.__enter__()
        self._enter()

    def _enter(self) -> None:
        self._path.parent.mkdir(exist_ok=True)
        self._sink = JsonLinesSink(self._path, max_bytes=1000, keep=1000, queue_bytes=4000, close_timeout=PATIENCE)
        self._given = self._dropped = 0
        self._inside = self._portal.wrap_async_context_manager(self._sink)
        self._inside.__enter__()

    def _leave(self) -> None:
        self._inside.__exit__(None, None, None)
        assert self._sink.waiting == 0
        assert self._sink.written + self._sink.dropped == self._given
        self._written += self._sink.written
        self._lost += self._sink.dropped - self._dropped

    @rule(count=st.integers(1, 25))
    def export(self, count: int) -> None:
        for _ in range(count):
            session = self._portal.call(self._manager.create_session)
            self._given += 1
            try:
                self._portal.call(self._sink.export, session, EndReason.CLOSED)
            except SinkFull:
                self._dropped += 1
            else:
                self._accepted.append(fingerprint(session.id))

    @rule(takes=st.lists(st.integers(0, 700) | st.integers(-3, -1), max_size=4))
    def take_only_parts(self, takes: list[int]) -> None:
        self._disk.answers.extend(takes)
        self._parts += len(takes)

    @rule()
    def fill_the_disk(self) -> None:
        self._disk.full = True

    @rule()
    def clear_the_disk(self) -> None:
        self._disk.full = False

    @rule()
    def move_the_file(self) -> None:
        moved = self._path.with_name(f"moved-{len(self._moved)}")
        with suppress(FileNotFoundError):  # it may be on its way to be the older one, too
            self._path.rename(moved)
            self._moved.append(moved)

    @precondition(lambda self: not self._disk.full)
    @rule(folder=st.booleans())
    def delete_the_files(self, folder: bool) -> None:
        wait_until(lambda: not self._sink.waiting)
        self._forget(*rotated(self._path) if folder else [self._path], *self._moved if folder else [])
        if folder:
            self._moved.clear()
            shutil.rmtree(self._path.parent, ignore_errors=True)

    @rule()
    def leave_and_enter_again(self) -> None:
        self._disk.full = False
        self._leave()
        self._enter()

    @precondition(lambda self: self._disk.full)
    @rule()
    def give_up_and_enter_again(self) -> None:
        self._sink._close_timeout = 0.02
        self._leave()
        self._enter()

    @invariant()
    def nothing_is_uncounted(self) -> None:
        assert self._sink.dropped == self._dropped
        assert self._sink.written + self._sink.waiting + self._dropped <= self._given  # read one after another

    def teardown(self) -> None:
        try:
            self._disk.full = False
            self._leave()
            self._check()
        finally:
            self._managing.__exit__(None, None, None)
            self._opening.__exit__(None, None, None)
            self._patch.undo()
            self._folder.cleanup()

    def _check(self) -> None:
        in_files = [self._read(path) for path in [*rotated(self._path), *self._moved] if path.exists()]
        found = [one for in_file in in_files for one in in_file]
        assert len(set(found)) == len(found)
        assert len(found) + len(self._deleted) == self._written
        assert len(self._accepted) == self._written + self._lost
        assert set(found) | set(self._deleted) <= set(self._accepted)
        place = {one: place for place, one in enumerate(self._accepted)}
        assert all(sorted(in_file, key=place.__getitem__) == in_file for in_file in in_files)
        assert self._torn <= self._parts

    def _forget(self, *paths: Path) -> None:
        for path in paths:
            if path.exists():
                self._deleted += self._read(path)
                path.unlink()

    def _read(self, path: Path) -> list[str]:
        with path.open("rb") as file:
            items = list(read_records(file))
        self._torn += items.count(Skipped.TORN)
        assert Skipped.FOREIGN not in items
        return [item.session for item in items if isinstance(item, Record)]


@pytest.mark.no_cover  # the same lines again and again
@pytest.mark.parametrize("backend", BACKENDS)
def test_every_record_is_a_line_once_or_counted_as_dropped(backend: str) -> None:
    class OnBackend(Model):
        pass

    OnBackend.backend = backend
    run_state_machine_as_test(OnBackend, settings=settings(max_examples=40, stateful_step_count=20, deadline=None))
