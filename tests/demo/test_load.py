import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from typing import Any

import anyio
import httpx2
import pytest

from otel_sessions.cli import main
from otel_sessions.demo.load.clients import Load, LoadOptions
from otel_sessions.demo.load.mcp import CALL, OPENED, OPENING, REVISION, headers_of
from otel_sessions.demo.load.scenario import PHASES, STEADY, Phase, Scenario
from otel_sessions.demo.processes.upstream import Upstream as ToyUpstream
from tests.processes import clean_environ, killed_late
from tests.waiting import PATIENCE

pytestmark = pytest.mark.no_cover

SCENARIO = Scenario(phases=PHASES, seconds=100.0)


def test_the_phases_fill_the_scenario() -> None:
    assert sum(phase.share for phase in PHASES) == pytest.approx(1.0)


class TestStory:
    def test_the_story_goes_through_its_phases_in_order_and_begins_anew(self) -> None:
        told = [SCENARIO.at(second).phase for second in range(200)]
        changes = [phase for phase, before in zip(told, ["", *told], strict=False) if phase != before]

        assert changes == ["ramp", "steady", "burst", "abandonment", "recovery"] * 2

    def test_clients_come_little_by_little_in_a_phase_that_rises(self) -> None:
        scenario = Scenario(phases=[Phase(name="rise", share=1.0, first=0.2, last=0.6)], seconds=10.0)

        assert [scenario.at(second).present for second in (0, 5, 9.999)] == pytest.approx([0.2, 0.4, 0.6], abs=0.001)

    def test_everybody_is_there_in_the_burst_and_nobody_is_after_it(self) -> None:
        burst, abandonment = SCENARIO.at(60), SCENARIO.at(70)

        assert (burst.phase, burst.present, burst.leaves) == ("burst", 1.0, False)
        assert (abandonment.phase, abandonment.present, abandonment.leaves) == ("abandonment", 0.0, True)

    def test_a_steady_load_has_everybody_all_the_time(self) -> None:
        scenario = Scenario(phases=STEADY, seconds=1.0)

        assert {(scenario.at(second / 7).present, scenario.at(second / 7).leaves) for second in range(100)} == {
            (1.0, False)
        }

    def test_shares_that_fall_short_of_the_whole_leave_no_gap(self) -> None:
        scenario = Scenario(phases=[Phase(name="only", share=0.9, first=0.0, last=1.0)], seconds=10.0)

        assert (scenario.at(9.5).phase, scenario.at(9.5).present) == ("only", 1.0)


def load_on(app: Callable[..., Any], *, clients: int = 1, seconds: float = 100.0) -> Load:
    return Load(
        lambda: httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://proxy"),
        LoadOptions(clients=clients, rate=1.0, seed=1),
        seconds=seconds,
        scenario=Scenario(phases=STEADY, seconds=1.0),
    )


