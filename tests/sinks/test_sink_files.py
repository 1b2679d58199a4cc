"""The files of a `JsonLinesSink`: rotation, and what can happen to files, folders and disks underneath it."""

import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from otel_sessions import EndReason, JsonLinesSink, Session, SessionConfig, SessionManager, fingerprint, read_records
from otel_sessions.sinks.records import Skipped
from tests.processes import ROOT, killed_late
from tests.waiting import PATIENCE

from .disks import Disk, nothing_waits, records_in, replace_disk, rotated, until

pytestmark = pytest.mark.anyio

MAX_BYTES = 1000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "sessions.jsonl"


@pytest.fixture(autouse=True)
def folder(path: Path) -> Path:
    path.parent.mkdir()
    return path.parent


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return replace_disk(monkeypatch)


@asynccontextmanager
async def sessions(count: int) -> AsyncIterator[list[Session]]:
    async with SessionManager(SessionConfig(max_sessions=None)) as manager:
        yield [await manager.create_session() for _ in range(count)]


async def export(sink: JsonLinesSink, given: list[Session]) -> None:
    """Export one by one, each written before the next."""
    for session in given:
        await sink.export(session, EndReason.CLOSED)
        await nothing_waits(sink)


def hashes(given: list[Session]) -> list[str]:
    return [fingerprint(session.id) for session in given]


def found(*paths: Path) -> list[str]:
    return [record.session for record in records_in(*paths)]


def skipped(path: Path) -> list[Skipped]:
    with path.open("rb") as file:
        return [item for item in read_records(file) if isinstance(item, Skipped)]


