"""Sessions of clients through the proxy, and of the upstream behind it."""

import json
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx2
import psutil
import pytest

from otel_sessions._ids import fingerprint
from otel_sessions.cli import main
from otel_sessions.proxy.server import listen
from otel_sessions.proxy.settings import preset
from tests.processes import free_port, running_module, until_answers
from tests.waiting import until

from .conftest import Origin, Proxy, StartProxy

pytestmark = pytest.mark.processes

MIB = 1024 * 1024
QUICK = ("--cleanup-interval", "0.2", "--max-idle-time", "0.5", "--drain-timeout", "0.5")
AS_ADA = {"authorization": "Bearer of ada"}


def initialize(proxy: Proxy, http: httpx2.Client, **headers: str) -> httpx2.Response:
    return http.post(f"{proxy.url}/mcp", headers=headers)


def use(proxy: Proxy, http: httpx2.Client, session_id: str, method: str = "POST", **headers: str) -> httpx2.Response:
    return http.request(method, f"{proxy.url}/mcp", headers={"mcp-session-id": session_id, **headers})


# Their lives


def test_a_session_begins_with_the_upstreams_answer_and_ends_with_the_clients_delete(
    start: StartProxy, http: httpx2.Client, origin: Origin
) -> None:
    with start() as proxy:
        session_id = initialize(proxy, http).headers["mcp-session-id"]
        used, active = use(proxy, http, session_id), proxy.said_of_itself()["active"]
        ended, again = use(proxy, http, session_id, "DELETE"), use(proxy, http, session_id, "DELETE")

        assert (used.status_code, active) == (200, 1)
        assert (ended.status_code, again.status_code) == (204, 404)
        assert again.json()["error"] == {"code": -32600, "message": "Session not found"}
        assert proxy.said_of_itself()["active"] == 0
    origin.until_none("sessions")


def test_the_upstreams_own_404_passes_as_it_is_and_ends_the_session(
    start: StartProxy, http: httpx2.Client, origin: Origin
) -> None:
    with start() as proxy:
        session_id = initialize(proxy, http).headers["mcp-session-id"]
        httpx2.delete(f"{origin.url}/mcp", headers={"mcp-session-id": session_id}, trust_env=False)
        gone = use(proxy, http, session_id)

        assert gone.json() == {"error": "the origin knows no such session"}
        assert proxy.said_of_itself()["active"] == 0


def test_an_abandoned_session_is_cleaned_and_the_upstream_is_told_with_its_clients_credentials(
    start: StartProxy, http: httpx2.Client, origin: Origin
) -> None:
    with start(*QUICK) as proxy:
        initialize(proxy, http, **AS_ADA)
        assert origin.counts()["sessions"] == 1

        origin.until_none("sessions")
        proxy.until_active(0)
        assert "of ada" not in proxy.process.said()


def test_a_session_with_an_open_stream_is_not_idle_and_one_whose_client_left_is(
    start: StartProxy, http: httpx2.Client, origin: Origin
) -> None:
    with start(*QUICK) as proxy:
        session_id = initialize(proxy, http).headers["mcp-session-id"]
        with http.stream("GET", f"{proxy.url}/mcp", headers={"mcp-session-id": session_id}) as answer:
            parts = answer.iter_raw()
            end = time.monotonic() + 2
            while time.monotonic() < end:
                next(parts)
            assert proxy.said_of_itself()["active"] == 1

        proxy.until_active(0)
        origin.until_none("sessions")


def test_a_session_that_is_too_old_ends_its_stream_in_order(
    start: StartProxy, http: httpx2.Client, origin: Origin
) -> None:
    with start(*QUICK, "--max-session-age", "1") as proxy:
        session_id = initialize(proxy, http).headers["mcp-session-id"]
        with http.stream("GET", f"{proxy.url}/mcp", headers={"mcp-session-id": session_id}) as answer:
            said = b"".join(answer.iter_raw())

        assert said.endswith(b"\n\n")
        assert use(proxy, http, session_id).status_code == 404
    origin.until_none("sessions")


def test_a_request_of_the_revision_without_sessions_passes_untouched(start: StartProxy, http: httpx2.Client) -> None:
    with start() as proxy:
        ids = {"mcp-session-id": "anothers", "mcp-protocol-version": "2026-07-28"}
        said = http.post(f"{proxy.url}/asked", headers=ids).json()

        assert "mcp-session-id" not in dict(said["headers"])
        assert dict(said["headers"])["mcp-protocol-version"] == "2026-07-28"
        assert proxy.said_of_itself()["created"] == 0


