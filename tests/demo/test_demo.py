import codecs
import fcntl
import json
import os
import pty
import re
import resource
import select
import shlex
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from otel_sessions import ConfigError, __version__
from otel_sessions._program.exporters import require_exporters
from otel_sessions.cli import main
from otel_sessions.demo import run
from otel_sessions.demo.result.live import OutputFailed
from otel_sessions.demo.result.report import FILES, ReportFailed
from otel_sessions.demo.run import DemoFailed
from tests.processes import clean_environ, kill_session
from tests.waiting import NEVER, PATIENCE

pytestmark = pytest.mark.no_cover


def limit_files_to_its_greeting() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (600, 600))


def assert_names(message: str, *names: str) -> None:
    assert all(name in message for name in names)
    assert message.count("\n") == 1


class TestBeforeAnythingStarts:
    @pytest.mark.parametrize(
        "environ",
        [
            {},
            {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4317"},
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318"},
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
        ],
    )
    def test_an_export_that_can_work_is_accepted(self, environ: dict[str, str]) -> None:
        require_exporters(environ)

    @pytest.mark.parametrize(
        ("environ", "says"),
        [
            ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"}, "OTLP_PROTOCOL"),
            ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:port"}, "OTLP_ENDPOINT"),
        ],
    )
    def test_an_export_that_cannot_work_is_refused(self, environ: dict[str, str], says: str) -> None:
        with pytest.raises(ConfigError, match=says):
            require_exporters(environ)

    def test_the_version_is_the_packages(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit, match="0"):
            main(["--version"])

        assert __version__ in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("arguments", "takes"),
        [
            (["--duration", "x"], "a positive number"),
            (["--duration", "nan"], "a positive number"),
            (["--rate", "x"], "a positive number"),
            (["--clients", "x"], "a whole number of at least 1"),
            (["--clients", "2.5"], "a whole number of at least 1"),
            (["--seed", "x"], "a whole number"),
            (["--port", "x"], "a port from 0 to 65535"),
            (["--port", "-1"], "a port from 0 to 65535"),
        ],
    )
    def test_a_wrong_argument_is_told_what_it_takes(
        self, arguments: list[str], takes: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit, match="2"):
            main(["demo", *arguments])

        assert f"{arguments[0]}: takes {takes}, not {arguments[1]}; see" in capsys.readouterr().err

    @pytest.mark.parametrize(
        "arguments",
        [
            [],
            ["demo", "--duration", "0"],
            ["demo", "--duration", "x"],
            ["demo", "--clients", "0"],
            ["demo", "--port", "65536"],
            ["demo", "--twin-port", "-1"],
            ["demo", "--rate", "0"],
            ["demo", "--otlp", "localhost:4317"],
            ["demo", "--otlp", "http://"],
            ["demo", "--otlp", "http://collector:port"],
        ],
    )
    def test_wrong_arguments_exit_with_2(self, arguments: list[str]) -> None:
        with pytest.raises(SystemExit, match="2"):
            main(arguments)

    @pytest.mark.parametrize("module", ["httpx2", "matplotlib", "psutil", "rich", "starlette", "uvicorn"])
    def test_a_missing_extra_exits_with_2_and_says_what_to_install(
        self, module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setitem(sys.modules, module, None)

        assert main(["demo"]) == 2
        assert "pip install 'otel-sessions[demo]'" in capsys.readouterr().err

    def test_a_taken_port_exits_with_2_and_names_the_port_and_the_flag(
        self, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = str(other.getsockname()[1])
            for flag in ("--port", "--twin-port", "--upstream-port"):
                assert main(["demo", "--report", str(tmp_path), "--port", "0", flag, port]) == 2
                assert_names(capsys.readouterr().err, port, flag)

    def test_a_report_that_cannot_be_written_exits_with_2_before_anything_starts(
        self, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        (tmp_path / "file").touch()

        assert main(["demo", "--report", str(tmp_path / "file" / "folder")]) == 2
        said = capsys.readouterr()
        assert_names(said.err, "--report", str(tmp_path / "file" / "folder"))
        assert said.out == ""

    def test_an_export_that_cannot_work_exits_with_2(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:port")

        assert main(["demo", "--port", "0"]) == 2
        assert_names(capsys.readouterr().err, "OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:port")

    @pytest.mark.parametrize(
        ("failure", "status"),
        [
            (ConfigError("no"), 2),
            (ReportFailed("no"), 2),
            (OutputFailed("no"), 2),
            (DemoFailed("no"), 1),
            (KeyboardInterrupt(), 130),
        ],
        ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
    )
    def test_whatever_goes_wrong_is_one_line_and_an_exit_status_of_its_own(
        self, failure: BaseException, status: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(_options: object) -> int:
            raise failure

        monkeypatch.setattr(run, "run", fail)

        assert main(["demo"]) == status
        assert_names(capsys.readouterr().err, "otel-sessions: ", str(failure))

    @pytest.mark.processes
    def test_a_stdout_that_is_full_in_the_middle_of_a_run_exits_with_2_and_is_told_in_a_line(
        self, tmp_path: Path
    ) -> None:
        with (tmp_path / "said").open("w") as said:
            full_up = subprocess.run(
                command(tmp_path, "--duration", "5", "--clients", "2", "--no-twin"),
                stdout=said,
                stderr=subprocess.PIPE,
                text=True,
                timeout=PATIENCE,
                check=False,
                env={**clean_environ(), "PYTHONDONTWRITEBYTECODE": "1"},  # else it is torn as well
                preexec_fn=limit_files_to_its_greeting,
            )

        assert full_up.returncode == 2
        assert full_up.stderr == "otel-sessions: stdout cannot be written to: File too large\n"
        assert "phase" in (tmp_path / "said").read_text()

    @pytest.mark.processes
    def test_a_stdout_that_is_full_exits_with_2_and_is_told_in_a_line(self, tmp_path: Path) -> None:
        with Path("/dev/full").open("w") as full:
            full_up = subprocess.run(
                command(tmp_path),
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
                timeout=PATIENCE,
                check=False,
                env=clean_environ(),
            )

        assert full_up.returncode == 2
        assert full_up.stderr == "otel-sessions: stdout cannot be written to: No space left on device\n"

    @pytest.mark.processes
    def test_a_stdout_that_is_closed_exits_with_2_and_is_told_in_a_line(self, tmp_path: Path) -> None:
        closed = subprocess.run(
            ["sh", "-c", f"exec {shlex.join(command(tmp_path))} >&-"],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            timeout=PATIENCE,
            check=False,
            env=clean_environ(),
        )

        assert (closed.returncode, closed.stderr) == (2, "otel-sessions: stdout cannot be written to: it is closed\n")

    def test_a_wrong_limit_in_the_environment_exits_with_2(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("OTEL_SESSIONS_MAX_SESSIONS", "many")

        assert main(["demo", "--port", "0"]) == 2
        assert_names(capsys.readouterr().err, "OTEL_SESSIONS_MAX_SESSIONS")


QUICK = {
    "OTEL_SESSIONS_MAX_IDLE_TIME_SECS": "1",
    "OTEL_SESSIONS_PROXY_HEALTH": "no.such.host.invalid:1",  # neither of its proxies would start with it
    "OTEL_SESSIONS_CLEANUP_INTERVAL_SECS": "0.2",
    "OTEL_SESSIONS_DRAIN_TIMEOUT_SECS": "0.1",
    "OTEL_SESSIONS_CLOSE_TIMEOUT_SECS": "1.7",
}


"""Limits by which a session that was walked away from is gone after 4 s."""


BRIEF = ("--duration", "10", "--clients", "20", "--rate", "4")


"""A load that everybody has walked away from for longer than that at the end, also on a slow machine."""


class Demo:
    """A demo that runs in a pipe, and the processes it has started."""

    def __init__(self, folder: Path, *arguments: str, **environ: str) -> None:
        self.report = folder / "report"
        self.process = subprocess.Popen(
            command(self.report, *arguments),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=clean_environ() | environ,
            start_new_session=True,
        )
        self.said = ""
        self.children: list[psutil.Process] = []

    def wait_until_loaded(self) -> None:
        """Return at the first line about the load."""
        assert self.process.stdout is not None
        while not re.match(r" *\d+  [a-z]", line := self.process.stdout.readline()):
            assert line, "the demo ended"
            self.said += line
        self.children = psutil.Process(self.process.pid).children(recursive=True)

    def end(self, seconds: float = PATIENCE) -> tuple[int, str, str]:
        """Return the exit status, and what it has written on stdout and stderr."""
        said, complained = self.process.communicate(timeout=seconds)
        return self.process.returncode, self.said + said, complained

    def child(self, *words: str) -> psutil.Process:
        """Return the process whose command has all these words."""
        (found,) = [child for child in self.children if set(words) <= set(child.cmdline())]
        return found

    def leftovers(self, seconds: float = 0.0) -> list[psutil.Process]:
        return psutil.wait_procs(self.children, timeout=seconds)[1]


def command(report: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "otel_sessions.cli", "demo", "--port", "0", "--report", str(report), *arguments]


@contextmanager
def demo(folder: Path, *arguments: str, **environ: str) -> Iterator[Demo]:
    running = Demo(folder, *arguments, **environ)
    try:
        running.wait_until_loaded()
        yield running
    finally:
        running.process.kill()
        kill_session(running.process.pid)
        running.process.wait()
        for pipe in (running.process.stdout, running.process.stderr):
            assert pipe is not None
            pipe.close()


def columns(said: str, name: str) -> list[int]:
    """Return the first number of a row for each of the two proxies."""
    row = re.search(rf"^{name}  +([0-9]+).*?  +([0-9]+)", said, re.MULTILINE)
    assert row
    return [int(number) for number in row.groups()]


PASSES_DO_NOTHING = """
from otel_sessions._engine import eviction, sweep


async def do_nothing(*_):
    pass


sweep.Sweep.end_due = eviction.Eviction.free_places = do_nothing
"""


THE_WHEEL_DROPS_EVERY_12TH = """
from itertools import count

from otel_sessions._core import wheel

file, numbers = wheel.Wheel.file, count(1)


def drop_every_12th(self, entry, deadline, now):
    if next(numbers) % 12:
        file(self, entry, deadline, now)


wheel.Wheel.file = drop_every_12th
"""


class TestProcesses:
    @pytest.mark.processes
    def test_a_demo_in_a_pipe_sums_up_writes_its_report_and_leaves_nothing_running(
        self,
        tmp_path: Path,
    ) -> None:
        ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
        with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, never answers
            endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
            with demo(tmp_path, *BRIEF, "--otlp", endpoint, **QUICK, **ascii_only) as running:
                environs = [child.environ() for child in running.children]
                status, said, complained = running.end()

                assert status == 0
                assert running.leftovers() == []
        for line in complained.splitlines():
            assert re.match("the (upstream|proxy|twin): telemetry is lost: ", line)
        assert {environ["OTEL_EXPORTER_OTLP_ENDPOINT"] for environ in environs} == {endpoint}
        assert sorted(environ["OTEL_RESOURCE_ATTRIBUTES"] for environ in environs) == [
            f"service.instance.id={name}" for name in ("demo", "demo-upstream", "demo-without-cleanup")
        ]
        for name in (
            "memory",
            "sessions active",
            "created",
            "cleaned",
            "refused",
            "cleanup passes",
            "requests",
            "clients' latency",
        ):
            assert f"\n{name} " in said
        for reason in ("idle_timeout", "max_age", "closed", "evicted", "shutdown"):
            assert f"\n  {reason} " in said
        created, cleaned, active = (columns(said, name) for name in ("created", "cleaned", "sessions active"))
        for column in range(2):  # every figure is of one moment
            assert created[column] == cleaned[column] + active[column] > 0
        for claim in (
            "The books balance: ",
            "Cleanup works: ",
            "Memory is bounded: ",
            "The twin without cleanup and cap ",
        ):
            assert f"\n{claim}" in said
        *lines, last = said.splitlines()
        assert last == f"The report is in {running.report}: {', '.join(FILES)}"
        assert all(" " <= character <= "~" for line in lines for character in line)
        assert max(map(len, lines)) <= 80
        assert {path.name for path in running.report.iterdir()} == set(FILES)
        twin = json.loads((running.report / "summary.json").read_text())["without"]["sessions"]["cleaned_sessions"]
        assert {reason for reason, count in twin.items() if count} - {"closed"} == {"shutdown"}

    @pytest.mark.processes
    def test_cleanup_that_is_switched_off_fails_the_demo_and_is_named(self, tmp_path: Path) -> None:
        off = {
            f"OTEL_SESSIONS_{name}": "off" for name in ("MAX_IDLE_TIME_SECS", "MAX_SESSION_AGE_SECS", "MAX_SESSIONS")
        }
        with demo(tmp_path, "--duration", "2", "--clients", "10", "--no-twin", **off) as running:
            status, said, _ = running.end()

        assert status == 1
        assert "\nCleanup DOES NOT WORK: without an idle limit or an age limit, nothing" in said
        assert json.loads((running.report / "summary.json").read_text())["verdict"]["passed"] is False

    @pytest.mark.processes
    @pytest.mark.parametrize(
        ("broken", "clients"),
        [
            pytest.param(PASSES_DO_NOTHING, "20", id="passes do nothing"),
            pytest.param(THE_WHEEL_DROPS_EVERY_12TH, "60", id="the wheel drops every 12th"),
        ],
    )
    def test_a_build_that_forgets_sessions_fails_the_demo_and_is_told(
        self, broken: str, clients: str, tmp_path: Path
    ) -> None:
        (tmp_path / "sitecustomize.py").write_text(broken)
        with demo(tmp_path, *BRIEF, "--clients", clients, "--no-twin", PYTHONPATH=str(tmp_path), **QUICK) as running:
            status, said, _ = running.end()

        assert status == 1
        told = " ".join(said.split())
        assert re.search(
            r"Cleanup DOES NOT WORK: \d+ sessions? without a request for 4 s (was|were) still held at second \d+, "
            r"after \d+ passes\.",
            told,
        )
        assert "The books balance: " in told

    @pytest.mark.processes
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
    def test_an_interrupted_demo_exits_with_130_and_leaves_nothing_behind(
        self, number: signal.Signals, tmp_path: Path
    ) -> None:
        with demo(tmp_path, "--clients", "30", "--duration", NEVER) as running:
            running.process.send_signal(number)
            status, _, complained = running.end()

            assert status == 130
            assert complained == "otel-sessions: interrupted; everything is stopped\n"
            assert running.leftovers() == []
        assert not running.report.exists()

    @pytest.mark.processes
    def test_a_demo_that_is_interrupted_while_it_starts_exits_with_130_at_once(self, tmp_path: Path) -> None:
        running = Demo(tmp_path, "--clients", "30")
        assert running.process.stdout is not None
        running.process.stdout.readline()
        running.process.send_signal(signal.SIGTERM)

        assert running.end()[::2] == (130, "otel-sessions: interrupted; everything is stopped\n")

    @pytest.mark.processes
    def test_a_demo_that_nobody_reads_any_more_stops_everything_without_a_word(self, tmp_path: Path) -> None:
        with demo(tmp_path, "--clients", "5", "--duration", "10", "--no-twin") as running:
            assert running.process.stdout is not None
            running.process.stdout.close()

            assert running.process.stderr is not None
            complained = running.process.stderr.read()
            assert running.process.wait(PATIENCE) == 141
            assert running.leftovers() == []
        assert "interrupted" not in complained
        assert "Traceback" not in complained
        assert not running.report.exists()

    @pytest.mark.processes
    @pytest.mark.parametrize("alone", [("--no-twin",), ()], ids=["alone", "with its twin"])
    @pytest.mark.parametrize("seconds", ["0.1", "0.001"])
    def test_a_demo_that_is_far_too_short_says_so_and_nothing_worse(
        self, seconds: str, alone: tuple[str, ...], tmp_path: Path
    ) -> None:
        running = Demo(tmp_path, "--duration", seconds, "--clients", "5", *alone)
        status, said, complained = running.end()

        assert (status, complained) == (1, "")
        assert "The run was TOO SHORT to tell whether all is well." in said
        assert "DO NOT BALANCE" not in said
        assert "DOES NOT WORK" not in said
        assert "NOT BOUNDED" not in said

    @pytest.mark.processes
    def test_a_demo_in_front_of_head_stops_without_a_word(self, tmp_path: Path) -> None:
        ours = shlex.join(command(tmp_path / "report", "--clients", "5", "--duration", NEVER, "--no-twin"))
        status = f"{ours}; echo $? > {shlex.quote(str(tmp_path / 'status'))}"
        piped = subprocess.run(
            ["sh", "-c", f"{{ {status}; }} | head -n 1"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=True,
            env=clean_environ(),
        )

        assert piped.stdout.count("\n") == 1
        assert piped.stderr == ""
        assert (tmp_path / "status").read_text() == "141\n"

    @pytest.mark.processes
    def test_a_demo_that_is_killed_takes_its_processes_with_it(self, tmp_path: Path) -> None:
        with demo(tmp_path, "--clients", "5", "--duration", NEVER, "--no-twin") as running:
            running.process.kill()

            assert running.leftovers(PATIENCE) == []

    @pytest.mark.processes
    def test_a_twin_that_is_killed_ends_nothing_and_is_told(self, tmp_path: Path) -> None:
        with demo(tmp_path, "--clients", "4", "--duration", "6") as running:
            running.child("otel_sessions.demo.processes.proxy", "--max-sessions=off").kill()
            status, said, complained = running.end()

        assert (status, complained) == (1, "")  # it was too short
        told = " ".join(said.split())
        assert re.search(r"The twin without cleanup and cap was killed after \d+ s, as the system does when", told)
        assert int(re.findall(r"^ +(\d+)  ", said, re.MULTILINE)[-1]) >= 2

    @pytest.mark.processes
    @pytest.mark.parametrize(
        ("words", "name"),
        [
            (("otel_sessions.demo.processes.proxy", "--max-sessions=2"), "the proxy"),
            (("otel_sessions.demo.processes.upstream",), "the upstream"),
        ],
        ids=["proxy", "upstream"],
    )
    def test_a_process_that_dies_ends_the_demo_with_1_and_is_named(
        self, words: tuple[str, ...], name: str, tmp_path: Path
    ) -> None:
        with demo(tmp_path, "--clients", "5", "--duration", NEVER, "--no-twin") as running:
            running.child(*words).kill()
            status, _, complained = running.end()

            assert status == 1
            ours = [line for line in complained.splitlines() if not line.startswith("the proxy: ")]
            assert ours == [f"otel-sessions: {name} ended under load"]
            assert running.leftovers() == []
        assert not running.report.exists()


class Terminal:
    """A demo that runs on a terminal of 80 columns and 24 rows, and all that it has written there."""

    def __init__(self, folder: Path, *arguments: str, **environ: str) -> None:
        self._ours, theirs = pty.openpty()
        self.resize(80, 24)
        self._before = termios.tcgetattr(self._ours)
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        ours = ("COLUMNS", "LINES", "COLORTERM", "NO_COLOR")
        self.process = subprocess.Popen(
            command(folder, *arguments),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            env={name: value for name, value in clean_environ().items() if name not in ours}
            | {"TERM": "xterm-256color"}
            | environ,
        )
        os.close(theirs)
        self.said = ""

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def read_until(self, words: str, seconds: float = PATIENCE) -> str:
        """Return what is written from now on, up to these words, or up to the end."""
        found, end = "", time.monotonic() + seconds
        while words not in found and time.monotonic() < end:
            if select.select([self._ours], [], [], 0.1)[0]:
                try:
                    found += self._decoder.decode(os.read(self._ours, 65536))
                except OSError:  # the other end is closed
                    break
        self.said += found
        return found

    def end(self) -> int:
        """Return the exit status; the terminal must be as it was."""
        self.read_until("no such words")
        assert termios.tcgetattr(self._ours) == self._before
        os.close(self._ours)
        return self.process.wait(PATIENCE)


@contextmanager
def terminal(folder: Path, *arguments: str, **environ: str) -> Iterator[Terminal]:
    running = Terminal(folder, *arguments, **environ)
    try:
        yield running
    finally:
        running.process.kill()
        kill_session(running.process.pid)
        running.process.wait()


HOME, OTHER_SCREEN, USUAL_SCREEN, CURSOR = "\x1b[H", "\x1b[?1049h", "\x1b[?1049l", "\x1b[?25h"


def frames(said: str) -> list[list[str]]:
    """Return every whole picture that was drawn, as its rows."""
    return [re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", frame).split("\r\n") for frame in said.split(HOME)[1:-1]]


class TestOnATerminal:
    @pytest.mark.processes
    def test_a_demo_on_a_terminal_fits_it_whatever_size_it_takes_and_gives_it_back(self, tmp_path: Path) -> None:
        with terminal(tmp_path, *BRIEF, "--no-twin", **QUICK) as running:
            running.read_until("steady: ")
            for columns, rows in ((46, 9), (120, 50), (80, 24)):
                running.resize(columns, rows)
                running.read_until(HOME)  # what was under way had the old size
                drawn = frames(running.read_until(HOME) + running.read_until(HOME))
                assert {(len(frame), *map(len, frame)) for frame in drawn} == {(rows, *[columns] * rows)}
            assert running.end() == 0

        before, _, rest = running.said.partition(OTHER_SCREEN)
        shown, _, after = rest.partition(USUAL_SCREEN)
        assert "virtual MCP clients" in before
        assert "s left" in shown
        assert shown.endswith(CURSOR)
        assert "The books balance:" in after
        assert "the proxy: " not in after
        assert "38;5;" in after

    @pytest.mark.processes
    def test_where_no_colour_is_wanted_there_is_none_and_a_run_that_is_too_short_fails(self, tmp_path: Path) -> None:
        with terminal(
            tmp_path, "--duration", "3", "--clients", "10", "--rate", "10", "--no-twin", NO_COLOR="1"
        ) as running:
            assert running.end() == 1

        told = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", running.said).split())
        assert re.search(r"Cleanup was NOT SEEN at work: in \d+ s no session was abandoned for long enough.", told)
        assert "--duration 23 is enough." in told
        styles = {code for codes in re.findall(r"\x1b\[([0-9;]*)m", running.said) for code in codes.split(";")}
        assert styles == {"0", "1", "2"}
        assert "s left" in running.said

    @pytest.mark.processes
    def test_ctrl_c_gives_the_terminal_back(self, tmp_path: Path) -> None:
        with terminal(tmp_path, "--clients", "5", "--no-twin") as running:
            running.read_until("s left")
            running.process.send_signal(signal.SIGINT)
            assert running.end() == 130

        assert running.said.count(OTHER_SCREEN) == running.said.count(USUAL_SCREEN) == 1
        assert running.said.rindex(CURSOR) > running.said.rindex("s left")
        assert running.said.endswith("otel-sessions: interrupted; everything is stopped\r\n")
        assert list(tmp_path.iterdir()) == []  # it was there before
