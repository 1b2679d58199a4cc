"""Sessions of clients through the proxy, and of the upstream behind it."""

import json
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import httpx2
import psutil
import pytest

from otel_sessions import fingerprint
from otel_sessions._program.sockets import listen
from otel_sessions.cli import main
from tests.exchanges import INITIALIZE
from tests.processes import free_port, running_module, until_answers
from tests.waiting import NEVER, PATIENCE, until

from .conftest import Origin, Proxy, StartProxy

pytestmark = pytest.mark.processes

MIB = 1024 * 1024
QUICK = ("--cleanup-interval", "0.2", "--max-idle-time", "0.5", "--drain-timeout", "0.5")
AS_ADA = {"authorization": "Bearer of ada"}
JSON = {"content-type": "application/json"}


def initialize(proxy: Proxy, http: httpx2.Client, **headers: str) -> httpx2.Response:
    return http.post(f"{proxy.url}/mcp", headers={**JSON, **headers}, content=INITIALIZE)


def opened_as_a_stream(proxy: Proxy, http: httpx2.Client) -> AbstractContextManager[httpx2.Response]:
    """Open a session by a stream, so that there is no moment in which it is not leased."""
    return http.stream("POST", f"{proxy.url}/mcp?stream", headers=JSON, content=INITIALIZE)


def use(proxy: Proxy, http: httpx2.Client, session_id: str, method: str = "POST", **headers: str) -> httpx2.Response:
    return http.request(method, f"{proxy.url}/mcp", headers={"mcp-session-id": session_id, **headers})


