"""Signals that end the proxy: in order on the first one, at once on a second one."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from tests.exchanges import INITIALIZE
from tests.processes import HOST, clean_environ, free_port, killed_late
from tests.waiting import NEVER, PATIENCE

from .conftest import Origin, StartProxy

pytestmark = pytest.mark.processes

JSON = {"content-type": "application/json"}
PROGRAMS = pytest.mark.parametrize(
    "program", [("cli", "proxy"), ("demo.processes.proxy",)], ids=["proxy", "demo's proxy"]
)
GENTLE = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])


@contextmanager
def listening(
    program: tuple[str, ...],
    *flags: str,
    upstream: str = "http://127.0.0.1:9",
    port: int = 0,
    before: tuple[str, ...] = (),
) -> Iterator["subprocess.Popen[str]"]:
    """Run a program, and go on at the very line by which it says that it listens."""
    module, *command = program
    addresses = ("--upstream", upstream, "--listen", f"{HOST}:{port}")
    process = subprocess.Popen(
        [*before, sys.executable, "-m", f"otel_sessions.{module}", *command, *addresses, *flags],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=clean_environ(),
    )
    with process, killed_late(process):
        assert process.stderr is not None
        assert any("listening on " in line for line in process.stderr)
        yield process


def opened(url: str) -> str:
    session_id: str = httpx2.post(
        f"{url}/mcp", headers=JSON, content=INITIALIZE, trust_env=False, timeout=PATIENCE
    ).headers["mcp-session-id"]
    return session_id


@PROGRAMS
@GENTLE
def test_from_the_line_that_says_listening_on_a_signal_ends_it_in_order(
    program: tuple[str, ...], number: signal.Signals
) -> None:
    with listening(program) as proxy:
        proxy.send_signal(number)
        assert proxy.wait(PATIENCE) == 0
        assert proxy.stderr is not None
        assert "Traceback" not in proxy.stderr.read()


@PROGRAMS
@GENTLE
def test_whatever_ends_it_in_order_tells_the_upstream_and_leaves_its_records(
    program: tuple[str, ...], number: signal.Signals, origin: Origin, tmp_path: Path
) -> None:
    file, port = tmp_path / "sessions.jsonl", free_port()
    with listening(program, "--export", str(file), upstream=origin.url, port=port) as proxy:
        opened(f"http://{HOST}:{port}")
        assert origin.counts()["sessions"] == 1
        proxy.send_signal(number)
        assert proxy.wait(PATIENCE) == 0

    assert origin.counts()["sessions"] == 0
    assert file.read_text().count("shutdown") == 1


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGHUP])
def test_a_second_hangup_cuts_nothing_short_because_a_closing_terminal_sends_two(
    first: signal.Signals, start: StartProxy, http: httpx2.Client, origin: Origin
) -> None:
    with start("--drain-timeout", NEVER) as proxy, ThreadPoolExecutor(1) as beside:
        headers = {"mcp-session-id": opened(proxy.url)}
        flying = beside.submit(http.get, f"{proxy.url}/held", headers=headers)
        origin.until("held", 1)
        proxy.process.process.send_signal(first)
        proxy.until_it_shuts_down()
        proxy.process.process.send_signal(signal.SIGHUP)
        origin.release()

        assert flying.result().text == "at last"
        assert proxy.process.end() == 0
    assert origin.counts()["sessions"] == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_after_a_hangup_the_first_signal_of_another_kind_cuts_nothing_short(
    number: signal.Signals, start: StartProxy, http: httpx2.Client, origin: Origin
) -> None:
    with start("--drain-timeout", NEVER) as proxy, ThreadPoolExecutor(1) as beside:
        headers = {"mcp-session-id": opened(proxy.url)}
        flying = beside.submit(http.get, f"{proxy.url}/held", headers=headers)
        origin.until("held", 1)
        proxy.process.process.send_signal(signal.SIGHUP)
        proxy.until_it_shuts_down()
        proxy.process.process.send_signal(number)
        origin.release()

        assert flying.result().text == "at last"
        assert proxy.process.end() == 0
    assert origin.counts()["sessions"] == 0


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_that_is_no_hangup_ends_it_at_once(
    second: signal.Signals, start: StartProxy, http: httpx2.Client, origin: Origin
) -> None:
    with start("--drain-timeout", NEVER) as proxy:
        session_id = opened(proxy.url)
        with http.stream("GET", f"{proxy.url}/mcp", headers={"mcp-session-id": session_id}) as answer:
            next(answer.iter_raw())
            proxy.process.process.send_signal(signal.SIGTERM)
            proxy.until_it_shuts_down()
            proxy.process.process.send_signal(second)

            assert proxy.process.end() == 128 + second
    origin.until_none("streams")
    httpx2.delete(f"{origin.url}/mcp", headers={"mcp-session-id": session_id}, trust_env=False, timeout=PATIENCE)


@PROGRAMS
def test_a_hangup_that_is_ignored_as_under_nohup_ends_nothing(program: tuple[str, ...], origin: Origin) -> None:
    port = free_port()
    with listening(program, upstream=origin.url, port=port, before=("nohup",)) as proxy:
        proxy.send_signal(signal.SIGHUP)
        opened(f"http://{HOST}:{port}")
        proxy.send_signal(signal.SIGTERM)
        assert proxy.wait(PATIENCE) == 0
    assert origin.counts()["sessions"] == 0
