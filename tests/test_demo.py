import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import psutil
import pytest

from otel_sessions import ConfigError, __version__
from otel_sessions.cli import main
from otel_sessions.demo.limits import demo_limits
from otel_sessions.demo.reading import Reading
from otel_sessions.demo.summary import MIB, Run, exit_status, table, unbalanced, unbounded, verdict
from otel_sessions.demo.tally import Tally, percentile
from otel_sessions.proxy.otlp import require_exporters

# The summary


def reading(created: int, active: int, memory: int = 50 * MIB, **cleaned: int) -> Reading:
    return Reading(
        created=created,
        active=active,
        peak_active=8,
        cleaned={"idle_timeout": 0, "closed": 0, "failed": 0, "shutdown": 0, **cleaned},
        rejected={"max_sessions": 3},
        passes=4,
        errors=0,
        memory=memory,
    )


GOOD = Run(
    readings=[reading(0, 0), reading(9, 6, closed=3), reading(12, 8, closed=4)],
    last=reading(12, 0, closed=4, idle_timeout=1, failed=1, shutdown=6),
    cap=8,
    clients=16,
    tally=Tally(opened=12, closed=4, failed=1, rejected=3),
)


def test_a_run_whose_books_balance_in_bounded_memory_is_good() -> None:
    assert exit_status(GOOD) == 0
    assert [line.split(":")[0] for line in verdict(GOOD)] == ["The books balance", "Memory is bounded"]


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (replace(GOOD, readings=[reading(9, 6, closed=2)]), "created 9 is not cleaned 2 + active 6"),
        (replace(GOOD, last=reading(12, 0, closed=4, failed=1)), "created 12 is not cleaned 5 + active 0"),
        (replace(GOOD, last=reading(12, 7, closed=4, failed=1)), "7 sessions are active after the shutdown"),
        (replace(GOOD, last=None), "the proxy gave no last reading"),
        (replace(GOOD, last=reading(0, 0)), "no session was created"),
        (replace(GOOD, tally=Tally(opened=13, closed=4, failed=1, rejected=3)), "says created 12, its clients 13"),
        (replace(GOOD, tally=Tally(opened=12, closed=3, failed=1, rejected=3)), "says closed 4, its clients 3"),
        (replace(GOOD, tally=Tally(opened=12, closed=4, failed=1, rejected=0)), "says rejected 3, its clients 0"),
    ],
)
def test_books_that_do_not_balance_are_told_and_exit_with_1(bad: Run, says: str) -> None:
    assert any(says in problem for problem in unbalanced(bad))
    assert "DO NOT BALANCE" in verdict(bad)[0]
    assert exit_status(bad) == 1


def test_an_answer_that_never_came_back_explains_one_difference() -> None:
    tally = Tally(opened=11, closed=4, failed=1, rejected=3, unexpected=1)

    assert exit_status(replace(GOOD, tally=tally)) == 0


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (replace(GOOD, cap=7), "8 sessions were active at once under a cap of 7"),
        (replace(GOOD, readings=[reading(0, 0), reading(0, 0, 62 * MIB)]), "62.0 MiB is above the 61.0 MiB"),
        (replace(GOOD, last=replace(GOOD.end, memory=62 * MIB)), "62.0 MiB is above the 61.0 MiB"),
    ],
)
def test_memory_that_is_not_bounded_is_told_and_exits_with_1(bad: Run, says: str) -> None:
    assert any(says in problem for problem in unbounded(bad))
    assert any("NOT BOUNDED" in line for line in verdict(bad))
    assert exit_status(bad) == 1


def test_memory_may_rise_by_what_sessions_and_clients_take() -> None:
    run = replace(GOOD, readings=[reading(0, 0), reading(0, 0, 61 * MIB)])

    assert exit_status(run) == 0
    assert "2.0 MiB for 8 sessions, 1.0 MiB for 16 clients, and 8.0 MiB" in verdict(run)[1]


def test_without_a_cap_the_most_sessions_there_were_explain_memory() -> None:
    run = replace(GOOD, cap=None)

    assert exit_status(run) == 0
    assert "no cap" in verdict(run)[1]
    assert "for 8 sessions" in verdict(run)[1]


def test_the_table_shows_every_number() -> None:
    lines = {line[:14].strip(): line[14:].strip() for line in table(GOOD)}

    assert lines["created"] == "12"
    assert lines["cleaned"] == "12  idle_timeout 1, closed 4, failed 1, shutdown 6"
    assert lines["active"] == "0  at most 8 of 8"
    assert lines["rejected"] == "3  max_sessions 3"
    assert lines["cleanup passes"] == "4  errors 0"
    assert lines["proxy memory"] == "start 50.0 MiB, peak 50.0 MiB, end 50.0 MiB"


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [([], 0.5, 0.0), ([7.0], 0.99, 7.0), ([3.0, 1.0, 2.0], 0.5, 2.0), (list(range(1, 101)), 0.99, 99)],
)
def test_percentiles_are_values_that_were_measured(values: Sequence[float], share: float, expected: float) -> None:
    assert percentile(values, share) == expected


def test_a_reading_survives_its_way_to_the_parent() -> None:
    assert Reading.from_json(GOOD.end.to_json()) == GOOD.end


# Before anything starts