class TestLives:
    """How sessions begin, are used and end."""

    def test_a_session_begins_with_the_upstreams_answer_and_ends_with_the_clients_delete(
        self, start: StartProxy, http: httpx2.Client, origin: Origin
    ) -> None:
        with start() as proxy:
            session_id = initialize(proxy, http).headers["mcp-session-id"]
            used, active = use(proxy, http, session_id), proxy.said_of_itself()["active"]
            ended, again = use(proxy, http, session_id, "DELETE"), use(proxy, http, session_id, "DELETE")

            assert (used.status_code, active) == (200, 1)
            assert (ended.status_code, again.status_code) == (204, 404)
            assert again.json()["error"]["message"] == "Session not found"
            assert again.json()["error"]["data"] == {"end_reason": "closed"}
            assert proxy.said_of_itself()["active"] == 0
        origin.until_none("sessions")

    def test_the_upstreams_own_404_passes_as_it_is_and_ends_the_session(
        self, start: StartProxy, http: httpx2.Client, origin: Origin
    ) -> None:
        with start() as proxy:
            session_id = initialize(proxy, http).headers["mcp-session-id"]
            httpx2.delete(
                f"{origin.url}/mcp", headers={"mcp-session-id": session_id}, trust_env=False, timeout=PATIENCE
            )
            gone = use(proxy, http, session_id)

            assert gone.json() == {"error": "the origin knows no such session"}
            assert proxy.said_of_itself()["active"] == 0

    def test_an_abandoned_session_is_cleaned_and_the_upstream_told_with_its_credentials(
        self, start: StartProxy, http: httpx2.Client, origin: Origin
    ) -> None:
        with start(*QUICK) as proxy:
            before = origin.counts()["farewells"]
            assert initialize(proxy, http, **AS_ADA).status_code == 200

            origin.until("farewells", before + 1)
            origin.until_none("sessions")
            proxy.until_active(0)
            assert "of ada" not in proxy.process.said()

    def test_a_session_with_an_open_stream_is_not_idle_and_one_whose_client_left_is(
        self, start: StartProxy, http: httpx2.Client, origin: Origin
    ) -> None:
        with start(*QUICK) as proxy:
            with opened_as_a_stream(proxy, http) as answer:
                parts = answer.iter_raw()
                end = time.monotonic() + 2  # four times its idle time
                while time.monotonic() < end:
                    next(parts)
                assert proxy.said_of_itself()["active"] == 1

            proxy.until_active(0)
            origin.until_none("sessions")

    def test_a_session_that_is_too_old_ends_its_stream_in_order(
        self, start: StartProxy, http: httpx2.Client, origin: Origin
    ) -> None:
        with start(*QUICK, "--max-session-age", "1") as proxy:
            with opened_as_a_stream(proxy, http) as answer:
                said = b"".join(answer.iter_raw())

            assert said.endswith(b"\n\n")
            assert use(proxy, http, answer.headers["mcp-session-id"]).status_code == 404
        origin.until_none("sessions")

    def test_a_request_of_the_revision_without_sessions_passes_untouched(
        self, start: StartProxy, http: httpx2.Client
    ) -> None:
        with start() as proxy:
            ids = {"mcp-session-id": "anothers", "mcp-protocol-version": "2026-07-28"}
            said = http.post(f"{proxy.url}/asked", headers=ids).json()

            assert "mcp-session-id" not in dict(said["headers"])
            assert dict(said["headers"])["mcp-protocol-version"] == "2026-07-28"
            assert proxy.said_of_itself()["created"] == 0

    def test_a_session_that_the_upstream_makes_in_that_revision_all_the_same_is_ended_at_once(
        self, start: StartProxy, http: httpx2.Client, origin: Origin
    ) -> None:
        with start() as proxy:
            answer = initialize(proxy, http, **{"mcp-protocol-version": "2026-07-28"})

            assert answer.json() == {"result": "initialized"}
            assert "mcp-session-id" not in answer.headers
            assert proxy.said_of_itself()["created"] == 0
            origin.until_none("sessions")

    @pytest.mark.parametrize(("method", "path"), [("DELETE", "/asked"), ("GET", "/gone")])
    def test_nothing_that_is_said_elsewhere_ends_a_session(
        self, start: StartProxy, http: httpx2.Client, origin: Origin, method: str, path: str
    ) -> None:
        with start() as proxy:
            session_id = http.post(f"{proxy.url}/mcp?key=1", headers=JSON, content=INITIALIZE).headers["mcp-session-id"]
            answer = http.request(method, f"{proxy.url}{path}", headers={"mcp-session-id": session_id})

            assert answer.status_code == {"/asked": 200, "/gone": 404}[path]
            assert proxy.said_of_itself()["active"] == 1
            assert origin.counts()["sessions"] == 1
        origin.until_none("sessions")  # at the end it is told where it began

    def test_credentials_that_the_upstream_refuses_do_not_replace_good_ones(
        self, start: StartProxy, http: httpx2.Client, origin: Origin
    ) -> None:
        with start() as proxy:
            session_id = initialize(proxy, http, **AS_ADA).headers["mcp-session-id"]
            assert use(proxy, http, session_id, "DELETE", authorization="Bearer of eve").status_code == 401
        origin.until_none("sessions")
        assert "WARNING" not in proxy.process.said()

    def test_an_upstream_that_refuses_a_farewell_is_logged_in_short(
        self, start: StartProxy, http: httpx2.Client, origin: Origin
    ) -> None:
        with start() as proxy:
            session_id = initialize(proxy, http, **AS_ADA).headers["mcp-session-id"]
            use(proxy, http, session_id, authorization="Bearer of eve")

        assert "the upstream answered 401 to the DELETE for a session" in proxy.process.said()
        assert proxy.process.said().count("Traceback") == 1
        as_ada = {"mcp-session-id": session_id, **AS_ADA}
        assert httpx2.delete(f"{origin.url}/mcp", headers=as_ada, trust_env=False, timeout=PATIENCE).status_code == 204

    def test_the_upstream_is_told_once_and_not_when_it_knows(
        self, start: StartProxy, http: httpx2.Client, origin: Origin
    ) -> None:
        with start() as proxy:
            before = origin.counts()["farewells"]
            session_id = initialize(proxy, http).headers["mcp-session-id"]
            use(proxy, http, session_id, "DELETE")
            httpx2.delete(f"{origin.url}/mcp", headers={"mcp-session-id": "x"}, trust_env=False, timeout=PATIENCE)

        assert origin.counts()["farewells"] == before + 2

    def test_clients_that_leave_too_early_leave_no_session_and_keep_to_the_cap(
        self, start: StartProxy, origin: Origin
    ) -> None:
        with start("--max-sessions", "3") as proxy:
            host, port = proxy.url.removeprefix("http://").split(":")
            head = b"POST /mcp?seconds=0.3 HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n"
            for _ in range(20):
                with socket.create_connection((host, int(port)), PATIENCE) as hasty:
                    hasty.sendall(head + b"Content-Length: %d\r\n\r\n%s" % (len(INITIALIZE), INITIALIZE))
                    time.sleep(0.05)
            assert origin.counts()["sessions"] <= 3

            origin.until_none("sessions")
            proxy.until_active(0)

    def test_an_id_that_another_session_has_is_no_new_one_and_that_session_stays(
        self, start: StartProxy, http: httpx2.Client, origin: Origin
    ) -> None:
        with start() as proxy:
            first, second = (http.post(f"{proxy.url}/mcp?id=same", headers=JSON, content=INITIALIZE) for _ in range(2))

            assert (first.status_code, second.status_code) == (200, 503)
            assert use(proxy, http, "same").status_code == 200
        origin.until_none("sessions")

    def test_a_second_session_that_the_upstream_makes_in_a_session_is_ended_at_once(
        self, start: StartProxy, http: httpx2.Client, origin: Origin
    ) -> None:
        with start() as proxy:
            session_id = initialize(proxy, http).headers["mcp-session-id"]
            answer = http.post(f"{proxy.url}/mcp?id=another", headers={**JSON, "mcp-session-id": session_id})

            assert answer.status_code == 200
            assert "mcp-session-id" not in answer.headers
            origin.until("sessions", 1)

    def test_a_request_that_is_refused_does_nothing_to_sessions(
        self, start: StartProxy, http: httpx2.Client, origin: Origin
    ) -> None:
        good, evil = {"host": "good.example"}, {"host": "evil.example"}
        flags = ("--max-sessions", "1", "--emergency-idle-time", "0.1")
        with start("--rewrite-host", "--allow-host", "Good.Example", *flags) as proxy:
            session_id = initialize(proxy, http, **good).headers["mcp-session-id"]
            time.sleep(0.3)  # longer than the emergency limit
            refused = initialize(proxy, http, **evil)

            assert refused.status_code == 421
            assert use(proxy, http, session_id, **good).status_code == 200

    def test_at_the_cap_only_an_initialize_is_refused(
        self, start: StartProxy, http: httpx2.Client, origin: Origin
    ) -> None:
        with start("--max-sessions", "1", "--close-timeout", "0.3") as proxy:
            initialize(proxy, http)

            assert initialize(proxy, http).status_code == 503
            assert http.post(f"{proxy.url}/oauth/token", data={"grant_type": "refresh_token"}).status_code == 200
            assert http.post(f"{proxy.url}/register", json={"client_name": "x"}).status_code == 200
            assert http.options(f"{proxy.url}/asked").status_code == 200
        origin.until_none("sessions")

    def test_a_client_that_asks_too_early_is_still_seen_to_leave(
        self, start: StartProxy, http: httpx2.Client, origin: Origin
    ) -> None:
        # who asks for a place while the session is still in use waits for it, but not longer than this test can
        flags = ("--max-sessions", "1", "--emergency-idle-time", "0.1", "--close-timeout", "20")
        with start(*flags) as proxy:
            session_id = initialize(proxy, http).headers["mcp-session-id"].encode()
            host, port = proxy.url.removeprefix("http://").split(":")
            head = b"GET /never HTTP/1.1\r\nHost: h\r\nAccept: text/event-stream\r\nMcp-Session-Id: %s\r\n\r\n"
            with socket.create_connection((host, int(port)), PATIENCE) as hasty:
                hasty.sendall(head % session_id)
                origin.until("waiting", 1)
                hasty.sendall(head % session_id)

            origin.until_none("waiting")
            until(lambda: initialize(proxy, http).status_code, lambda status: status == 200)  # it is in use no more
        origin.until_none("sessions")

    @pytest.mark.parametrize("status", [400, 406, 500])
    def test_a_session_that_the_upstream_names_in_a_refusal_is_ended_there(
        self, start: StartProxy, http: httpx2.Client, origin: Origin, status: int
    ) -> None:
        with start() as proxy:
            refused = http.post(f"{proxy.url}/mcp", params={"status": status}, headers=JSON, content=INITIALIZE)

            assert refused.status_code == status
            assert "mcp-session-id" not in refused.headers
            assert proxy.said_of_itself()["created"] == 0
            origin.until_none("sessions")

    def test_a_client_that_keeps_an_ended_id_may_open_again(
        self, start: StartProxy, http: httpx2.Client, origin: Origin
    ) -> None:
        with start() as proxy:
            ended = initialize(proxy, http).headers["mcp-session-id"]
            use(proxy, http, ended, "DELETE")
            again = initialize(proxy, http, **{"mcp-session-id": ended})

            assert again.status_code == 200
            assert again.headers["mcp-session-id"] != ended
        origin.until_none("sessions")