class TestRotation:
    @pytest.mark.parametrize("at_once", [False, True])
    async def test_files_stay_small_and_the_last_ones_are_kept_in_order(self, path: Path, at_once: bool) -> None:
        async with JsonLinesSink(path, max_bytes=MAX_BYTES, keep=3) as sink, sessions(40) as given:
            if at_once:
                for session in given:
                    await sink.export(session, EndReason.CLOSED)
            else:
                await export(sink, given)
        files = rotated(path)
        assert [file.name for file in files] == [f"sessions.jsonl{suffix}" for suffix in (".3", ".2", ".1", "")]
        assert all(0 < file.stat().st_size <= MAX_BYTES for file in files)
        kept = found(*files)
        assert 10 < len(kept) < 40
        assert kept == hashes(given)[-len(kept) :]
        assert (sink.written, sink.dropped) == (40, 0)

    async def test_one_older_file_is_the_least(self, path: Path) -> None:
        async with JsonLinesSink(path, max_bytes=1, keep=1) as sink, sessions(3) as given:
            await export(sink, given)
        assert found(*rotated(path)) == hashes(given)[1:]

    async def test_a_record_that_is_larger_than_a_file_has_one_of_its_own(self, path: Path) -> None:
        async with JsonLinesSink(path, max_bytes=1, keep=9) as sink, sessions(4) as given:
            for session in given:
                await sink.export(session, EndReason.CLOSED)
        assert [found(file) for file in rotated(path)] == [[one] for one in hashes(given)]

    async def test_it_goes_on_with_the_files_that_are_there(self, path: Path) -> None:
        async with sessions(12) as given:
            for session in given:
                async with JsonLinesSink(path, max_bytes=MAX_BYTES, keep=9) as sink:
                    await sink.export(session, EndReason.CLOSED)
        files = rotated(path)
        assert len(files) > 2
        assert all(file.stat().st_size <= MAX_BYTES for file in files)
        assert found(*files) == hashes(given)

    async def test_a_rotation_that_fails_half_way_loses_and_repeats_nothing(
        self, path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with JsonLinesSink(path, max_bytes=1, keep=3) as sink, sessions(6) as given:
            await export(sink, given[:4])
            third = path.with_name("sessions.jsonl.3")
            third.unlink()
            third.mkdir()
            (third / "in the way").touch()
            await sink.export(given[4], EndReason.CLOSED)
            await until(lambda: "Is a directory" in caplog.text)
            assert [found(path.with_name(f"sessions.jsonl{suffix}")) for suffix in (".2", ".1", "")] == [
                [one] for one in hashes(given)[1:4]
            ]
            (third / "in the way").unlink()
            third.rmdir()
            await nothing_waits(sink)
            await export(sink, given[5:])
        assert found(*rotated(path)) == hashes(given)[2:]

    async def test_a_gap_among_the_older_files_is_closed_before_one_is_deleted(self, path: Path) -> None:
        async with JsonLinesSink(path, max_bytes=1, keep=3) as sink, sessions(5) as given:
            await export(sink, given[:4])
            path.with_name("sessions.jsonl.2").unlink()
            await export(sink, given[4:])
        assert found(*rotated(path)) == [hashes(given)[0], *hashes(given)[2:]]

    @pytest.mark.parametrize("umask", [0, 0o77])
    async def test_every_file_and_folder_that_it_makes_is_its_users_own(self, path: Path, umask: int) -> None:
        was = os.umask(umask)
        try:
            async with JsonLinesSink(path, max_bytes=1) as sink, sessions(3) as given:
                await export(sink, given[:2])
                path.parent.rename(path.parent.with_name("gone"))
                await export(sink, given[2:])
        finally:
            os.umask(was)
        assert path.parent.stat().st_mode & 0o777 == 0o700
        older = path.parent.with_name("gone") / "sessions.jsonl.1"
        assert [file.stat().st_mode & 0o777 for file in (path, older)] == [0o600, 0o600]

    async def test_a_file_that_was_there_keeps_its_mode(self, path: Path) -> None:
        path.touch()
        path.chmod(0o640)
        async with JsonLinesSink(path):
            pass
        assert path.stat().st_mode & 0o777 == 0o640


class TestFilesThatGo:
    async def test_a_file_that_was_moved_is_made_anew(self, path: Path) -> None:
        moved = path.with_name("moved")
        async with JsonLinesSink(path) as sink, sessions(4) as given:
            await export(sink, given[:2])
            path.rename(moved)
            await export(sink, given[2:])
        assert (found(moved), found(path)) == (hashes(given)[:2], hashes(given)[2:])

    async def test_a_file_that_was_replaced_is_gone_on_with(self, path: Path) -> None:
        async with JsonLinesSink(path) as sink, sessions(2) as given:
            await export(sink, given[:1])
            other = path.with_name("other")
            other.write_bytes(path.read_bytes())
            other.replace(path)
            await export(sink, given[1:])
        assert found(path) == hashes(given)

    async def test_a_file_that_was_emptied_is_gone_on_with(self, path: Path) -> None:
        async with JsonLinesSink(path) as sink, sessions(2) as given:
            await export(sink, given[:1])
            path.write_bytes(b"")
            await export(sink, given[1:])
        assert found(path) == hashes(given)[1:]

    async def test_a_file_that_was_deleted_is_made_anew(self, path: Path) -> None:
        async with JsonLinesSink(path) as sink, sessions(2) as given:
            await export(sink, given[:1])
            path.unlink()
            await export(sink, given[1:])
        assert found(path) == hashes(given)[1:]

    async def test_a_folder_that_was_deleted_is_made_anew(self, path: Path) -> None:
        async with JsonLinesSink(path) as sink, sessions(2) as given:
            await export(sink, given[:1])
            path.unlink()
            path.parent.rmdir()
            await export(sink, given[1:])
        assert found(path) == hashes(given)[1:]

    async def test_while_something_is_in_the_way_records_wait(
        self, path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with JsonLinesSink(path) as sink, sessions(3) as given:
            await export(sink, given[:1])
            path.parent.rename(path.parent.with_name("gone"))
            path.parent.write_text("a file where the folder was")
            for session in given[1:]:
                await sink.export(session, EndReason.CLOSED)
            await until(lambda: "Not a directory" in caplog.text)
            assert (sink.written, sink.waiting) == (1, 2)
            path.parent.unlink()
        assert found(path) == hashes(given)[1:]
        assert sink.written == 3


class TestTornLines:
    async def test_a_line_that_a_crash_has_torn_is_finished_before_the_next(self, path: Path) -> None:
        path.write_bytes(b'{"session":"0123')
        async with JsonLinesSink(path) as sink, sessions(2) as given:
            await export(sink, given)
        assert path.read_bytes().startswith(b'{"session":"0123\n{"session":"')
        assert (found(path), skipped(path)) == (hashes(given), [Skipped.TORN])

    async def test_a_torn_file_that_is_full_is_rotated_as_it_is(self, path: Path) -> None:
        path.write_bytes(b'{"session":"0123')
        async with JsonLinesSink(path, max_bytes=1) as sink, sessions(1) as given:
            await export(sink, given)
        assert (found(path), skipped(path)) == (hashes(given), [])
        assert path.with_name("sessions.jsonl.1").read_bytes() == b'{"session":"0123'

    @pytest.mark.parametrize("taken", [1, 12, 300, 600, -2])
    async def test_what_a_disk_takes_only_a_part_of_is_written_again_on_a_line_of_its_own(
        self, path: Path, disk: Disk, taken: int
    ) -> None:
        async with JsonLinesSink(path) as sink, sessions(4) as given:
            with disk.hanging():
                await sink.export(given[0], EndReason.CLOSED)
                await until(disk.reached.is_set)
                for session in given[1:]:
                    await sink.export(session, EndReason.CLOSED)
                disk.answers.extend([1000, taken])  # the first record, then a part of the rest
        assert (found(path), sink.written) == (hashes(given), 4)
        assert skipped(path) == [Skipped.TORN]

    async def test_a_line_that_lacks_only_its_end_is_written_once(self, path: Path, disk: Disk) -> None:
        async with JsonLinesSink(path) as sink, sessions(2) as given:
            disk.answers.append(-1)
            await export(sink, given)
        assert (found(path), skipped(path)) == (hashes(given), [])

    async def test_an_end_of_line_that_finds_no_room_is_tried_again(self, path: Path, disk: Disk) -> None:
        path.write_bytes(b'{"session":"0123')
        async with JsonLinesSink(path) as sink, sessions(1) as given:
            disk.answers.extend([0, 1])
            await export(sink, given)
        assert (found(path), skipped(path)) == (hashes(given), [Skipped.TORN])


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 64 KiB, where mounting one is allowed."""
    place = tmp_path / "small"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


async def test_a_disk_that_fills_up_and_is_cleared_loses_no_record(
    small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = small_disk / "sessions.jsonl"
    (small_disk / "ballast").write_bytes(b"x" * 40_000)
    sink = JsonLinesSink(path, describe=lambda _: {"filler": "x" * 100})  # 68 and a half of them fit
    async with sink, sessions(120) as given:
        for session in given:
            await sink.export(session, EndReason.CLOSED)
        await until(lambda: "No space left on device" in caplog.text)
        assert 0 < sink.written < 120
        assert path.read_bytes()[-1:] != b"\n"  # full in the middle of a line
        (small_disk / "ballast").unlink()
    assert (found(path), skipped(path)) == (hashes(given), [Skipped.TORN])
    assert (sink.written, sink.dropped) == (120, 0)


def _python(program: str, *arguments: object) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", textwrap.dedent(program), *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


LIMITED = """
    import resource, sys, time
    import anyio
    from otel_sessions import *

    def limit(size):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    async def main():
        limit(5000)
        async with JsonLinesSink(sys.argv[1]) as sink, SessionManager() as manager:
            for _ in range(50):
                await sink.export(await manager.create_session(), EndReason.CLOSED)
            while not sink.written or sink.waiting == 50:
                await anyio.sleep(0.01)
            await anyio.sleep(0.2)
            print(sink.written, sink.waiting)
            limit(resource.RLIM_INFINITY)
        print(sink.written, sink.dropped)

    anyio.run(main)
"""


@pytest.mark.processes
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_file_that_may_not_grow_any_more_holds_records_up_until_it_may(path: Path) -> None:
    said, errors = _python(LIMITED, path).communicate(timeout=PATIENCE)
    at_the_limit, end = said.splitlines()
    written, waiting = map(int, at_the_limit.split())
    assert (written + waiting, end) == (50, "50 0"), errors
    assert 0 < written < 50
    assert "records wait to be written to" in errors
    assert (len(set(found(path))), skipped(path)) == (50, [Skipped.TORN])


HURRIED = """
    import sys
    import anyio
    from otel_sessions import *

    async def main():
        sink = JsonLinesSink(sys.argv[1], max_bytes=1 << 20, describe=lambda session: {"filler": "x" * 5000})
        async with sink, SessionManager() as manager:
            session = await manager.create_session()
            print("started", flush=True)
            while True:
                for _ in range(100):
                    try:
                        await sink.export(session, EndReason.CLOSED)
                    except SinkFull:
                        break
                await anyio.sleep(0)

    anyio.run(main)
"""


@pytest.mark.processes
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_process_killed_while_it_writes_leaves_files_that_can_be_gone_on_with(
    path: Path,
) -> None:
    def has_rotated() -> bool:
        try:
            return path.stat().st_ino != begun_with
        except FileNotFoundError:  # it is being rotated at this moment
            return False

    for _ in range(3):
        process = _python(HURRIED, path)
        with process, killed_late(process):
            assert process.stdout is not None
            assert process.stdout.readline() == "started\n"
            begun_with = path.stat().st_ino
            await until(has_rotated)
        assert process.returncode == -signal.SIGKILL
    async with JsonLinesSink(path, max_bytes=1 << 20) as sink, sessions(1) as given:
        await export(sink, given)
    files = rotated(path)
    assert found(files[-1])[-1:] == hashes(given)
    assert len(found(*files)) > 3
    gone_wrong = [item for file in files for item in skipped(file)]
    assert len(gone_wrong) <= 3
    assert set(gone_wrong) <= {Skipped.TORN}


STUCK = """
    import os, sys, threading
    import anyio
    from otel_sessions import *

    write = os.write

    def stuck(descriptor, data):
        if threading.current_thread().name == "otel-sessions sink":
            threading.Event().wait()
        return write(descriptor, data)

    os.write = stuck

    async def main():
        async with JsonLinesSink(sys.argv[1], close_timeout=0.1) as sink, SessionManager(sink=sink) as manager:
            await manager.create_session()
        print(sink.written, sink.dropped)

    anyio.run(main, backend=sys.argv[2])
    print("ended")
"""


@pytest.mark.processes
async def test_a_disk_that_never_answers_does_not_keep_the_process_from_ending(
    path: Path, anyio_backend_name: str
) -> None:
    process = _python(STUCK, path, anyio_backend_name)
    said, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, said) == (0, "0 1\nended\n"), errors
    assert f"1 of 1 records were not written to {path}" in errors