class Upstream:
    """The toy upstream as it is, and the requests that it has got."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, bytes | None]] = []
        self._app = ToyUpstream().app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        headers = dict(scope["headers"])
        self.seen.append((scope["method"], headers.get(b"mcp-session-id")))
        await self._app(scope, receive, send)


class Refusing:
    """A proxy that has no place for anybody, or one that refuses for another reason."""

    def __init__(self, *headers: tuple[bytes, bytes], status: int = 503) -> None:
        self.asked: list[float] = []
        self._headers = list(headers)
        self._status = status

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.asked.append(anyio.current_time())
        assert len(self.asked) < 1000, "it is hammered"
        await send({"type": "http.response.start", "status": self._status, "headers": self._headers})
        await send({"type": "http.response.body", "body": b""})


async def fall_silent(scope: Any, receive: Any, send: Any) -> None:
    raise httpx2.ConnectError("nobody is there")


class TestClients:
    @pytest.mark.anyio
    async def test_clients_open_use_and_leave_sessions_and_count_what_they_did(self) -> None:
        upstream = Upstream()
        load = load_on(upstream, clients=5)
        await load.run()
        counts = load.counts

        assert counts.unexpected == counts.gone == counts.rejected == 0
        assert counts.requests == len(upstream.seen)
        assert (
            counts.opened == len([method for method, named in upstream.seen if method == "POST" and named is None]) > 0
        )
        assert counts.closed == len([method for method, _ in upstream.seen if method == "DELETE"]) > 0
        assert 0 < counts.abandoned <= counts.opened - counts.closed

    @pytest.mark.anyio
    async def test_a_refused_client_stays_away_for_as_long_as_it_is_told(self) -> None:
        proxy = Refusing((b"retry-after", b"30"))
        load = load_on(proxy)
        await load.run()

        assert load.counts.rejected == load.counts.told_to_wait == len(proxy.asked) >= 2
        assert all(later - earlier >= 30 for earlier, later in pairwise(proxy.asked))

    @pytest.mark.anyio
    async def test_a_refused_client_who_is_told_nothing_comes_back_soon(self) -> None:
        proxy = Refusing()
        load = load_on(proxy)
        await load.run()

        assert load.counts.rejected == len(proxy.asked)
        assert load.counts.told_to_wait == 0
        assert max(later - earlier for earlier, later in pairwise(proxy.asked)) <= 2

    @pytest.mark.anyio
    @pytest.mark.parametrize("status", [404, 500])
    async def test_a_target_that_has_no_sessions_at_all_is_not_hammered_and_counts_as_unexpected(
        self, status: int
    ) -> None:
        proxy = Refusing(status=status)
        load = load_on(proxy)
        await load.run()

        assert load.counts.unexpected == len(proxy.asked) >= 2
        assert load.counts.gone == 0
        assert all(later - earlier >= 1 for earlier, later in pairwise(proxy.asked))

    @pytest.mark.anyio
    async def test_any_success_is_as_good_as_the_usual_one(self) -> None:
        upstream = ToyUpstream().app

        async def other(scope: Any, receive: Any, send: Any) -> None:
            async def answer(message: Any) -> None:
                await send(message | {"status": 200} if message.get("status") in (202, 204) else message)

            await upstream(scope, receive, answer)

        load = load_on(other, clients=5)
        await load.run()

        assert load.counts.closed > 0
        assert load.counts.unexpected == 0

    @pytest.mark.anyio
    async def test_the_upstream_speaks_as_much_of_mcp_as_the_clients_need(self) -> None:
        transport = httpx2.ASGITransport(ToyUpstream().app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://upstream") as http:
            opened = await http.post("/mcp", json=OPENING)
            known, unknown = headers_of(opened.headers["mcp-session-id"]), headers_of("unknown")

            assert (opened.status_code, opened.json()["result"]["protocolVersion"]) == (200, REVISION)
            assert (await http.post("/mcp", json=OPENED, headers=known)).status_code == 202
            assert (await http.post("/mcp", json=CALL, headers=known)).json()["result"]["content"][0]["text"] == "done"
            assert (await http.post("/mcp", json=CALL, headers=unknown)).status_code == 404
            assert (await http.post("/mcp", json=CALL)).status_code == 404
            assert (await http.delete("/mcp", headers=known)).status_code == 204
            assert (await http.delete("/mcp", headers=known)).status_code == 404
            assert (await http.post("/mcp", json=CALL, headers=known)).status_code == 404
            assert (await http.get("/healthz")).status_code == 200

    @pytest.mark.anyio
    async def test_clients_who_are_there_at_the_start_ask_however_short_the_run_is(self) -> None:
        load = load_on(Upstream(), clients=5, seconds=0.0)
        await load.run()

        assert load.counts.opened == 5
        assert load.counts.answered == load.counts.requests
        assert load.counts.silence == ""

    @pytest.mark.anyio
    async def test_answers_and_silence_are_counted_apart(self) -> None:
        refusing, silent = load_on(Refusing(status=500)), load_on(fall_silent)
        await refusing.run()
        await silent.run()

        assert (refusing.counts.answered, refusing.counts.unanswered) == (refusing.counts.requests, 0)
        assert (silent.counts.answered, silent.counts.unanswered) == (0, silent.counts.requests)
        assert silent.counts.silence == "ConnectError: nobody is there"


def module(name: str, *arguments: str, **environ: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", f"otel_sessions.{name}", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=clean_environ() | environ,
    )


@pytest.fixture
def nobody() -> str:
    """An address at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"127.0.0.1:{listener.getsockname()[1]}"