class TestWhatOpensNothing:
    """Requests that open no session."""

    def test_what_skip_names_is_served_at_the_cap(self, start: StartProxy, http: httpx2.Client) -> None:
        flags = ("--matcher", "cookie", "--max-sessions", "1", "--close-timeout", "0.3")
        with start(*flags, "--skip", "/health/*", "--skip", "/favicon.ico") as proxy:
            first, second = (httpx2.get(f"{proxy.url}/asked", trust_env=False, timeout=PATIENCE) for _ in range(2))
            skipped = [http.get(f"{proxy.url}{path}") for path in ("/health/live", "/favicon.ico")]

            assert [first.status_code, second.status_code] == [200, 503]
            assert [answer.status_code for answer in skipped] == [200, 200]
            assert all("set-cookie" not in answer.headers for answer in skipped)

    @pytest.mark.deadline("a stream of events or a WebSocket")
    def test_a_stream_with_comments_alone_ends_after_its_timeout(
        self, start: StartProxy, http: httpx2.Client, origin: Origin
    ) -> None:
        with start("--stream-idle-timeout", "0.5", "--comment-after", "0.2") as proxy:
            session_id = initialize(proxy, http).headers["mcp-session-id"]
            with http.stream("GET", f"{proxy.url}/silent", headers={"mcp-session-id": session_id}) as answer:
                said = b"".join(answer.iter_raw())  # a clean end: anything else raises

            assert said.startswith(b":\n\n")
            assert use(proxy, http, session_id).status_code == 200
        origin.until_none("sessions")