def test_a_session_that_the_upstream_makes_in_that_revision_all_the_same_is_ended_at_once(
    start: StartProxy, http: httpx2.Client, origin: Origin
) -> None:
    with start() as proxy:
        answer = initialize(proxy, http, **{"mcp-protocol-version": "2026-07-28"})

        assert answer.json() == {"result": "initialized"}
        assert "mcp-session-id" not in answer.headers
        assert proxy.said_of_itself()["created"] == 0
        origin.until_none("sessions")


@pytest.mark.parametrize(("method", "path"), [("DELETE", "/asked"), ("GET", "/gone")])
def test_nothing_that_is_said_elsewhere_ends_a_session(
    start: StartProxy, http: httpx2.Client, origin: Origin, method: str, path: str
) -> None:
    with start(*QUICK) as proxy:
        session_id = http.post(f"{proxy.url}/mcp?key=1").headers["mcp-session-id"]
        answer = http.request(method, f"{proxy.url}{path}", headers={"mcp-session-id": session_id})

        assert answer.status_code == {"/asked": 200, "/gone": 404}[path]
        assert proxy.said_of_itself()["active"] == 1
        assert origin.counts()["sessions"] == 1
        origin.until_none("sessions")  # told where it began, as it is not used


def test_an_upstream_that_refuses_a_farewell_is_logged(start: StartProxy, http: httpx2.Client, origin: Origin) -> None:
    with start(*QUICK) as proxy:
        session_id = initialize(proxy, http, **AS_ADA).headers["mcp-session-id"]
        use(proxy, http, session_id, authorization="Bearer of eve")
        proxy.until_active(0)

        until(proxy.process.said, lambda said: "the upstream answered 401 to the end of a session" in said)
    as_ada = {"mcp-session-id": session_id, **AS_ADA}
    assert httpx2.delete(f"{origin.url}/mcp", headers=as_ada, trust_env=False).status_code == 204


@pytest.mark.parametrize("revision", ["DRAFT", "9", "2026-07-28x", "2026-07-28"])
def test_no_revision_opens_anothers_session(
    start: StartProxy, http: httpx2.Client, origin: Origin, revision: str
) -> None:
    with start("--owner-header", "x-user", "--trusted-proxy", "127.0.0.1") as proxy:
        session_id = initialize(proxy, http, **{"x-user": "ada"}).headers["mcp-session-id"]
        as_eve = {"x-user": "eve", "mcp-protocol-version": revision}

        assert use(proxy, http, session_id, "DELETE", **as_eve).status_code == 404
        assert use(proxy, http, session_id, **{"x-user": "ada"}).status_code == 200
    origin.until_none("sessions")


# The cap


def test_at_the_cap_an_opening_is_refused_in_json_rpc_and_the_upstream_is_not_asked(
    start: StartProxy, http: httpx2.Client, origin: Origin
) -> None:
    with start("--max-sessions", "2", "--close-timeout", "0.5") as proxy:
        for _ in range(2):
            initialize(proxy, http)
        refused = initialize(proxy, http)

        assert refused.status_code == 503
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert refused.json()["error"]["code"] == -32000
        assert origin.counts()["sessions"] == 2
    origin.until_none("sessions")


def test_one_client_cannot_take_every_place(start: StartProxy, http: httpx2.Client, origin: Origin) -> None:
    with start("--max-sessions-per-client", "1", "--trusted-proxy", "127.0.0.1") as proxy:
        first = initialize(proxy, http, **{"x-forwarded-for": "10.0.0.1"})
        second = initialize(proxy, http, **{"x-forwarded-for": "10.0.0.1"})
        other = initialize(proxy, http, **{"x-forwarded-for": "10.0.0.2"})

        assert [answer.status_code for answer in (first, second, other)] == [200, 503, 200]
    origin.until_none("sessions")