@contextmanager
def loading(target: str, *arguments: str, before: tuple[str, ...] = ()) -> Iterator["subprocess.Popen[str]"]:
    """Run a load that writes lines to stderr for as long as the block lasts."""
    command = [*before, sys.executable, "-m", "otel_sessions.cli", "load", "--target", f"http://{target}", "--steady"]
    process = subprocess.Popen(
        [*command, "--clients", "3", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=clean_environ(),
    )
    with process, killed_late(process):
        yield process


def read_until(process: "subprocess.Popen[str]", words: str) -> str:
    """Return what a process writes to stderr up to a line with these words."""
    assert process.stderr is not None
    said = ""
    for line in process.stderr:
        said += line
        if words in line:
            return said
    pytest.fail(f"it never said {words!r} but {said!r}")


class Answering(BaseHTTPRequestHandler):
    """Who knows no method, and keeps that it was asked."""

    asked = threading.Event()

    def log_error(self, *_: object) -> None:
        self.asked.set()


@pytest.fixture
def somebody() -> Iterator[str]:
    """An address at which somebody listens, who speaks HTTP but no MCP."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Answering) as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


class TestProgram:
    @pytest.mark.parametrize(
        "arguments",
        [
            [],
            ["--target", "127.0.0.1:8080"],
            ["--target", "http://"],
            ["--target", "http://x:port"],
            ["--target", "http://user:word@x"],
            ["--target", "http://x", "--rate", "0"],
            ["--target", "http://x", "--clients", "0"],
            ["--target", "http://x", "--cycle", "-1"],
        ],
    )
    def test_wrong_arguments_exit_with_2(self, arguments: list[str]) -> None:
        with pytest.raises(SystemExit, match="2"):
            main(["load", "--duration", "1", *arguments])

    def test_the_help_says_that_a_load_without_a_request_exits_with_1(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit, match="0"):
            main(["load", "--help"])

        assert "It is also 1 if no request was made." in " ".join(capsys.readouterr().out.split())

    @pytest.mark.processes
    @pytest.mark.parametrize("seconds", ["0.001", "1.5"])
    def test_a_load_whose_target_never_answers_says_so_in_a_line_and_goes_on_to_its_end(
        self, nobody: str, seconds: str
    ) -> None:
        with loading(nobody, "--duration", seconds) as load:
            said = read_until(load, "the end: ")

            assert load.wait(PATIENCE) == 1
        assert said.count("does not answer") == 1
        assert f"http://{nobody} does not answer (ConnectError" in said
        assert "opened 0" in said
        assert "unexpected 0" not in said
        assert "Traceback" not in said

    @pytest.mark.processes
    def test_a_load_that_had_an_answer_of_any_kind_exits_with_0(self, somebody: str) -> None:
        with loading(somebody, "--duration", "0.001") as load:
            said = read_until(load, "the end: ")

            assert load.wait(PATIENCE) == 0
        assert "does not answer" not in said

    @pytest.mark.processes
    def test_a_load_whose_target_falls_silent_again_says_so_again(self, nobody: str) -> None:
        Answering.asked.clear()
        with loading(nobody) as load:
            read_until(load, "does not answer")
            with ThreadingHTTPServer(("127.0.0.1", int(nobody.rsplit(":")[1])), Answering) as server:
                thread = threading.Thread(target=server.serve_forever, args=[0.01])
                thread.start()
                assert Answering.asked.wait(PATIENCE)
                server.shutdown()
                thread.join()
            read_until(load, "does not answer")
            load.send_signal(signal.SIGTERM)

            assert load.wait(PATIENCE) == 0

    @pytest.mark.processes
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
    def test_a_load_sums_up_on_a_signal_from_its_first_line_on(self, somebody: str, number: signal.Signals) -> None:
        with loading(somebody) as load:
            read_until(load, "virtual clients")
            load.send_signal(number)
            said = read_until(load, "the end: opened 0")

            assert load.wait(PATIENCE) == 0
            assert "Traceback" not in said

    @pytest.mark.processes
    def test_a_load_under_nohup_outlives_its_terminal(self, nobody: str) -> None:
        with loading(nobody, before=("nohup",)) as load:
            read_until(load, "virtual clients")
            load.send_signal(signal.SIGHUP)
            read_until(load, "does not answer")
            load.send_signal(signal.SIGTERM)
            read_until(load, "the end: opened 0")

            assert load.wait(PATIENCE) == 1

    @pytest.mark.processes
    @pytest.mark.parametrize(
        ("arguments", "environ", "says"),
        [
            (["--listen", "8080"], {}, "takes HOST:PORT"),
            (["--listen", "127.0.0.1:0"], {"OTEL_SESSIONS_MAX_SESSIONS": "many"}, "OTEL_SESSIONS_MAX_SESSIONS"),
            (["--listen", "127.0.0.1:0"], {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:port"}, "OTLP_ENDPOINT"),
            (["--listen", "no.such.host.invalid:80"], {}, "--listen no.such.host.invalid:80: "),
        ],
    )
    def test_a_proxy_that_cannot_start_says_why_in_a_line_and_exits_with_2(
        self, arguments: list[str], environ: dict[str, str], says: str
    ) -> None:
        proxy = module("demo.processes.proxy", "--upstream", "http://127.0.0.1:9", *arguments, **environ)
        _, said = proxy.communicate(timeout=PATIENCE)

        assert proxy.returncode == 2
        assert says in said.splitlines()[-1]
        assert "Traceback" not in said

    @pytest.mark.processes
    def test_a_proxy_whose_port_is_taken_names_the_port_and_the_flag(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as other:
            address = f"127.0.0.1:{other.getsockname()[1]}"
            proxy = module("demo.processes.proxy", "--upstream", "http://127.0.0.1:9", "--listen", address)
            _, said = proxy.communicate(timeout=PATIENCE)

        assert proxy.returncode == 2
        assert address in said
        assert "--listen" in said

    @pytest.mark.processes
    def test_a_second_hangup_takes_no_last_line_from_a_load(self, somebody: str) -> None:
        with loading(somebody) as load:
            read_until(load, "virtual clients")
            load.send_signal(signal.SIGHUP)
            load.send_signal(signal.SIGHUP)
            read_until(load, "the end: ")
            assert load.wait(PATIENCE) in (0, 1)

    @pytest.mark.processes
    def test_a_load_that_has_asked_nothing_or_in_vain_says_why_it_exits_with_1(self) -> None:
        done = module("cli", "load", "--target", "http://127.0.0.1:1", "--clients", "1", "--duration", "0.001")
        _, said = done.communicate(timeout=PATIENCE)

        assert done.returncode == 1
        assert "no request was made" in said or "does not answer" in said