class TestWhatTheUpstreamSeesOfIds:
    """What the upstream sees of ids."""

    @pytest.mark.parametrize(
        ("kind", "said"),
        [
            ("cookie:id", "Cookie: a=1; id={eve}; id={ada}\r\n"),
            ("cookie:id", "Cookie: id={eve}\r\nCookie: id={ada}; a=1\r\n"),
            ("cookie:id", "Cookie: a=1; id={ada}\r\n"),
            ("cookie:id", "Cookie: a=1; id=made-up\r\n"),
            ("header:x-id", "X-Id: {eve}\r\nX-Id: {ada}\r\n"),
            ("header:x-id", "X-Id: {eve}\r\nX_Id: {ada}\r\n"),
            ("header:x-id", "X_Id: {ada}\r\n"),
        ],
    )
    def test_the_upstream_sees_no_id_but_that_of_the_session_that_the_request_is_in(
        self, start: StartProxy, kind: str, said: str
    ) -> None:
        with start("--matcher", kind, "--owner-header", "x-user", "--trusted-proxy", "127.0.0.1") as proxy:
            ids = {}
            for user in ("ada", "eve"):
                told = httpx2.get(
                    f"{proxy.url}/asked", headers={"x-user": user}, trust_env=False, timeout=PATIENCE
                ).headers
                ids[user] = told.get("x-id") or told["set-cookie"].split(";")[0].removeprefix("id=")
            head = f"GET /asked HTTP/1.0\r\nHost: h\r\nX-User: eve\r\n{said.format(**ids)}\r\n"
            host, port = proxy.url.removeprefix("http://").split(":")
            with socket.create_connection((host, int(port)), PATIENCE) as connection:
                connection.sendall(head.encode())
                answer = b"".join(iter(lambda: connection.recv(65536), b"")).decode()

        seen = [value for name, value in json.loads(answer.partition("\r\n\r\n")[2])["headers"] if "id" in value + name]
        assert answer.startswith("HTTP/1.1 200")
        assert len(seen) == 1
        assert ids["ada"] not in answer
        assert "made-up" not in answer

    @pytest.mark.parametrize("revision", ["DRAFT", "9", "2026-07-28x", "2026-07-28"])
    def test_no_revision_opens_anothers_session(
        self, start: StartProxy, http: httpx2.Client, origin: Origin, revision: str
    ) -> None:
        with start("--owner-header", "x-user", "--trusted-proxy", "127.0.0.1") as proxy:
            session_id = initialize(proxy, http, **{"x-user": "ada"}).headers["mcp-session-id"]
            as_eve = {"x-user": "eve", "mcp-protocol-version": revision}

            assert use(proxy, http, session_id, "DELETE", **as_eve).status_code == 404
            assert use(proxy, http, session_id, **{"x-user": "ada"}).status_code == 200
        origin.until_none("sessions")


