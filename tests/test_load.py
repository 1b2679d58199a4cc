import os
import signal
import socket
import subprocess
import sys

import pytest

from otel_sessions.cli import main
from otel_sessions.demo.phases import PHASES, STEADY, Phase, Story

STORY = Story(phases=PHASES, seconds=100.0)


# The story


def test_the_phases_fill_the_story() -> None:
    assert sum(phase.share for phase in PHASES) == pytest.approx(1.0)


def test_the_story_goes_through_its_phases_in_order_and_begins_anew() -> None:
    told = [STORY.at(second).phase for second in range(200)]
    changes = [phase for phase, before in zip(told, ["", *told], strict=False) if phase != before]

    assert changes == ["ramp", "steady", "burst", "abandonment", "recovery"] * 2


def test_clients_come_little_by_little_in_a_phase_that_rises() -> None:
    story = Story(phases=[Phase(name="rise", share=1.0, first=0.2, last=0.6)], seconds=10.0)

    assert [story.at(second).present for second in (0, 5, 9.999)] == pytest.approx([0.2, 0.4, 0.6], abs=0.001)


def test_everybody_is_there_in_the_burst_and_nobody_is_after_it() -> None:
    burst, abandonment = STORY.at(60), STORY.at(70)

    assert (burst.phase, burst.present, burst.leaves) == ("burst", 1.0, False)
    assert (abandonment.phase, abandonment.present, abandonment.leaves) == ("abandonment", 0.0, True)


def test_a_steady_load_has_everybody_all_the_time() -> None:
    story = Story(phases=STEADY, seconds=1.0)

    assert {(story.at(second / 7).present, story.at(second / 7).leaves) for second in range(100)} == {(1.0, False)}


def test_shares_that_fall_short_of_the_whole_leave_no_gap() -> None:
    story = Story(phases=[Phase(name="only", share=0.9, first=0.0, last=1.0)], seconds=10.0)

    assert (story.at(9.5).phase, story.at(9.5).present) == ("only", 1.0)


# The program


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--target", "127.0.0.1:8080"],
        ["--target", "http://x", "--rate", "0"],
        ["--target", "http://x", "--clients", "0"],
        ["--target", "http://x", "--cycle", "-1"],
    ],
)
def test_wrong_arguments_exit_with_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["load", *arguments])


def module(name: str, *arguments: str, **environ: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", f"otel_sessions.{name}", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={name: value for name, value in os.environ.items() if not name.startswith("OTEL_")} | environ,
    )


@pytest.fixture
def nobody() -> str:
    """An address at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.processes
def test_a_load_whose_target_is_not_there_goes_on_and_says_so(nobody: str) -> None:
    load = module("cli", "load", "--target", f"http://{nobody}", "--clients", "3", "--steady", "--duration", "1")
    _, said = load.communicate(timeout=20)

    assert load.returncode == 0
    assert "opened 0" in said
    assert "unexpected 0" not in said
    assert "Traceback" not in said


@pytest.mark.processes
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_load_that_is_stopped_sums_up_and_exits_with_0(nobody: str, number: signal.Signals) -> None:
    load = module("cli", "load", "--target", f"http://{nobody}", "--clients", "3")
    assert load.stderr is not None
    load.stderr.readline()  # it has begun
    load.stderr.readline()
    load.send_signal(number)
    _, said = load.communicate(timeout=20)

    assert load.returncode == 0
    assert said.startswith("the end: opened 0")


@pytest.mark.processes
@pytest.mark.parametrize(
    ("arguments", "environ", "says"),
    [
        (["--listen", "8080"], {}, "takes HOST:PORT"),
        (["--listen", "127.0.0.1:0"], {"OTEL_SESSIONS_MAX_SESSIONS": "many"}, "OTEL_SESSIONS_MAX_SESSIONS"),
        (["--listen", "127.0.0.1:0"], {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:port"}, "OTLP_ENDPOINT"),
        (["--listen", "no.such.host.invalid:80"], {}, "cannot listen on no.such.host.invalid:80"),
    ],
)
def test_a_proxy_that_cannot_start_says_why_in_a_line_and_exits_with_2(
    arguments: list[str], environ: dict[str, str], says: str
) -> None:
    proxy = module("demo.proxy", "--upstream", "http://127.0.0.1:9", *arguments, **environ)
    _, said = proxy.communicate(timeout=20)

    assert proxy.returncode == 2
    assert says in said.splitlines()[-1]
    assert "Traceback" not in said


@pytest.mark.processes
def test_a_proxy_whose_port_is_taken_names_the_port_and_the_flag() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        proxy = module("demo.proxy", "--upstream", "http://127.0.0.1:9", "--listen", address)
        _, said = proxy.communicate(timeout=20)

    assert proxy.returncode == 2
    assert address in said
    assert "--listen" in said
