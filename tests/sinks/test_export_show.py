"""`otel-sessions export show`: what an operator reads of a sink's files, and what is in their way."""

import io
import json
import os
import subprocess
import sys
import tracemalloc
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from otel_sessions import EndReason, SessionState
from otel_sessions.cli import main
from otel_sessions.sinks._table import in_order
from otel_sessions.sinks.records import MAX_LINE, Record, Skipped, read_records
from tests.processes import ROOT
from tests.waiting import PATIENCE

BEGAN = datetime(2026, 11, 24, 16, 0, 0, tzinfo=UTC)


def record(number: int = 1, reason: EndReason = EndReason.CLOSED, **changed: Any) -> Record:
    fields: dict[str, Any] = {
        "session": f"{number:016x}",
        "client": f"{number + 0xABC0:x}".rjust(16, "f"),
        "reason": reason,
        "created_at": BEGAN,
        "last_activity": BEGAN + timedelta(seconds=5),
        "duration": 12.345,
        "message_count": number,
        "state": SessionState.CLOSED,
        "failure": None,
    }
    return Record(**(fields | changed))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sessions.jsonl"


def read(content: bytes) -> list[Record | Skipped]:
    return list(read_records(io.BytesIO(content)))


def edited(**changed: object) -> bytes:
    fields = json.loads(record().line()) | changed
    return json.dumps({key: value for key, value in fields.items() if value is not ...}).encode() + b"\n"


def show(capsys: pytest.CaptureFixture[str], *arguments: object) -> list[str]:
    assert main(["export", "show", *map(str, arguments)]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    return said.out.splitlines()


class TestReading:
    @given(
        st.builds(
            Record,
            session=st.from_regex(r"\A[0-9a-f]{16}\Z"),
            client=st.none() | st.from_regex(r"\A[0-9a-f]{16}\Z"),
            reason=st.sampled_from(EndReason),
            created_at=st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)),
            last_activity=st.datetimes(timezones=st.just(UTC)),
            duration=st.floats(0, 1e9),
            message_count=st.integers(0),
            state=st.sampled_from(SessionState),
            failure=st.none() | st.text(max_size=100),
            description=st.none()
            | st.dictionaries(st.text(), st.none() | st.text() | st.integers() | st.lists(st.text())),
            description_error=st.none() | st.text(max_size=10),
        )
    )
    def test_a_record_is_read_as_it_was_written(self, written: Record) -> None:
        line = written.line()
        assert (line.count(b"\n"), line[-1:]) == (1, b"\n")
        assert read(line) == [written]
        assert read(line[:-1]) == [written]

    @given(st.integers(0, len(record().line()) - 2))
    def test_a_record_that_was_torn_anywhere_is_known_as_one(self, end: int) -> None:
        torn = record().line()[:end]
        assert read(torn + b"\n" + record().line()) == [Skipped.TORN if torn else Skipped.FOREIGN, record()]

    @given(st.binary(max_size=200))
    def test_no_other_line_is_taken_for_a_record_or_stops_the_reading(self, content: bytes) -> None:
        *others, last = read(content + b"\n" + record().line())
        assert last == record()
        assert all(isinstance(other, Skipped) for other in others)

    @pytest.mark.parametrize(
        "line",
        [
            b"\n",
            b"null\n",
            b"[]\n",
            b"{}\n",
            b"Traceback (most recent call last):\n",
            b"\xff\xfe\n",
            b"[" * 60_000 + b"\n",
            b"1" * 60_000 + b"\n",
            edited(session=...),
            edited(session="s3cret"),
            edited(session=7),
            edited(client="\x1b[2J"),
            edited(reason="boredom"),
            edited(created_at=7),
            edited(created_at="yesterday"),
            edited(created_at="2026-11-24T16:00:00"),
            edited(created_at="0001-01-01T00:00:00+23:00"),
            edited(duration="long"),
            edited(duration=True),
            edited(duration=float("nan")),
            edited(duration=float("inf")),
            edited(duration=-1),
            edited(duration=1e300),
            edited(message_count=1.5),
            edited(message_count=False),
            edited(state="bored"),
            edited(failure=["x"]),
            edited(description="x"),
            edited(description_error=1),
        ],
        ids=lambda line: line[:30].decode(errors="replace") + str(len(line)),
    )
    def test_a_line_that_is_no_record_is_skipped(self, line: bytes) -> None:
        (item, last) = read(line + record().line())
        assert item in set(Skipped)
        assert last == record()

    def test_a_record_may_have_keys_that_are_not_known_yet(self) -> None:
        assert read(edited(more=[1, 2])) == [record()]

    def test_times_are_shown_in_utc_in_whatever_zone_they_were_written(self) -> None:
        there = BEGAN.astimezone(timezone(timedelta(hours=5)))
        (item,) = read(edited(created_at=there.isoformat()))
        assert isinstance(item, Record)
        assert (item.created_at, item.created_at.tzinfo) == (BEGAN, UTC)

    def test_reading_takes_the_memory_of_one_line_whatever_the_file_holds(self) -> None:
        class Endless(io.RawIOBase):
            """A hundred megabytes of records and of one line that does not end, of which nothing is stored."""

            def __init__(self) -> None:
                self.served = 0

            def readline(self, size: int | None = -1, /) -> bytes:
                assert size is not None
                assert 0 < size <= MAX_LINE
                self.served += size
                if self.served > 100_000_000:
                    return b""
                return record().line() if self.served < 50_000_000 else b"x" * size

        tracemalloc.start()
        try:
            items = 0
            for _ in read_records(Endless()):  # type: ignore[arg-type]
                items += 1
            assert tracemalloc.get_traced_memory()[1] < 2_000_000
        finally:
            tracemalloc.stop()
        assert items == 50_000_000 // MAX_LINE + 1