def test_ten_thousand_abandoned_sessions_leave_nothing_behind(
    start: StartProxy, http: httpx2.Client, origin: Origin
) -> None:
    flags = ("--max-sessions", "20000", "--cleanup-interval", "1", "--max-idle-time", "2", "--close-timeout", "10")
    with start(*flags) as proxy:
        memory = psutil.Process(proxy.process.process.pid).memory_info
        open_and_leave(proxy, 500)
        proxy.until_active(0, 30)
        before = memory().rss

        open_and_leave(proxy, 10_000)
        proxy.until_active(0, 60)
        origin.until_none("sessions", 10)

        assert proxy.said_of_itself()["created"] == 10_500
        assert memory().rss - before < 12 * MIB


def open_and_leave(proxy: Proxy, count: int) -> None:
    def some(share: int) -> None:
        with httpx2.Client(trust_env=False, timeout=30) as http:
            for _ in range(share):
                assert initialize(proxy, http).status_code == 200

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(some, [count // 4] * 4))


# Whose they are


def test_a_session_of_one_user_is_404_for_another(start: StartProxy, http: httpx2.Client, origin: Origin) -> None:
    with start("--owner-header", "x-user", "--trusted-proxy", "127.0.0.1") as proxy:
        session_id = initialize(proxy, http, **{"x-user": "ada"}).headers["mcp-session-id"]
        answers = [use(proxy, http, session_id, **who) for who in ({"x-user": "ada"}, {"x-user": "eve"}, {})]

        assert [answer.status_code for answer in answers] == [200, 404, 404]
    origin.until_none("sessions")


@pytest.mark.parametrize(
    ("kind", "name"), [("cookie", "set-cookie"), ("cookie:mine", "set-cookie"), ("header:X-Mine", "x-mine")]
)
def test_sessions_can_be_the_proxys_own(start: StartProxy, http: httpx2.Client, kind: str, name: str) -> None:
    with start("--matcher", kind) as proxy:
        first = http.get(f"{proxy.url}/asked")
        told = first.headers[name]
        with httpx2.Client(trust_env=False) as again:
            headers = {"cookie": told.split(";")[0]} if name == "set-cookie" else {name: told}
            second = again.get(f"{proxy.url}/asked", headers=headers)

        assert second.status_code == 200
        assert name not in second.headers
        assert proxy.said_of_itself()["created"] == 1


# The end


def test_sigterm_ends_open_streams_and_lets_requests_finish_and_tells_the_upstream(
    start: StartProxy, http: httpx2.Client, origin: Origin
) -> None:
    with start("--drain-timeout", "1") as proxy, ExitStack() as streams, ThreadPoolExecutor(1) as beside:
        opened = []
        for _ in range(50):
            client = streams.enter_context(httpx2.Client(trust_env=False, timeout=20))
            session_id = initialize(proxy, client).headers["mcp-session-id"]
            answer = streams.enter_context(
                client.stream("GET", f"{proxy.url}/mcp", headers={"mcp-session-id": session_id})
            )
            parts = answer.iter_raw()
            next(parts)
            opened.append(parts)
        flying = beside.submit(http.get, f"{proxy.url}/large", params={"mib": 20})
        until(lambda: origin.counts()["streams"], lambda count: count == 50)
        took = proxy.process.terminate()

        assert took < 4
        assert proxy.process.process.returncode == 0
        for parts in opened:
            assert b"".join(parts).endswith(b"\n\n")  # a clean end: anything else raises
        assert len(flying.result().content) == 20 * MIB
    origin.until_none("sessions")
    origin.until_none("streams")


def test_a_request_in_no_session_has_the_drains_time_and_health_says_so_meanwhile(
    start: StartProxy, http: httpx2.Client
) -> None:
    with start("--drain-timeout", "6") as proxy, ThreadPoolExecutor(1) as beside:
        flying = beside.submit(http.get, f"{proxy.url}/slow", params={"seconds": 2.5})
        time.sleep(0.5)
        proxy.process.process.send_signal(signal.SIGTERM)
        health = until(lambda: httpx2.get(f"{proxy.health}/healthz", trust_env=False), lambda said: said.is_error, 1)

        assert (health.status_code, health.json()["status"]) == (503, "shutting down")
        assert flying.result().text == "at last"
        assert proxy.process.process.wait(2) == 0


def test_a_session_that_the_upstream_makes_too_late_is_ended_there(
    start: StartProxy, http: httpx2.Client, origin: Origin
) -> None:
    with start("--drain-timeout", "6") as proxy, ThreadPoolExecutor(1) as beside:
        flying = beside.submit(http.post, f"{proxy.url}/mcp", params={"seconds": 1.5})
        time.sleep(0.5)
        proxy.process.terminate()

        assert flying.result().status_code == 503
        assert origin.counts()["sessions"] == 0


def test_a_second_signal_ends_it_at_once(start: StartProxy, http: httpx2.Client, origin: Origin) -> None:
    with start("--drain-timeout", "20", "--shutdown-timeout", "30") as proxy:
        session_id = initialize(proxy, http).headers["mcp-session-id"]
        with http.stream("GET", f"{proxy.url}/mcp", headers={"mcp-session-id": session_id}) as answer:
            parts = answer.iter_raw()
            next(parts)
            proxy.process.process.send_signal(signal.SIGTERM)
            time.sleep(0.5)
            began = time.monotonic()
            proxy.process.process.send_signal(signal.SIGTERM)
            status = proxy.process.process.wait(5)

            assert status == 128 + signal.SIGTERM
            assert time.monotonic() - began < 1
    origin.until_none("streams")
    httpx2.delete(f"{origin.url}/mcp", headers={"mcp-session-id": session_id}, trust_env=False)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_idle_proxy_ends_at_once_with_status_0(start: StartProxy, number: signal.Signals) -> None:
    with start() as proxy:
        began = time.monotonic()
        proxy.process.process.send_signal(number)

        assert proxy.process.process.wait(5) == 0
        assert time.monotonic() - began < 2
        assert "Traceback" not in proxy.process.said()


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_a_collector_that_never_answers_costs_at_most_three_seconds_at_the_end(
    start: StartProxy, http: httpx2.Client, protocol: str, origin: Origin
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        export = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL": protocol}
        with start(**export) as proxy:
            began = time.monotonic()
            for _ in range(20):
                initialize(proxy, http)
            assert time.monotonic() - began < 5
            assert proxy.process.terminate() < 3
    origin.until_none("sessions")


# Settings


def test_lines_can_be_json(start: StartProxy) -> None:
    with start("--log-format", "json") as proxy:
        proxy.process.terminate()
        lines = [json.loads(line) for line in proxy.process.said().splitlines()]

    assert lines[0]["level"] == "INFO"
    assert lines[0]["message"].startswith("listening on 127.0.0.1:")


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--max-sessions", "many"], "--max-sessions takes a whole number of at least 1"),
        (["--max-idle-time", "-1"], "--max-idle-time takes a positive, finite number of seconds"),
        (["--listen", "8080"], "takes HOST:PORT"),
        (["--matcher", "header"], "takes mcp, cookie"),
        (["--trusted-proxy", "everybody"], "takes an address or a network"),
        (["--upstream", "http://ada:secret@h/"], "--upstream: takes a URL of scheme, host, port and path"),
        (["--upstream", "http://h/?key=1"], "--upstream: takes a URL of scheme, host, port and path"),
        (["--upstream", "http://h:port"], "--upstream: takes a URL of scheme, host, port and path"),
        (["--upstream", "http://"], "--upstream: takes a URL of scheme, host, port and path"),
        (["--rewrite-host"], "--rewrite-host needs --allow-host"),
        (["--owner-header", "x-user"], "--owner-header needs --trusted-proxy"),
        (["--config", "/no/such/file"], "/no/such/file"),
        (["--export-keep", "0"], "--export-keep: takes a whole number of at least 1, not 0"),
    ],
)
def test_a_wrong_setting_is_named_and_exits_with_2(
    capsys: pytest.CaptureFixture[str], flags: list[str], says: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        raise SystemExit(main(["proxy", "--upstream", "http://127.0.0.1:1", *flags]))

    said = capsys.readouterr().err
    assert says in said
    assert "secret" not in said


def test_connections_are_given_up_that_take_nothing_for_a_minute() -> None:
    with listen(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 60_000
            assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


@pytest.mark.parametrize(
    ("written", "environ", "flags", "made"),
    [
        ("", {}, [], []),
        ('listen = "a:1"', {}, [], ["--listen=a:1"]),
        ('listen = "a:1"', {"OTEL_SESSIONS_PROXY_LISTEN": "b:2"}, [], ["--listen=b:2"]),
        ('listen = "a:1"', {"OTEL_SESSIONS_PROXY_LISTEN": "b:2"}, ["--listen", "c:3"], []),
        ("max_body = 5", {}, ["--max-body=6"], []),
        ('allow_host = ["a", "b"]', {}, [], ["--allow-host=a", "--allow-host=b"]),
        (
            "",
            {"OTEL_SESSIONS_PROXY_TRUSTED_PROXY": "::1, 10.0.0.0/8"},
            [],
            ["--trusted-proxy=::1", "--trusted-proxy=10.0.0.0/8"],
        ),
        ('export = "a"\nexport_keep = 2', {"OTEL_SESSIONS_PROXY_EXPORT": "b"}, [], ["--export=b", "--export-keep=2"]),
        ("rewrite_host = true", {}, [], ["--rewrite-host"]),
        ("rewrite_host = false", {}, [], []),
        ("", {"OTEL_SESSIONS_PROXY_REWRITE_HOST": "true"}, [], ["--rewrite-host"]),
    ],
)
def test_the_proxys_own_settings_come_from_the_environment_and_a_file_too(
    tmp_path: Path, written: str, environ: dict[str, str], flags: list[str], made: list[str]
) -> None:
    file = tmp_path / "proxy.toml"
    file.write_text(f"[session]\nmax_sessions = 1\n[proxy]\n{written}\n")

    assert preset([*flags, "--config", str(file)], environ) == made


def test_a_proxy_runs_by_its_file_alone(tmp_path: Path, origin: Origin, http: httpx2.Client) -> None:
    file, port = tmp_path / "proxy.toml", free_port()
    file.write_text(f'[proxy]\nupstream = "{origin.url}"\nlisten = "127.0.0.1:{port}"\n')

    with running_module("cli", tmp_path, "proxy", "--config", str(file)) as process:
        until_answers(f"http://127.0.0.1:{port}/asked", process)


@pytest.mark.parametrize("text", ["[proxy]\nlisen = 1", "proxy = 1", "[proxy"])
def test_a_wrong_file_is_named_and_exits_with_2(tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "proxy.toml"
    file.write_text(text)

    assert main(["proxy", "--upstream", "http://x", "--config", str(file)]) == 2
    assert "proxy" in capsys.readouterr().err


def test_flags_go_over_the_environment_over_a_file_over_defaults(
    start: StartProxy, http: httpx2.Client, tmp_path: object, origin: Origin
) -> None:
    file = f"{tmp_path}/proxy.toml"
    with open(file, "w") as config:
        config.write("[session]\nmax_sessions = 1\nclose_timeout_secs = 0.2\n")

    def most(*flags: str, **environ: str) -> int:
        with start("--config", file, *flags, **environ) as proxy:
            return sum(initialize(proxy, http).status_code == 200 for _ in range(5))

    assert most() == 1
    assert most(OTEL_SESSIONS_MAX_SESSIONS="2") == 2
    assert most("--max-sessions", "3", OTEL_SESSIONS_MAX_SESSIONS="2") == 3
    origin.until_none("sessions")


# Their records


def test_with_export_each_session_leaves_a_record_also_at_the_end(
    start: StartProxy, http: httpx2.Client, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "sessions.jsonl"
    with start("--export", str(file), "--export-max-bytes", "300", "--export-keep", "2") as proxy:
        ended, left = (initialize(proxy, http, **AS_ADA).headers["mcp-session-id"] for _ in range(2))
        assert use(proxy, http, ended, "DELETE", **AS_ADA).is_success

    assert main(["export", "show", str(file), f"{file}.1"]) == 0
    _, first, second, summary = capsys.readouterr().out.splitlines()
    assert [line.split()[2::4] for line in (first, second)] == [
        [fingerprint(ended), "closed"],
        [fingerprint(left), "shutdown"],
    ]
    assert summary == "records: 2; skipped lines: 0 torn, 0 foreign"
    for secret in (ended, left, "127.0.0.1", "ada"):
        assert secret not in file.read_text() + file.with_name("sessions.jsonl.1").read_text()


def test_a_file_that_cannot_be_exported_to_is_named_and_exits_with_2(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing" / "sessions.jsonl")
    flags = ("--upstream", "http://127.0.0.1:1", "--listen", "127.0.0.1:0", "--export", missing)
    with running_module("cli", tmp_path, "proxy", *flags) as process:
        assert process.process.wait(20) == 2
        assert process.said() == f"otel-sessions: [Errno 2] No such file or directory: {missing!r}\n"