def open_and_leave(proxy: Proxy, count: int) -> None:
    def some(share: int) -> None:
        with httpx2.Client(trust_env=False, timeout=PATIENCE) as http:
            for _ in range(share):
                assert initialize(proxy, http).status_code == 200

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(some, [count // 4] * 4))


class TestCap:
    """What clients get at the cap."""

    def test_at_the_cap_an_opening_is_refused_in_json_rpc_and_the_upstream_is_not_asked(
        self, start: StartProxy, http: httpx2.Client, origin: Origin
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

    def test_one_client_cannot_take_every_place(self, start: StartProxy, http: httpx2.Client, origin: Origin) -> None:
        with start("--max-sessions-per-client", "1", "--trusted-proxy", "127.0.0.1") as proxy:
            first = initialize(proxy, http, **{"x-forwarded-for": "10.0.0.1"})
            second = initialize(proxy, http, **{"x-forwarded-for": "10.0.0.1"})
            other = initialize(proxy, http, **{"x-forwarded-for": "10.0.0.2"})

            assert [answer.status_code for answer in (first, second, other)] == [200, 503, 200]
        origin.until_none("sessions")

    def test_ten_thousand_abandoned_sessions_leave_nothing_behind(
        self, start: StartProxy, http: httpx2.Client, origin: Origin
    ) -> None:
        flags = ("--max-sessions", "20000", "--cleanup-interval", "1", "--max-idle-time", "2")
        with start(*flags) as proxy:
            memory = psutil.Process(proxy.process.process.pid).memory_info
            open_and_leave(proxy, 500)
            proxy.until_active(0)
            before = memory().rss

            open_and_leave(proxy, 10_000)
            proxy.until_active(0)
            origin.until_none("sessions")

            assert proxy.said_of_itself()["created"] == 10_500
            assert memory().rss - before < 12 * MIB


class TestOwners:
    """Whom a session belongs to."""

    def test_a_session_of_one_user_is_404_for_another(
        self, start: StartProxy, http: httpx2.Client, origin: Origin
    ) -> None:
        with start("--owner-header", "x-user", "--trusted-proxy", "127.0.0.1") as proxy:
            session_id = initialize(proxy, http, **{"x-user": "ada"}).headers["mcp-session-id"]
            answers = [use(proxy, http, session_id, **who) for who in ({"x-user": "ada"}, {"x-user": "eve"}, {})]

            assert [answer.status_code for answer in answers] == [200, 404, 404]
        origin.until_none("sessions")

    @pytest.mark.parametrize(
        ("kind", "name"), [("cookie", "set-cookie"), ("cookie:mine", "set-cookie"), ("header:X-Mine", "x-mine")]
    )
    def test_sessions_can_be_the_proxys_own(self, start: StartProxy, http: httpx2.Client, kind: str, name: str) -> None:
        with start("--matcher", kind) as proxy:
            first = http.get(f"{proxy.url}/asked")
            told = first.headers[name]
            with httpx2.Client(trust_env=False, timeout=PATIENCE) as again:
                headers = {"cookie": told.split(";")[0]} if name == "set-cookie" else {name: told}
                second = again.get(f"{proxy.url}/asked", headers=headers)

            assert second.status_code == 200
            assert name not in second.headers
            assert proxy.said_of_itself()["created"] == 1


class TestEnd:
    """How the proxy ends, and its sessions with it."""

    def test_sigterm_ends_open_streams_and_tells_the_upstream(self, start: StartProxy, origin: Origin) -> None:
        with start("--drain-timeout", "1") as proxy, ExitStack() as streams:
            opened = []
            for _ in range(50):
                client = streams.enter_context(httpx2.Client(trust_env=False, timeout=PATIENCE))
                session_id = initialize(proxy, client).headers["mcp-session-id"]
                answer = streams.enter_context(
                    client.stream("GET", f"{proxy.url}/mcp", headers={"mcp-session-id": session_id})
                )
                parts = answer.iter_raw()
                next(parts)
                opened.append(parts)
            origin.until("streams", 50)

            assert proxy.process.terminate() == 0
            for parts in opened:
                assert b"".join(parts).endswith(b"\n\n")  # a clean end: anything else raises
        origin.until_none("sessions")
        origin.until_none("streams")

    def test_sigterm_lets_an_answer_finish_that_has_begun(self, start: StartProxy, http: httpx2.Client) -> None:
        with start("--drain-timeout", NEVER) as proxy:
            with http.stream("GET", f"{proxy.url}/large", params={"mib": 20}) as answer:
                parts = answer.iter_raw()
                begun = len(next(parts))
                proxy.process.process.send_signal(signal.SIGTERM)
                proxy.until_it_shuts_down()

                assert begun + sum(map(len, parts)) == 20 * MIB
            assert proxy.process.end() == 0

    def test_a_request_in_no_session_has_the_drains_time_and_health_says_so_meanwhile(
        self, start: StartProxy, http: httpx2.Client, origin: Origin
    ) -> None:
        with start("--drain-timeout", NEVER) as proxy, ThreadPoolExecutor(1) as beside:
            flying = beside.submit(http.get, f"{proxy.url}/held")
            origin.until("held", 1)
            proxy.process.process.send_signal(signal.SIGTERM)
            proxy.until_it_shuts_down()
            health = httpx2.get(f"{proxy.health}/healthz", trust_env=False, timeout=PATIENCE)
            origin.release()

            assert health.status_code == 503
            assert flying.result().text == "at last"
            assert proxy.process.end() == 0

    def test_streams_in_no_session_end_in_order_when_the_drain_is_over(
        self, start: StartProxy, http: httpx2.Client, origin: Origin
    ) -> None:
        with start("--drain-timeout", "1") as proxy, http.stream("GET", f"{proxy.url}/events") as answer:
            parts = answer.iter_raw()
            next(parts)
            proxy.process.process.send_signal(signal.SIGTERM)

            assert b"".join(parts).endswith(b"\n\n")  # a clean end: anything else raises
            assert proxy.process.end() == 0
            assert "Traceback" not in proxy.process.said()
        origin.until_none("streams")

    def test_what_is_in_no_session_does_not_outlast_the_shutdown(self, start: StartProxy, http: httpx2.Client) -> None:
        flags = ("--drain-timeout", NEVER, "--shutdown-timeout", "1")
        with start(*flags) as proxy, http.stream("GET", f"{proxy.url}/events") as answer:
            next(answer.iter_raw())

            assert proxy.process.terminate() == 0

    def test_a_session_that_the_upstream_makes_too_late_is_ended_there(
        self, start: StartProxy, http: httpx2.Client, origin: Origin
    ) -> None:
        with start("--drain-timeout", NEVER) as proxy, ThreadPoolExecutor(1) as beside:
            flying = beside.submit(http.post, f"{proxy.url}/mcp?held", headers=JSON, content=INITIALIZE)
            origin.until("held", 1)
            proxy.process.process.send_signal(signal.SIGTERM)
            proxy.until_it_shuts_down()
            origin.release()

            assert flying.result().status_code == 503
            assert proxy.process.end() == 0
            assert origin.counts()["sessions"] == 0

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_an_idle_proxy_ends_at_once_with_status_0(self, start: StartProxy, number: signal.Signals) -> None:
        with start("--drain-timeout", NEVER) as proxy:
            proxy.process.process.send_signal(number)

            assert proxy.process.end() == 0
            assert "Traceback" not in proxy.process.said()

    @pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
    def test_a_collector_that_never_answers_keeps_no_request_waiting_nor_the_end(
        self, start: StartProxy, http: httpx2.Client, protocol: str, origin: Origin
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            export = {
                "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{silent.getsockname()[1]}",
                "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
                "OTEL_EXPORTER_OTLP_TIMEOUT": NEVER,  # whoever waits for an export waits for as long
            }
            with start(**export) as proxy:
                initialize(proxy, http)
                silent.settimeout(PATIENCE)
                exporting, _ = silent.accept()
                with exporting:
                    for _ in range(20):
                        assert initialize(proxy, http).status_code == 200
                    assert proxy.process.terminate() == 0
        origin.until_none("sessions")


class TestSettings:
    """Where settings come from."""

    def test_lines_can_be_json(self, start: StartProxy) -> None:
        with start("--log-format", "json") as proxy:
            proxy.process.terminate()
            lines = [json.loads(line) for line in proxy.process.said().splitlines()]

        assert lines[0]["level"] == "INFO"
        assert lines[0]["message"].startswith("listening on 127.0.0.1:")

    @pytest.mark.parametrize(
        ("flags", "says"),
        [
            (["--max-sessions", "many"], "--max-sessions: takes a whole number of at least 1"),
            (["--max-idle-time", "-1"], "--max-idle-time: takes a positive, finite number of seconds"),
            (["--listen", "8080"], "takes HOST:PORT"),
            (["--listen", "::1"], "as in 127.0.0.1:8080, [::1]:8080 or unix:/run/proxy.sock, not ::1"),
            (["--listen", "[]:1"], "takes HOST:PORT"),
            (["--matcher", "header"], "takes mcp, cookie"),
            (["--trusted-proxy", "everybody"], "takes an address or a network"),
            (["--upstream", "http://ada:s3cret@h/"], "--upstream: takes a URL with only a scheme, a host"),
            (["--upstream", "http://h/?key=1"], "--upstream: takes a URL with only a scheme, a host"),
            (["--upstream", "http://h:port"], "--upstream: takes a URL with only a scheme, a host"),
            (["--upstream", "http://"], "--upstream: takes a URL with only a scheme, a host"),
            (["--matcher", "header:a b"], "takes the name of a header"),
            (["--trusted-proxy", "127.0.0.1", "--owner-header", "€"], "takes the name of a header"),
            (["--trusted-proxy", "127.0.0.1", "--owner-header", "x_user"], "letters, digits and hyphens"),
            (["--max-body", "-1"], "takes a whole number of bytes"),
            (["--max-header", "0"], "takes 1024 bytes or more"),
            (["--conf", "/no/such/file"], "unrecognized arguments"),
            (["--allow-host", "h"], "need --rewrite-host"),
            (["--rewrite-host"], "--rewrite-host needs --allow-host"),
            (["--owner-header", "x-user"], "--owner-header needs --trusted-proxy"),
            (["--config", "/no/such/file"], "/no/such/file"),
            (["--export-keep", "0"], "--export-keep: takes a whole number of at least 1, not 0"),
        ],
    )
    def test_a_wrong_setting_is_named_and_exits_with_2(
        self, capsys: pytest.CaptureFixture[str], flags: list[str], says: str
    ) -> None:
        with pytest.raises(SystemExit, match="2"):
            raise SystemExit(main(["proxy", "--upstream", "http://127.0.0.1:1", *flags]))

        said = capsys.readouterr().err
        assert says in said
        assert "s3cret" not in said

    def test_connections_are_given_up_that_take_nothing_for_a_minute(self) -> None:
        with listen(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()):
            accepted, _ = listener.accept()
            with accepted:
                assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 60_000
                assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
                assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)

    def test_connections_to_the_upstream_are_probed(
        self, start: StartProxy, http: httpx2.Client, origin: Origin
    ) -> None:
        with start() as proxy:
            session_id = initialize(proxy, http).headers["mcp-session-id"]
            with http.stream("GET", f"{proxy.url}/mcp", headers={"mcp-session-id": session_id}):
                behind = f":{int(origin.url.rsplit(':', 1)[1]):04X}"
                lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
                timers = [line[5][:2] for line in lines if line[2].endswith(behind) and line[3] == "01"]

        assert timers
        assert set(timers) <= {"01", "02"}  # something under way, or the probe's timer; 00 would be none

    def test_a_proxy_runs_by_its_file_alone(self, tmp_path: Path, origin: Origin, http: httpx2.Client) -> None:
        file, port = tmp_path / "proxy.toml", free_port()
        file.write_text(f'[proxy]\nupstream = "{origin.url}"\nlisten = "127.0.0.1:{port}"\n')

        with running_module("cli", tmp_path, "proxy", "--config", str(file)) as process:
            until_answers(f"http://127.0.0.1:{port}/asked", process)

    @pytest.mark.parametrize("text", ["[proxy]\nlisen = 1", "proxy = 1", "[proxy", "[proxy]\nrewrite_host = 'maybe'"])
    def test_a_wrong_file_is_named_and_exits_with_2(
        self, tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        file = tmp_path / "proxy.toml"
        file.write_text(text)

        assert main(["proxy", "--upstream", "http://x", "--config", str(file)]) == 2
        said = capsys.readouterr().err
        assert "[proxy]" in said or "proxy.toml" in said or "rewrite_host takes true or false" in said

    def test_flags_go_over_the_environment_over_a_file_over_defaults(
        self, start: StartProxy, http: httpx2.Client, tmp_path: object, origin: Origin
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


class TestRecords:
    """The records of sessions that have ended."""

    def test_with_export_each_session_leaves_a_record_also_at_the_end(
        self, start: StartProxy, http: httpx2.Client, tmp_path: Path, capsys: pytest.CaptureFixture[str]
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
        for secret in (ended, left, "127.0.0.1", "of ada"):
            assert secret not in file.read_text() + file.with_name("sessions.jsonl.1").read_text()

    def test_a_file_that_cannot_be_exported_to_is_named_and_exits_with_2(self, tmp_path: Path) -> None:
        missing = str(tmp_path / "missing" / "sessions.jsonl")
        flags = ("--upstream", "http://127.0.0.1:1", "--listen", "127.0.0.1:0", "--export", missing)
        with running_module("cli", tmp_path, "proxy", *flags) as process:
            assert process.end() == 2
            assert process.said() == f"otel-sessions: --export {missing}: No such file or directory\n"