class TestTheTable:
    def test_a_row_says_when_who_how_long_how_often_and_why(
        self, path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path.write_bytes(record().line() + record(2, EndReason.IDLE_TIMEOUT, client=None, duration=3600).line())
        assert show(capsys, path) == [
            "ENDED (UTC)         SESSION          CLIENT            LIVED   USES REASON",
            "2026-11-24 16:00:12 0000000000000001 ffffffffffffabc1  12.3s      1 closed",
            "2026-11-24 17:00:00 0000000000000002 -                 1h00m      2 idle_timeout",
            "records: 2; skipped lines: 0 torn, 0 foreign",
        ]

    def test_a_failure_and_a_description_stand_below(self, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        described = record(failure="upstream hung up", description={"region": "eu", "user": "Zoë"})
        path.write_bytes(described.line() + record(description_error="TypeError").line())
        _, _, failure, description, _, missing, _ = show(capsys, path)
        assert failure == "    failure: upstream hung up"
        assert description == '    {"region": "eu", "user": "Zoë"}'
        assert missing == "    no description: TypeError"

    @pytest.mark.parametrize(
        ("seconds", "shown"),
        [
            (0, "0.0s"),
            (59.99, "59.9s"),
            (60, "1m00s"),
            (3599.9, "59m59s"),
            (3600, "1h00m"),
            (86399, "23h59m"),
            (86400, "1d00h"),
            (8_640_000 - 1, "99d23h"),
        ],
    )
    def test_a_duration_is_short(
        self, path: Path, capsys: pytest.CaptureFixture[str], seconds: float, shown: str
    ) -> None:
        path.write_bytes(record(duration=seconds).line())
        assert show(capsys, path)[1].split()[4] == shown

    def test_it_fits_in_80_columns(self, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path.write_bytes(record(999_999, EndReason.IDLE_TIMEOUT, duration=86399).line())
        assert max(len(line) for line in show(capsys, path)) <= 80

    def test_what_is_skipped_is_counted(self, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path.write_bytes(record().line()[:50] + b"\nhello\n\n" + record().line() + record().line()[:20])
        assert show(capsys, path)[-1] == "records: 1; skipped lines: 2 torn, 2 foreign"

    def test_a_file_without_a_record_has_no_title(self, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path.touch()
        assert show(capsys, path) == ["records: 0; skipped lines: 0 torn, 0 foreign"]

    @pytest.mark.parametrize("text", ["\x1b[2J", "a\rb", "\x07", "\x9b31m", "\u202eright to left", "\ud800", "\x7f"])
    def test_no_control_character_reaches_the_terminal(
        self, path: Path, capsys: pytest.CaptureFixture[str], text: str
    ) -> None:
        path.write_bytes(record(failure=text, description={text: text}, description_error=text).line())
        lines = show(capsys, path)
        assert len(lines) == 6
        assert all(line.isprintable() for line in lines)

    def test_a_description_of_any_depth_is_shown_or_its_line_skipped(
        self, path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def nested(depth: int) -> bytes:
            return record().line()[:-2] + b',"description":{"a":' + b"[" * depth + b"]" * depth + b"}}\n"

        path.write_bytes(b"".join(nested(depth) for depth in range(500, 1000)))
        shown = show(capsys, path)
        assert len(shown) > 100
        assert shown[-1].startswith("records: ")


class TestChoosing:
    @pytest.fixture
    def three(self, path: Path) -> Path:
        reasons = (EndReason.CLOSED, EndReason.IDLE_TIMEOUT, EndReason.MAX_AGE)
        path.write_bytes(b"".join(record(number, reason).line() for number, reason in enumerate(reasons)))
        return path

    @pytest.mark.parametrize(
        ("chosen", "uses"),
        [
            (["--reason", "idle_timeout"], ["1"]),
            (["--reason", "idle_timeout", "--reason", "max_age"], ["1", "2"]),
            (["--client", "ffffffffffffabc1"], ["1"]),
            (["--client", "ffff"], ["0", "1", "2"]),
            (["--client", "ffff", "--reason", "max_age"], ["2"]),
            (["--client", "e"], []),
        ],
    )
    def test_records_are_chosen_by_reason_and_by_client(
        self, three: Path, capsys: pytest.CaptureFixture[str], chosen: list[str], uses: list[str]
    ) -> None:
        *lines, summary = show(capsys, three, *chosen)
        assert [line.split()[5] for line in lines[1:]] == uses
        assert summary.startswith("records: 3;" if len(uses) == 3 else f"records: {len(uses)} of 3;")

    def test_a_client_is_not_asked_of_a_session_that_has_none(
        self, path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path.write_bytes(record(client=None).line())
        assert show(capsys, path, "--client", "f")[-1].startswith("records: 0 of 1;")

    def test_an_unknown_reason_is_status_2(self, three: Path, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit, match="2"):
            main(["export", "show", "--reason", "boredom", str(three)])
        assert "'idle_timeout'" in capsys.readouterr().err

    def test_rotated_files_are_read_from_the_oldest_on(self, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        given = [path, *(Path(f"{path}.{place}") for place in (1, 10, 2))]
        for number, file in enumerate([given[2], given[3], given[1], given[0]]):
            file.write_bytes(record(number).line())
        assert [line.split()[5] for line in show(capsys, *given)[1:-1]] == ["0", "1", "2", "3"]

    def test_files_of_several_sinks_stay_together(self) -> None:
        names = ["b.jsonl", "a.jsonl", "b.jsonl.1", "-", "a.jsonl.01", "b.jsonl.2", "b.jsonl"]
        expected = ["b.jsonl.2", "b.jsonl.1", "b.jsonl", "b.jsonl", "a.jsonl", "-", "a.jsonl.01"]
        assert in_order(names) == expected


class TestFilesThatCannotBeRead:
    def test_one_that_is_missing_is_status_2_and_the_others_are_shown(
        self, path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path.write_bytes(record().line())
        assert main(["export", "show", str(path.with_name("missing")), str(path), str(path.parent)]) == 2
        said = capsys.readouterr()
        assert said.out.splitlines()[-1] == "records: 1; skipped lines: 0 torn, 0 foreign"
        missing, folder = said.err.splitlines()
        assert missing.startswith("otel-sessions: [Errno 2] No such file or directory: ")
        assert folder.startswith("otel-sessions: [Errno 21] Is a directory")

    def test_without_a_file_or_a_command_it_is_status_2(self, capsys: pytest.CaptureFixture[str]) -> None:
        for arguments in (["export"], ["export", "show"]):
            with pytest.raises(SystemExit, match="2"):
                main(arguments)


@pytest.mark.processes
class TestAsAProcess:
    @pytest.fixture
    def many(self, path: Path) -> Path:
        path.write_bytes(record(failure="größer").line() * 20_000)
        return path

    def start(self, *arguments: object, **environ: str) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "otel_sessions.cli", "export", "show", *map(str, arguments)]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe, env={**os.environ, **environ})

    def test_it_reads_stdin(self) -> None:
        said, errors = self.start("-").communicate(record().line(), timeout=PATIENCE)
        assert said.splitlines()[-1] == b"records: 1; skipped lines: 0 torn, 0 foreign"
        assert errors == b""

    def test_a_reader_that_has_seen_enough_ends_it_quietly(self, many: Path) -> None:
        process = self.start(many)
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith(b"ENDED")
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(PATIENCE) == 0
        process.communicate()

    def test_a_disk_that_is_full_is_status_1(self, many: Path) -> None:
        command = [sys.executable, "-m", "otel_sessions.cli", "export", "show", str(many)]
        with open("/dev/full", "wb") as full:
            done = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, timeout=PATIENCE, check=False)
        assert done.returncode == 1
        assert done.stderr.decode().splitlines() == [
            "otel-sessions: the table cannot be written: [Errno 28] No space left on device"
        ]

    def test_a_terminal_that_shows_no_more_than_ascii_gets_no_more(self, path: Path) -> None:
        path.write_bytes(record(failure="größer").line())
        said, errors = self.start(path, PYTHONIOENCODING="ascii").communicate(timeout=PATIENCE)
        assert b"    failure: gr\\xf6\\xdfer\n" in said
        assert errors == b""

    def test_it_needs_no_extra(self, path: Path) -> None:
        path.write_bytes(record().line())
        program = """
            import sys
            from otel_sessions.cli import main
            status = main(["export", "show", sys.argv[1]])
            extras = ("httpx2", "uvicorn", "websockets", "rich", "psutil", "starlette", "opentelemetry.sdk")
            sys.exit(status or str([name for name in extras if name in sys.modules] or ""))
        """
        command = [sys.executable, "-c", "\n".join(line.strip() for line in program.splitlines()), str(path)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False)
        assert done.stderr.strip() == ""
        assert done.stdout.endswith("records: 1; skipped lines: 0 torn, 0 foreign\n")


def test_show_writes_to_what_names_no_encoding(path: Path) -> None:
    from otel_sessions.sinks._table import show as show_to

    path.write_bytes(record(failure="größer").line())
    out = io.StringIO()
    assert show_to([str(path)], out, reasons=set(EndReason), client="") == []
    assert "gr\\xf6\\xdfer" in out.getvalue()
