"""What a `JsonLinesSink` writes of a session, and that nobody waits for it or loses a record in silence."""

import asyncio
import json
import logging
import os
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from otel_sessions import (
    ConfigError,
    EndReason,
    JsonLinesSink,
    Session,
    SessionConfig,
    SessionManager,
    SinkClosed,
    SinkFull,
    fingerprint,
)
from otel_sessions.sinks import _writer as writer_module
from otel_sessions.sinks.records import MAX_LINE
from tests.virtual import Clock

from .disks import Disk, nothing_waits, records_in, replace_disk, until

pytestmark = pytest.mark.anyio


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sessions.jsonl"


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return replace_disk(monkeypatch)


@asynccontextmanager
async def sessions(count: int = 1, **options: Any) -> AsyncIterator[list[Session]]:
    """Sessions of a manager without a sink, for a test that exports them itself."""
    async with SessionManager(SessionConfig(max_sessions=None)) as manager:
        yield [await manager.create_session(**options) for _ in range(count)]


def written(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


class TestWhatIsWritten:
    async def test_a_session_leaves_one_line_with_hashes_its_metadata_and_why_it_ended(
        self, path: Path, clock: Clock
    ) -> None:
        config = SessionConfig(cleanup_interval=10, max_idle_time=30)
        async with JsonLinesSink(path) as sink, SessionManager(config, sink=sink, clock=clock) as manager:
            session = await manager.create_session("s3cret", client="10.0.0.7")
            await anyio.sleep(5)
            session.touch()
            await anyio.sleep(40)
            assert manager.get_metrics().total_cleaned == 1
        assert written(path) == [
            {
                "session": "256de8280e909a01",  # printf s3cret | b2sum -l 64
                "client": fingerprint("10.0.0.7"),
                "reason": "idle_timeout",
                "created_at": session.metadata.created_at.isoformat(),
                "last_activity": session.metadata.last_activity.isoformat(),
                "duration": pytest.approx(session.age),
                "message_count": 1,
                "state": "closed",
                "failure": None,
            }
        ]
        assert 35 <= session.age <= 45
        assert path.stat().st_mode & 0o777 == 0o600

    async def test_every_session_is_written_once_whatever_ended_it(self, path: Path) -> None:
        async with JsonLinesSink(path) as sink, SessionManager(sink=sink) as manager:
            for number in range(50):
                session = await manager.create_session()
                if number % 3 == 0:
                    await manager.close_session(session.id)
                elif number % 3 == 1:
                    session.fail("upstream hung up")
            await manager.cleanup_stale_sessions()
        records = records_in(path)
        assert len({record.session for record in records}) == len(records) == 50 == sink.written
        assert {record.reason: record.state for record in records} == {
            "closed": "closed",
            "failed": "failed",
            "shutdown": "closed",
        }
        assert {record.failure for record in records} == {None, "upstream hung up"}
        assert (sink.waiting, sink.dropped) == (0, 0)

    async def test_a_session_without_a_client_has_none(self, path: Path) -> None:
        async with JsonLinesSink(path) as sink, sessions() as (session,):
            await sink.export(session, EndReason.CLOSED)
        assert [record.client for record in records_in(path)] == [None]

    @pytest.mark.parametrize(
        ("why", "failure"),
        [
            ("upstream hung up", "upstream hung up"),
            (ConnectionError("refused"), "ConnectionError: refused"),
            (ConnectionError(), "ConnectionError"),
            ("no {id} there", "no {hash} there"),
            (KeyError("{id}"), "KeyError: '{hash}'"),
            ("DELETE /mcp/{quoted}", "DELETE /mcp/{hash}"),
            ('{{"id": {json}}}', '{{"id": "{hash}"}}'),
        ],
    )
    @pytest.mark.parametrize("session_id", ["plain-s3cret-id", 'it\'s "quoted" + a/b\\n\u00e9\n\ud800'])
    async def test_the_failure_is_written_without_the_id_in_any_usual_form(
        self, path: Path, session_id: str, why: str | BaseException, failure: str
    ) -> None:
        from urllib.parse import quote

        forms = {
            "id": session_id,
            "hash": fingerprint(session_id),
            "quoted": quote(session_id, "", errors="replace"),
            "json": json.dumps(session_id),
        }
        told = why.format(**forms) if isinstance(why, str) else type(why)(*(arg.format(**forms) for arg in why.args))
        async with JsonLinesSink(path) as sink, sessions(session_id=session_id) as (session,):
            session.fail(told)
            await sink.export(session, EndReason.FAILED)
        (record,) = records_in(path)
        assert record.failure is not None
        assert record.failure.replace('"', "'") == failure.format(**forms).replace('"', "'")

    async def test_a_failure_that_cannot_say_what_it_is_has_its_name_at_least(self, path: Path) -> None:
        class Mute(Exception):
            def __str__(self) -> str:
                raise RuntimeError("no words")

        async with JsonLinesSink(path) as sink, sessions() as (session,):
            session.fail(Mute())
            await sink.export(session, EndReason.FAILED)
        assert [record.failure for record in records_in(path)] == ["Mute"]

    async def test_a_long_failure_is_cut(self, path: Path) -> None:
        async with JsonLinesSink(path) as sink, sessions() as (session,):
            session.fail("ä" * 1_000_000)
            await sink.export(session, EndReason.FAILED)
        assert [record.failure for record in records_in(path)] == ["ä" * 1000 + "…"]

    async def test_an_empty_id_hides_nothing(self, path: Path) -> None:
        async with JsonLinesSink(path) as sink, sessions(session_id="") as (session,):
            session.fail("upstream hung up")
            await sink.export(session, EndReason.FAILED)
        assert [record.failure for record in records_in(path)] == ["upstream hung up"]

    @pytest.mark.parametrize("text", ["two\r\nlines\u2028", "\ud800 alone", "\x00\x1b[2J"])
    async def test_no_text_breaks_the_line_that_it_is_on(self, path: Path, text: str) -> None:
        sink = JsonLinesSink(path, describe=lambda _: {text: text})
        async with sink, sessions(session_id=text, client=text) as (session,):
            session.fail("failed: " + text * 2)
            await sink.export(session, EndReason.FAILED)
        content = path.read_bytes()
        assert (content.count(b"\n"), content.isascii()) == (1, True)
        (record,) = records_in(path)
        assert (record.session, record.client) == (fingerprint(text), fingerprint(text))
        assert record.description == {text: text}


class TestDescriptions:
    async def test_what_describe_returns_stands_under_a_key_of_its_own(self, path: Path) -> None:
        def describe(session: Session[str]) -> Mapping[str, object]:
            return {"region": session.data, "state": "mine", "hops": [1, 2.5, None, True, {"a": "ü"}]}

        async with JsonLinesSink(path, describe=describe) as sink, SessionManager[str](sink=sink) as manager:
            await manager.create_session(data="eu")
        (line,) = written(path)
        assert line["state"] == "closed"
        assert line["description"] == {"region": "eu", "state": "mine", "hops": [1, 2.5, None, True, {"a": "ü"}]}

    @pytest.mark.parametrize(
        ("description", "error"),
        [
            (ZeroDivisionError("oops"), "ZeroDivisionError"),
            ({"socket": object()}, "TypeError"),
            ({"bytes": b"x"}, "TypeError"),
            ({"latency": float("nan")}, "ValueError"),
            ({(1, 2): "key"}, "TypeError"),
            ("text", "TypeError"),
            ([("a", 1)], "TypeError"),
            ({"long": "x" * MAX_LINE}, "ValueError"),
        ],
        ids=lambda value: type(value).__name__,
    )
    async def test_a_wrong_description_is_the_sinks_error_and_the_record_is_written_without_it(
        self, path: Path, caplog: pytest.LogCaptureFixture, description: Any, error: str
    ) -> None:
        def describe(session: Session) -> Mapping[str, object]:
            if isinstance(description, Exception):
                raise description
            result: Mapping[str, object] = description
            return result

        async with JsonLinesSink(path, describe=describe) as sink, SessionManager(sink=sink) as manager:
            session = await manager.create_session()
            await manager.close_session(session.id)
            assert manager.get_metrics().cleanup_errors == 1
        (record,) = records_in(path)
        assert (record.description, record.description_error) == (None, error)
        assert (sink.written, sink.dropped) == (1, 0)
        assert "the sink of session" in caplog.text
        assert error in caplog.text
        assert "written without a description" in caplog.text

    async def test_a_description_that_contains_itself_is_wrong_too(self, path: Path) -> None:
        endless: dict[str, object] = {}
        endless["again"] = endless
        async with JsonLinesSink(path, describe=lambda _: endless) as sink, sessions() as (session,):
            with pytest.raises(ValueError, match="Circular"):
                await sink.export(session, EndReason.CLOSED)
        assert [record.description_error for record in records_in(path)] == ["ValueError"]

    async def test_a_describe_that_is_interrupted_drops_its_record(self, path: Path) -> None:
        def describe(session: Session) -> Mapping[str, object]:
            raise KeyboardInterrupt

        async with JsonLinesSink(path, describe=describe) as sink, sessions() as (session,):
            with pytest.raises(KeyboardInterrupt):
                await sink.export(session, EndReason.CLOSED)
            assert (sink.written, sink.waiting, sink.dropped) == (0, 0, 1)


class TestTheQueue:
    async def test_a_slow_disk_keeps_nobody_waiting(self, path: Path, disk: Disk) -> None:
        async with JsonLinesSink(path) as sink, SessionManager(SessionConfig(max_sessions=None), sink=sink) as manager:
            with disk.hanging():
                for _ in range(100):
                    session = await manager.create_session()
                    await manager.close_session(session.id)
                await until(disk.reached.is_set)
                assert (len(manager), sink.written, sink.waiting) == (0, 0, 100)
        assert len(records_in(path)) == sink.written == 100

    async def test_what_finds_the_queue_full_is_dropped_counted_and_warned_of_once_a_minute(
        self, path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        now = 7000.0
        monkeypatch.setattr(writer_module, "monotonic", lambda: now)
        async with JsonLinesSink(path, queue_bytes=1000) as sink, sessions(20) as given:
            with disk.hanging():
                refused = 0
                for session in given:
                    try:
                        await sink.export(session, EndReason.CLOSED)
                    except SinkFull as error:
                        refused += 1
                        assert fingerprint(session.id) in str(error)
                        assert session.id not in str(error)
                assert 0 < sink.waiting < 20
                assert (refused, sink.written) == (sink.dropped, 0)
                assert sink.waiting + sink.dropped == 20
                warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
                assert len(warnings) == 1
                assert f"({sink.waiting} waiting, 1 dropped so far)" in warnings[0]
                now += 60
                with pytest.raises(SinkFull):
                    await sink.export(given[0], EndReason.CLOSED)
                assert f"{sink.dropped} dropped so far" in caplog.records[-1].getMessage()
        assert (len(records_in(path)), sink.dropped) == (sink.written, refused + 1)
        assert caplog.records[-1].levelno == logging.ERROR
        assert f"{sink.dropped} of 21 records were not written" in caplog.records[-1].getMessage()

    async def test_one_write_takes_many_records_but_not_any_number(self, path: Path, disk: Disk) -> None:
        async with JsonLinesSink(path) as sink, sessions(1000) as given:
            with disk.hanging():
                for session in given:
                    await sink.export(session, EndReason.CLOSED)
        assert 3 < disk.writes < 20
        assert len(records_in(path)) == 1000

    async def test_the_manager_counts_what_is_dropped_as_its_sinks_error(self, path: Path, disk: Disk) -> None:
        async with JsonLinesSink(path, queue_bytes=1) as sink, SessionManager(sink=sink) as manager:
            session = await manager.create_session()
            await manager.close_session(session.id)
            assert manager.get_metrics().cleanup_errors == sink.dropped == 1
            assert len(manager) == 0

    async def test_records_of_many_managers_and_threads_share_one_sink(self, path: Path) -> None:
        async with JsonLinesSink(path) as sink, sessions(200) as given:

            def export(part: list[Session]) -> None:
                for session in part:
                    asyncio.run(sink.export(session, EndReason.CLOSED))

            async with anyio.create_task_group() as group:
                for start in range(0, 200, 50):
                    group.start_soon(anyio.to_thread.run_sync, export, given[start : start + 50])
        assert {record.session for record in records_in(path)} == {fingerprint(session.id) for session in given}
        assert sink.written == 200

    async def test_its_repr_says_how_it_goes_and_no_secret(self, path: Path) -> None:
        async with JsonLinesSink(path) as sink, sessions() as (session,):
            await sink.export(session, EndReason.CLOSED)
            await nothing_waits(sink)
            assert repr(sink) == f"<JsonLinesSink '{path}' 1 written, 0 waiting, 0 dropped>"


class TestEnteringAndLeaving:
    @pytest.mark.parametrize("after", [False, True])
    async def test_outside_its_block_it_refuses_and_counts(self, path: Path, after: bool) -> None:
        sink = JsonLinesSink(path)
        async with sessions() as (session,):
            if after:
                async with sink:
                    await sink.export(session, EndReason.CLOSED)
            with pytest.raises(SinkClosed, match="use it inside its `async with` block"):
                await sink.export(session, EndReason.CLOSED)
        assert (sink.written, sink.waiting, sink.dropped) == (int(after), 0, 1)

    async def test_inside_its_block_it_cannot_be_entered(self, path: Path) -> None:
        async with JsonLinesSink(path) as sink, sessions() as (session,):
            with pytest.raises(SinkClosed, match="in use; leave its block first"):
                await sink.__aenter__()
            await sink.export(session, EndReason.CLOSED)
        assert sink.written == 1

    async def test_it_may_be_entered_again_and_its_counts_go_on(self, path: Path) -> None:
        sink = JsonLinesSink(path)
        async with sessions() as (session,):
            for _ in range(3):
                async with sink:
                    await sink.export(session, EndReason.CLOSED)
                with pytest.raises(SinkClosed):
                    await sink.export(session, EndReason.CLOSED)
        assert (sink.written, sink.waiting, sink.dropped) == (3, 0, 3)
        assert len(records_in(path)) == 3

    async def test_it_may_be_entered_again_after_its_file_could_not_be_opened(self, path: Path) -> None:
        path.mkdir()
        sink = JsonLinesSink(path)
        with pytest.raises(OSError, match=str(path)):
            await sink.__aenter__()
        path.rmdir()
        async with sink, sessions() as (session,):
            await sink.export(session, EndReason.CLOSED)
        assert len(records_in(path)) == 1

    async def test_a_manager_with_a_sink_may_be_entered_again(self, path: Path) -> None:
        sink = JsonLinesSink(path)
        manager = SessionManager(sink=sink)
        for _ in range(2):
            async with sink, manager:
                await manager.create_session()
        assert len(records_in(path)) == 2
        assert manager.get_metrics().cleanup_errors == 0

    @pytest.mark.parametrize(
        "wrong",
        [{"max_bytes": 0}, {"max_bytes": True}, {"keep": 0}, {"keep": 1.5}, {"queue_bytes": -1}, {"close_timeout": 0}],
        ids=str,
    )
    async def test_a_wrong_setting_is_named(self, path: Path, wrong: dict[str, Any]) -> None:
        (name,) = wrong
        with pytest.raises(ConfigError, match=f"{name} takes a "):
            JsonLinesSink(path, **wrong)

    async def test_a_path_is_where_it_was_when_it_was_given(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(path.parent)
        sink = JsonLinesSink(path.name)
        monkeypatch.chdir("/")
        async with sink:
            pass
        assert path.exists()

    async def test_leaving_takes_its_timeout_and_no_longer_on_a_disk_that_hangs(
        self, path: Path, disk: Disk, caplog: pytest.LogCaptureFixture
    ) -> None:
        with disk.hanging():
            async with JsonLinesSink(path, close_timeout=0.5) as sink, sessions(3) as given:
                for session in given:
                    await sink.export(session, EndReason.CLOSED)
                await until(disk.reached.is_set)
            assert (sink.written, sink.waiting, sink.dropped) == (0, 0, 3)
            assert f"3 of 3 records were not written to {path}" in caplog.text
        await until(lambda: not _writers())
        assert sink.dropped == 3  # also the one that came through after all

    async def test_a_disk_that_is_full_at_the_end_is_tried_until_the_timeout(
        self, path: Path, disk: Disk, caplog: pytest.LogCaptureFixture
    ) -> None:
        disk.full = True
        async with JsonLinesSink(path, close_timeout=0.3) as sink, sessions(2) as given:
            for session in given:
                await sink.export(session, EndReason.CLOSED)
            await until(lambda: disk.writes > 0)
        assert disk.writes > 2
        assert (sink.written, sink.waiting, sink.dropped) == (0, 0, 2)
        assert "No space left on device (2 waiting, 0 dropped so far)" in caplog.text

    async def test_a_disk_that_says_on_closing_that_it_has_lost_something_is_heard(
        self, path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        close = os.close

        def lossy_close(descriptor: int) -> None:
            close(descriptor)
            if threading.current_thread().name == "otel-sessions sink":
                raise OSError(5, "Input/output error")

        monkeypatch.setattr(os, "close", lossy_close)
        async with JsonLinesSink(path, max_bytes=1) as sink, sessions(2) as given:
            for session in given:
                await sink.export(session, EndReason.CLOSED)
        assert (sink.written, sink.dropped) == (2, 0)
        assert f"records wait to be written to {path}: [Errno 5] Input/output error" in caplog.text
        assert f"{path} may lack its last records: [Errno 5] Input/output error" in caplog.text

    async def test_a_disk_that_is_full_for_a_while_costs_no_record(self, path: Path, disk: Disk) -> None:
        disk.full = True
        async with JsonLinesSink(path) as sink, sessions(2) as given:
            for session in given:
                await sink.export(session, EndReason.CLOSED)
            await until(lambda: disk.writes > 1)
            assert sink.waiting == 2
            disk.full = False
        assert (len(records_in(path)), sink.written, sink.dropped) == (2, 2, 0)

    async def test_it_survives_a_log_handler_that_raises(self, path: Path, disk: Disk) -> None:
        def refuse(record: logging.LogRecord) -> bool:
            raise RuntimeError("no logs today")

        logger = logging.getLogger("otel_sessions")
        disk.full = True
        logger.addFilter(refuse)
        try:
            async with JsonLinesSink(path) as sink, sessions() as (session,):
                await sink.export(session, EndReason.CLOSED)
                await until(lambda: disk.writes > 1)
                disk.full = False
        finally:
            logger.removeFilter(refuse)
        assert sink.written == 1

    async def test_a_cancelled_block_still_writes_what_is_queued(self, path: Path, disk: Disk) -> None:
        with anyio.CancelScope() as scope:
            async with JsonLinesSink(path) as sink, sessions(5) as given:
                with disk.hanging():
                    for session in given:
                        await sink.export(session, EndReason.CLOSED)
                    scope.cancel()
                await anyio.sleep_forever()
        assert sink.written == len(records_in(path)) == 5

    @pytest.mark.parametrize("anyio_backend", ["asyncio"])
    async def test_asyncios_own_cancellation_while_leaving_is_passed_on_after_it(self, path: Path, disk: Disk) -> None:
        sink = JsonLinesSink(path)
        leaving = asyncio.Event()

        async def use() -> None:
            async with sink:
                async with sessions() as (session,):
                    await sink.export(session, EndReason.CLOSED)
                leaving.set()

        with disk.hanging():
            task = asyncio.create_task(use())
            await leaving.wait()
            await until(disk.reached.is_set)
            task.cancel()
            await asyncio.sleep(0)
            assert not task.done()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert sink.written == len(records_in(path)) == 1

    @pytest.mark.parametrize("cancelled", [False, True])
    async def test_a_disk_that_hangs_on_opening_holds_up_nobody_for_long(
        self, path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch, cancelled: bool
    ) -> None:
        real = os.open

        def slow_open(name: Any, *arguments: Any) -> int:
            if str(name) == str(path):
                disk.wait()
            return real(name, *arguments)

        monkeypatch.setattr(os, "open", slow_open)
        sink = JsonLinesSink(path, close_timeout=0.05)
        with disk.hanging():
            if cancelled:
                with anyio.CancelScope() as scope:
                    scope.cancel()
                    async with sink:
                        pytest.fail("entered")
            else:
                with pytest.raises(TimeoutError, match=r"could not be opened within 0\.05 s"):
                    await sink.__aenter__()
        await until(lambda: not _writers())
        async with JsonLinesSink(path):  # the late one has let go of it
            pass

    async def test_a_missing_folder_is_an_error_on_entry(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="nowhere"):
            await JsonLinesSink(tmp_path / "nowhere" / "sessions.jsonl").__aenter__()

    async def test_a_folder_is_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(IsADirectoryError):
            await JsonLinesSink(tmp_path).__aenter__()

    async def test_a_pipe_is_no_file_that_could_be_rotated(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(OSError, match="Not a regular file"):
            await JsonLinesSink(tmp_path / "pipe").__aenter__()

    async def test_a_folder_that_may_not_be_written_to_is_an_error_on_entry(self, tmp_path: Path) -> None:
        closed = tmp_path / "closed"
        closed.mkdir(mode=0o500)
        was = os.geteuid()
        if was == 0:
            os.seteuid(65534)  # whom permissions apply to
        try:
            with pytest.raises(PermissionError, match=r"sessions\.jsonl"):
                await JsonLinesSink(closed / "sessions.jsonl").__aenter__()
        finally:
            os.seteuid(was)

    async def test_a_second_sink_is_refused_until_the_first_is_gone(self, path: Path) -> None:
        async with JsonLinesSink(path):
            with pytest.raises(BlockingIOError, match="Another sink writes to this file"):
                await JsonLinesSink(path).__aenter__()
        async with JsonLinesSink(path):
            pass

    async def test_a_file_system_without_locks_is_written_to_without_one(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def flock(descriptor: int, operation: int) -> None:
            raise OSError(95, "Operation not supported")

        monkeypatch.setattr("fcntl.flock", flock)
        async with JsonLinesSink(path) as sink, sessions() as (session,):
            await sink.export(session, EndReason.CLOSED)
        assert sink.written == 1


def _writers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "otel-sessions sink"]