def test_the_limits_follow_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert demo_limits(300).max_sessions == 150
    assert demo_limits(1).max_sessions == 1

    monkeypatch.setenv("OTEL_SESSIONS_MAX_SESSIONS", "7")

    assert demo_limits(300).max_sessions == 7


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
def test_an_export_that_can_work_is_accepted(environ: dict[str, str]) -> None:
    require_exporters(environ)


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"}, "OTLP_PROTOCOL"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:port"}, "OTLP_ENDPOINT"),
    ],
)
def test_an_export_that_cannot_work_is_refused(environ: dict[str, str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        require_exporters(environ)


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])

    assert __version__ in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["demo", "--duration", "0"],
        ["demo", "--duration", "x"],
        ["demo", "--clients", "0"],
        ["demo", "--port", "65536"],
    ],
)
def test_wrong_arguments_exit_with_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)


@pytest.mark.parametrize("module", ["httpx2", "psutil", "rich", "starlette", "uvicorn"])
def test_a_missing_extra_exits_with_2_and_says_what_to_install(
    module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, module, None)

    assert main(["demo"]) == 2
    assert "pip install 'otel-sessions[demo]'" in capsys.readouterr().err


def test_a_taken_port_exits_with_2_and_names_the_port_and_the_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])

        assert main(["demo", "--port", port]) == 2
        assert_names(capsys.readouterr().err, port, "--port")
        assert main(["demo", "--port", "0", "--upstream-port", port]) == 2
        assert_names(capsys.readouterr().err, port, "--upstream-port")


def assert_names(message: str, *names: str) -> None:
    assert all(name in message for name in names)
    assert message.count("\n") == 1


def test_a_wrong_limit_in_the_environment_exits_with_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OTEL_SESSIONS_MAX_SESSIONS", "many")

    assert main(["demo", "--port", "0"]) == 2
    assert_names(capsys.readouterr().err, "OTEL_SESSIONS_MAX_SESSIONS")


# The whole, as processes


class Demo:
    """A demo that runs, and the processes it has started."""

    def __init__(self, *arguments: str, **environ: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "otel_sessions.cli", "demo", "--port", "0", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={name: value for name, value in os.environ.items() if not name.startswith("OTEL_")} | environ,
        )
        self.said = ""
        self.children: list[psutil.Process] = []

    def wait_until_loaded(self) -> None:
        """Return at the first progress line."""
        assert self.process.stdout is not None
        while " created " not in (line := self.process.stdout.readline()):
            assert line, "the demo ended"
            self.said += line
        self.children = psutil.Process(self.process.pid).children(recursive=True)
        assert len(self.children) == 2

    def end(self, seconds: float = 20.0) -> tuple[int, str, str]:
        """Return the exit status, and what it has written on stdout and stderr."""
        said, complained = self.process.communicate(timeout=seconds)
        return self.process.returncode, self.said + said, complained

    def leftovers(self, seconds: float = 0.0) -> list[psutil.Process]:
        return psutil.wait_procs(self.children, timeout=seconds)[1]


@contextmanager
def demo(*arguments: str, **environ: str) -> Iterator[Demo]:
    running = Demo(*arguments, **environ)
    try:
        running.wait_until_loaded()
        yield running
    finally:
        running.process.kill()
        running.end()


@pytest.mark.processes
def test_a_demo_in_a_pipe_sums_up_in_plain_text_and_leaves_nothing_running() -> None:
    with demo("--duration", "3", "--clients", "30") as running:
        status, said, complained = running.end()

        assert (status, complained) == (0, "")
        assert running.leftovers() == []
    for name in ("created", "cleaned", "active", "rejected", "cleanup passes", "latency", "proxy memory"):
        assert f"\n{name} " in said
    for reason in ("idle_timeout", "max_age", "closed", "failed", "evicted", "shutdown"):
        assert f"{reason} " in said
    assert "\nThe books balance: " in said
    assert "\nMemory is bounded: " in said
    assert all(character == "\n" or " " <= character <= "~" for character in said)


@pytest.mark.processes
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_exits_with_130_and_leaves_nothing_running(number: signal.Signals) -> None:
    with demo("--clients", "30", "--duration", "5") as running:
        running.process.send_signal(number)
        status, _, complained = running.end()

        assert status == 130
        assert complained == "otel-sessions: interrupted; everything is stopped\n"
        assert running.leftovers() == []


@pytest.mark.processes
def test_a_demo_that_is_killed_takes_its_processes_with_it() -> None:
    with demo("--clients", "5", "--duration", "5") as running:
        running.process.kill()

        assert running.leftovers(10) == []


@pytest.mark.processes
def test_a_proxy_that_dies_ends_the_demo_with_1() -> None:
    with demo("--clients", "5", "--duration", "5") as running:
        (proxy,) = [child for child in running.children if "otel_sessions.demo.proxy" in child.cmdline()]
        proxy.kill()
        status, _, complained = running.end()

        assert status == 1
        assert complained == "otel-sessions: the proxy ended under load\n"
        assert running.leftovers() == []


@pytest.mark.processes
def test_a_collector_that_is_gone_neither_stops_nor_fails_the_demo() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, never answers
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with demo("--duration", "1", "--clients", "5", OTEL_EXPORTER_OTLP_ENDPOINT=endpoint) as running:
            status, said, _ = running.end(seconds=8)

    assert status == 0
    assert "\nThe books balance: " in said
