"""HTTP through the proxy, from real clients and from hostile ones."""

import asyncio
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
import trustme
from websockets.asyncio.client import connect

from tests.exchanges import INITIALIZE
from tests.processes import HOST, free_port, running_module, until_listens
from tests.waiting import PATIENCE, until

from .conftest import Origin, Proxy, StartProxy, start_origin

pytestmark = pytest.mark.processes

MIB = 1024 * 1024
JSON_POST = b"POST /mcp HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n"


def asked(answer: httpx2.Response) -> dict[str, Any]:
    """Return what the origin says it was asked."""
    said: dict[str, Any] = answer.raise_for_status().json()
    return said


def values(said: dict[str, Any], name: str) -> list[str]:
    return [value for key, value in said["headers"] if key == name]


def talk(proxy: Proxy, *parts: bytes) -> bytes:
    """Send bytes as they are, and return all that is said until the proxy closes."""
    host, port = proxy.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), PATIENCE) as connection:
        for part in parts:
            connection.sendall(part)
        said = b""
        while more := connection.recv(65536):
            said += more
        return said


def asked_raw(proxy: Proxy, request: bytes) -> bytes:
    return talk(proxy, request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))


class TestWhatPasses:
    """What passes through the proxy unchanged."""

    def test_a_request_passes_as_it_was_written(self, proxy: Proxy, http: httpx2.Client) -> None:
        said = asked(http.request("PUT", f"{proxy.url}/a%2Fb//c%20d?x=1&x=%2B", content=b"\x00\xff body"))

        assert (said["method"], said["path"], said["query"]) == ("PUT", "/a%2Fb//c%20d", "x=1&x=%2B")
        assert said["body"] == "\x00ÿ body"

    def test_what_a_url_should_not_have_passes_as_it_was_written(self, proxy: Proxy) -> None:
        said = asked_raw(proxy, b"GET /{a}|b^c..d/.e/...?x={1}&y=/../ HTTP/1.1\r\nHost: h\r\n\r\n")

        assert b'"path":"/{a}|b^c..d/.e/...","query":"x={1}&y=/../"' in said

    def test_paths_are_put_behind_the_upstreams_own(
        self, start: StartProxy, http: httpx2.Client, origin: Origin
    ) -> None:
        with start(upstream=f"{origin.url}/base/") as proxy:
            assert asked(http.get(f"{proxy.url}/asked"))["path"] == "/base/asked"

    def test_only_the_clients_headers_and_the_proxys_word_about_it_arrive(self, proxy: Proxy) -> None:
        said = asked_raw(proxy, b"GET /asked HTTP/1.1\r\nHost: here.example\r\nMcp-Thing: a,  b\r\n\r\n")

        assert b'[["host","here.example"],["mcp-thing","a,  b"],["x-forwarded-for","127.0.0.1"],' in said
        assert b'["x-forwarded-host","here.example"],["x-forwarded-proto","http"],["via","1.1 otel-sessions"]]' in said

    @pytest.mark.parametrize("version", [b"1.0", b"1.1"])
    def test_the_proxy_names_itself_behind_the_proxies_before_it(self, proxy: Proxy, version: bytes) -> None:
        """RFC 9110, section 7.6.3."""
        said = asked_raw(proxy, b"GET /asked HTTP/%s\r\nHost: h\r\nVia: 1.1 front\r\n\r\n" % version)

        assert b'["via","1.1 front"]' in said
        assert b'["via","%s otel-sessions"]' % version in said

    def test_headers_of_one_connection_stay_on_it(self, proxy: Proxy, http: httpx2.Client) -> None:
        hop = {"connection": "x-mine, keep-alive", "x-mine": "1", "te": "trailers", "proxy-authorization": "secret"}

        answer = http.get(f"{proxy.url}/asked", headers={**hop, "x-kept": "2"})

        names = {name for name, _ in asked(answer)["headers"]}
        assert not names & {"connection", "x-mine", "te", "proxy-authorization", "keep-alive"}
        assert "x-kept" in names
        assert answer.headers["x-answer"] == "yes"
        assert "x-private" not in answer.headers

    def test_trace_context_passes(self, proxy: Proxy, http: httpx2.Client) -> None:
        traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

        said = asked(http.get(f"{proxy.url}/asked", headers={"traceparent": traceparent, "tracestate": "a=b"}))

        assert values(said, "traceparent") == [traceparent]
        assert values(said, "tracestate") == ["a=b"]

    @pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "OPTIONS", "PATCH"])
    def test_methods_pass(self, proxy: Proxy, http: httpx2.Client, method: str) -> None:
        answer = http.request(method, f"{proxy.url}/asked")

        assert answer.status_code == 200
        assert answer.headers["x-answer"] == "yes"
        if method == "HEAD":
            assert answer.content == b""
        else:
            assert asked(answer)["method"] == method

    def test_a_request_without_a_body_has_none_on_its_way(self, proxy: Proxy) -> None:
        said = asked_raw(proxy, b"POST /asked HTTP/1.1\r\nHost: h\r\n\r\n")

        assert b"200 OK" in said
        assert b"content-length" not in said.partition(b"\r\n\r\n")[2]

    def test_connections_to_the_upstream_are_used_again(
        self, start: StartProxy, http: httpx2.Client, origin: Origin
    ) -> None:
        with start() as proxy:
            for _ in range(20):
                http.get(f"{proxy.url}/asked")

            there = psutil.Process(proxy.process.process.pid).net_connections("tcp")
            port = int(origin.url.rsplit(":", 1)[1])
            assert len([one for one in there if getattr(one.raddr, "port", None) == port]) <= 4  # one for each pool


class TestTrustedWords:
    """Whose word is taken for the client's address."""

    def test_nobody_can_say_for_whom_it_asks_but_a_trusted_proxy(self, start: StartProxy, http: httpx2.Client) -> None:
        forged = {"x-forwarded-for": "10.9.8.7", "x-forwarded-proto": "https", "forwarded": "for=10.9.8.7"}

        with start() as plain, start("--trusted-proxy", "127.0.0.0/8") as trusting:
            dropped = asked(http.get(f"{plain.url}/asked", headers=forged))
            kept = asked(http.get(f"{trusting.url}/asked", headers=forged))

        assert values(dropped, "x-forwarded-for") == ["127.0.0.1"]
        assert values(dropped, "x-forwarded-proto") == ["http"]
        assert values(dropped, "forwarded") == []
        assert values(kept, "x-forwarded-for") == ["10.9.8.7, 127.0.0.1"]
        assert values(kept, "x-forwarded-proto") == ["https"]
        assert values(kept, "forwarded") == ["for=10.9.8.7", "for=127.0.0.1"]

    @pytest.mark.parametrize(
        "name", ["X-Forwarded-User", "X-Forwarded-Port", "X_Forwarded_For", "X-Real-IP", "X-Real_IP"]
    )
    def test_no_word_about_itself_passes_from_a_client(self, proxy: Proxy, http: httpx2.Client, name: str) -> None:
        said = asked(http.get(f"{proxy.url}/asked", headers={name: "forged"}))

        assert "forged" not in [value for _, value in said["headers"]]

    def test_a_trusted_proxys_words_pass_but_not_in_a_spelling_that_clients_may_have_chosen(
        self, start: StartProxy, http: httpx2.Client
    ) -> None:
        with start("--trusted-proxy", "127.0.0.1") as proxy:
            said = asked(http.get(f"{proxy.url}/asked", headers={"x-real-ip": "kept", "x_real_ip": "dropped"}))

        assert values(said, "x-real-ip") == ["kept"]
        assert values(said, "x_real_ip") == []

    @pytest.mark.parametrize(("flags", "secure"), [((), False), (("--trusted-proxy", "127.0.0.1"), True)])
    def test_a_cookie_is_secure_where_a_trusted_proxy_says_that_the_client_came_over_tls(
        self, start: StartProxy, http: httpx2.Client, flags: tuple[str, ...], secure: bool
    ) -> None:
        with start("--matcher", "cookie", *flags) as proxy:
            answer = http.get(f"{proxy.url}/asked", headers={"x-forwarded-proto": "https, http"})

        assert ("Secure" in answer.headers["set-cookie"]) == secure

    def test_where_the_host_is_replaced_foreign_ones_and_foreign_origins_are_refused_here(
        self, start: StartProxy, http: httpx2.Client, origin: Origin
    ) -> None:
        with start("--rewrite-host", "--allow-host", "good.example", "--allow-origin", "https://good.example") as proxy:
            good = http.get(f"{proxy.url}/asked", headers={"host": "good.example", "origin": "https://good.example"})
            rebound = http.get(f"{proxy.url}/asked", headers={"host": "evil.example"})
            foreign = http.get(f"{proxy.url}/asked", headers={"host": "good.example", "origin": "https://evil.example"})

        assert values(asked(good), "host") == [origin.url.removeprefix("http://")]
        assert (rebound.status_code, foreign.status_code) == (421, 403)

    def test_nobody_can_name_an_owner_but_a_trusted_proxy(self, start: StartProxy, http: httpx2.Client) -> None:
        owner, named = ("--owner-header", "X-User"), {"x-user": "ada"}

        with (
            start(*owner, "--trusted-proxy", "127.0.0.1") as trusting,
            start(*owner, "--trusted-proxy", "10.0.0.1") as distrusting,
        ):
            kept = asked(http.get(f"{trusting.url}/asked", headers=named))
            dropped = asked(http.get(f"{distrusting.url}/asked", headers=named))

            mistakable = http.get(f"{trusting.url}/asked", headers={"X_User": "ada"})

        assert values(kept, "x-user") == ["ada"]
        assert values(dropped, "x-user") == []
        assert mistakable.status_code == 400
        assert mistakable.text.startswith("the header x-user is repeated, is spelt with another mark for a hyphen, ")

    def test_an_owner_that_is_an_address_is_refused_with_one_line_in_the_log(
        self, start: StartProxy, http: httpx2.Client
    ) -> None:
        owners = ["10.0.0.1", "2001:db8::1", "10.0.0.1, 10.0.0.2", 'for="[2001:db8::1]:80";proto=https']

        with start("--matcher", "cookie", "--owner-header", "X-User", "--trusted-proxy", "127.0.0.1") as proxy:
            refused = [http.get(f"{proxy.url}/asked", headers={"x-user": owner}) for owner in owners]
            served = http.get(f"{proxy.url}/asked", headers={"x-user": "ada"})
            log = proxy.process.log.read_text()

        assert {answer.status_code for answer in refused} == {400}
        assert refused[0].text == "the header for the user's name contains an address, not a user\n"
        assert served.status_code == 200
        assert log.count("--owner-header") == 1
        assert "Traceback" not in log


class TestStreams:
    """Answers that are streams."""

    @pytest.mark.parametrize("sized", [True, False])
    def test_10_mib_pass_both_ways_without_growth_in_memory(
        self, start: StartProxy, http: httpx2.Client, sized: bool
    ) -> None:
        def parts() -> Iterator[bytes]:
            for _ in range(160):
                yield b"x" * 65536

        with start() as proxy:
            http.get(f"{proxy.url}/asked")
            memory = psutil.Process(proxy.process.process.pid).memory_info
            before = memory().rss
            up = http.post(f"{proxy.url}/count", content=b"x" * (10 * MIB) if sized else parts())
            down = http.get(f"{proxy.url}/large", params={"mib": 10})

            assert up.json() == {"size": 10 * MIB}
            assert len(down.content) == 10 * MIB
            assert memory().rss - before < 6 * MIB

    def test_a_slow_reader_slows_the_upstream_and_fills_no_memory(self, start: StartProxy, http: httpx2.Client) -> None:
        with start() as proxy:
            http.get(f"{proxy.url}/asked")
            memory = psutil.Process(proxy.process.process.pid).memory_info
            before = memory().rss
            with http.stream("GET", f"{proxy.url}/large", params={"mib": 200}) as answer:
                parts = answer.iter_raw(65536)
                next(parts)
                time.sleep(1.5)  # as much as nobody reads is sent in less

                assert memory().rss - before < 10 * MIB
                assert sum(len(part) for part in parts) > 199 * MIB  # and all of it comes when it is read

    def test_events_arrive_as_they_are_sent_and_byte_by_byte(
        self, proxy: Proxy, http: httpx2.Client, origin: Origin
    ) -> None:
        with http.stream("GET", f"{proxy.url}/halting?held") as answer:
            parts = answer.iter_raw()
            first = next(parts)
            origin.release()  # the origin says no more until the client has read what it said

            assert (first, b"".join(parts)) == (b"data: 1\n\n", b"data: 2 goes on\n\n")

    def test_a_silent_stream_gets_comments_between_two_events_and_never_in_the_midst_of_one(
        self, start: StartProxy, http: httpx2.Client, origin: Origin
    ) -> None:
        with start("--comment-after", "0.2") as proxy, http.stream("GET", f"{proxy.url}/halting?held") as answer:
            said = b""
            for part in answer.iter_raw():
                said += part
                if said.count(b":\n\n") == 2:
                    origin.release()

        first, _, rest = said.partition(b"data: 1\n\n")
        second, _, last = rest.partition(b"data: 2")
        assert first == b""
        assert second.count(b":\n\n") >= 2
        assert second.replace(b":\n\n", b"") == b""
        assert last == b" goes on\n\n"

    def test_a_stream_of_a_length_that_was_told_gets_none(self, start: StartProxy, http: httpx2.Client) -> None:
        with start("--comment-after", "0.2") as proxy:
            assert http.get(f"{proxy.url}/sized-events").text == "data: 1\n\ndata: 2\n\n"

    def test_a_client_that_leaves_a_stream_takes_the_upstreams_call_with_it(
        self, proxy: Proxy, http: httpx2.Client, origin: Origin
    ) -> None:
        with http.stream("GET", f"{proxy.url}/events") as answer:
            parts = answer.iter_raw()
            next(parts)
            origin.until("streams", 1)

        origin.until_none("streams")

    def test_a_client_that_leaves_before_there_is_a_head_takes_the_upstreams_call_with_it(
        self, proxy: Proxy, http: httpx2.Client, origin: Origin
    ) -> None:
        host, port = proxy.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), PATIENCE) as connection:
            connection.sendall(b"GET /never HTTP/1.1\r\nHost: h\r\n\r\n")
            origin.until("waiting", 1)

        origin.until_none("waiting")


async def echo_once(proxy: Proxy) -> str | bytes:
    async with connect(f"{proxy.url.replace('http', 'ws')}/echo", proxy=None, open_timeout=PATIENCE) as socket:
        await socket.send("hello")
        return await socket.recv()


class TestUpstreamInTrouble:
    """An upstream that is in trouble."""

    def test_an_upstream_that_is_not_there_is_502_and_says_so(self, start: StartProxy, http: httpx2.Client) -> None:
        with start(upstream=f"http://{HOST}:{free_port()}") as proxy:
            answer = http.get(proxy.url)

        assert (answer.status_code, answer.text) == (502, "the upstream cannot be reached\n")

    @pytest.mark.deadline("an upstream that stops answering")
    def test_an_upstream_that_does_not_answer_is_504_and_says_so(self, start: StartProxy, http: httpx2.Client) -> None:
        with start("--idle-timeout", "0.5") as proxy:
            answer = http.get(f"{proxy.url}/never")

        assert (answer.status_code, answer.text) == (504, "the upstream did not answer in time\n")

    def test_a_stream_of_events_may_be_silent_for_longer(self, start: StartProxy, http: httpx2.Client) -> None:
        events = {"accept": "application/json, text/event-stream"}

        with start("--idle-timeout", "0.5") as proxy:
            with pytest.raises(httpx2.ReadTimeout):
                http.get(f"{proxy.url}/never", headers=events, timeout=httpx2.Timeout(PATIENCE, read=2))
            until(lambda: http.get(f"{proxy.url}/halting").text, lambda said: said.endswith("goes on\n\n"))
            assert http.post(f"{proxy.url}/never", headers=events).status_code == 504

    def test_a_request_that_stalls_is_408_and_holds_nothing(self, start: StartProxy) -> None:
        with start("--idle-timeout", "2", "--max-sessions", "1") as proxy:
            said = talk(proxy, JSON_POST + b"Content-Length: 10\r\n\r\nabc")

            assert said.startswith(b"HTTP/1.1 408 ")
            assert said.endswith(b"the request did not come in time\n")
            again = JSON_POST + b"Connection: close\r\n\r\n"
            until(lambda: talk(proxy, again), lambda said: said.startswith(b"HTTP/1.1 200 "))

    @pytest.mark.deadline("an upstream that breaks off")
    def test_an_upstream_that_is_killed_in_mid_stream_cuts_the_answer_and_may_come_back(
        self, start: StartProxy, http: httpx2.Client, tmp_path: Any
    ) -> None:
        port = free_port()
        with start(upstream=f"http://{HOST}:{port}") as proxy:
            with start_origin(tmp_path, port), pytest.raises(httpx2.RemoteProtocolError):
                http.get(f"{proxy.url}/breaks")
            gone = http.get(f"{proxy.url}/asked")
            with start_origin(tmp_path, port):
                back = http.get(f"{proxy.url}/asked")

        assert (gone.status_code, back.status_code) == (502, 200)

    def test_an_upstream_behind_tls_is_reached_if_its_certificate_is_good(
        self, start: StartProxy, http: httpx2.Client, tmp_path: Path
    ) -> None:
        authority, port = trustme.CA(), free_port()
        authority.cert_pem.write_to_path(tmp_path / "authority.pem")
        authority.issue_cert(HOST).private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
        url = f"https://{HOST}:{port}"

        with running_module("proxy.origin", tmp_path, str(port), str(tmp_path / "server.pem")) as server:
            until_listens(port, server)
            with start(upstream=url, SSL_CERT_FILE=str(tmp_path / "authority.pem")) as proxy:
                good = http.get(f"{proxy.url}/asked")
                echoed = asyncio.run(echo_once(proxy))
            with start(upstream=url) as distrusting:
                bad = http.get(f"{distrusting.url}/asked")

        assert (good.status_code, bad.status_code) == (200, 502)
        assert echoed == "hello"


class TestHostileRequests:
    """Requests that mean harm."""

    def test_a_body_larger_than_allowed_is_413_whatever_it_says_of_its_size(
        self, start: StartProxy, http: httpx2.Client
    ) -> None:
        def parts() -> Iterator[bytes]:
            for _ in range(3):
                yield b"x" * 1000

        with start("--max-body", "2000") as proxy:
            sized = http.post(f"{proxy.url}/count", content=b"x" * 2001)
            unsized = http.post(f"{proxy.url}/count", content=parts())
            fits = http.post(f"{proxy.url}/count", content=b"x" * 2000)

        assert (sized.status_code, unsized.status_code, fits.status_code) == (413, 413, 200)

    @pytest.mark.parametrize(
        "request_bytes",
        [
            b"POST /count HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            b"POST /count HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nabcd",
            b"POST /count HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
            b"GET /asked HTTP/1.1\r\nHost: h\r\nX-Bad: a\x00b\r\n\r\n",
            b"GET /asked HTTP/1.1\r\nHost: h\r\nX Bad: a\r\n\r\n",
            b"GET /asked HTTP/1.1\r\nHost: h\r\nX-Big: " + b"a" * 70000 + b"\r\n\r\n",
            b"GET /asked HTTP/1.1\r\nHost: h\r\nHost: i\r\n\r\n",
            b"nonsense\r\n\r\n",
            b"GET /asked HTTP/1.1\r\nHost: h/echo?\r\n\r\n",
            b"GET /asked HTTP/1.1\r\nHost: h:99999999\r\n\r\n",
            b"GET /asked HTTP/1.1\r\nHost: [::::]\r\n\r\n",
            b"GET /asked HTTP/1.1\r\nHost: h\r\nConnection: mcp-protocol-version\r\nMcp-Protocol-Version: 1\r\n\r\n",
            b"GET /asked HTTP/1.1\r\nHost: h\r\nMcp-Protocol-Version: 1\r\nMcp-Protocol-Version: 2\r\n\r\n",
            b"GET /asked HTTP/1.1\r\nHost: h\r\nMcp_Protocol_Version: 1\r\n\r\n",
            b"GET /asked#part HTTP/1.1\r\nHost: h\r\n\r\n",
            b"GET /base/../asked HTTP/1.1\r\nHost: h\r\n\r\n",
            b"GET /base/%2E./asked HTTP/1.1\r\nHost: h\r\n\r\n",
            b"GET /base/..%2fasked HTTP/1.1\r\nHost: h\r\n\r\n",
            b"GET /base/..;/asked HTTP/1.1\r\nHost: h\r\n\r\n",
            b"GET /base\\..\\asked HTTP/1.1\r\nHost: h\r\n\r\n",
            b"GET /.. HTTP/1.1\r\nHost: h\r\n\r\n",
            b"GET %2Fasked HTTP/1.1\r\nHost: h\r\n\r\n",
            b"GET ftp://elsewhere.example/asked HTTP/1.1\r\nHost: h\r\n\r\n",
            b"OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n",
            b"CONNECT elsewhere.example:443 HTTP/1.1\r\nHost: h\r\n\r\n",
        ],
    )
    def test_a_malformed_or_smuggled_request_is_refused_and_never_passed_on(
        self, proxy: Proxy, request_bytes: bytes
    ) -> None:
        said = asked_raw(proxy, request_bytes)

        status = int(said.split(b" ")[1])
        assert 400 <= status < 500 or status == 501
        assert b"x-answer" not in said

    def test_a_large_body_is_refused_before_the_upstream_gets_any_of_it(self, start: StartProxy) -> None:
        head = b"POST /count HTTP/1.1\r\nHost: h\r\nContent-Length: 3000\r\nConnection: close\r\n\r\n"
        with start("--max-body", "2000", upstream=f"http://{HOST}:{free_port()}") as proxy:
            assert talk(proxy, head).startswith(b"HTTP/1.1 413 ")

    @pytest.mark.parametrize("name", [b"Mcp-Session-Id", b"Mcp_Session_Id", b"MCP-Session_ID"])
    def test_an_id_reaches_the_upstream_in_one_spelling_and_once_or_not_at_all(
        self, proxy: Proxy, http: httpx2.Client, name: bytes
    ) -> None:
        json = {"content-type": "application/json"}
        session_id = http.post(f"{proxy.url}/mcp", headers=json, content=INITIALIZE).headers["mcp-session-id"].encode()
        twice = b"Mcp-Session-Id: %s\r\n%s: forged\r\n" % (session_id, name)

        leased = asked_raw(proxy, b"GET /asked HTTP/1.1\r\nHost: h\r\n%s\r\n" % twice)
        free = asked_raw(proxy, b"GET /asked HTTP/1.1\r\nHost: h\r\nMcp-Protocol-Version: 2026-07-28\r\n%s\r\n" % twice)
        http.delete(f"{proxy.url}/mcp", headers={"mcp-session-id": session_id.decode()})

        assert b'["mcp-session-id","%s"]' % session_id in leased
        assert b"forged" not in leased + free
        assert session_id not in free

    def test_a_chunk_that_is_none_ends_the_request_at_the_proxy(self, proxy: Proxy) -> None:
        head = b"POST /count HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"

        said = talk(proxy, head, b"zz\r\nabc\r\n0\r\n\r\n")

        assert b" 200 " not in said.split(b"\r\n")[0]
        assert b'"size"' not in said

    def test_what_follows_a_request_is_another_one_and_no_part_of_it(self, proxy: Proxy) -> None:
        smuggled = b"GET /asked?second HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"

        said = talk(proxy, b"POST /asked?first HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc" + smuggled)

        assert said.count(b"HTTP/1.1 200") == 2
        assert b'"body":"abc"' in said

    def test_a_client_that_stays_half_open_holds_nothing_of_the_upstream(self, proxy: Proxy, origin: Origin) -> None:
        host, port = proxy.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), PATIENCE) as connection:
            connection.sendall(b"GET /events HTTP/1.1\r\nHost: h\r\n\r\n")
            assert connection.recv(1000).startswith(b"HTTP/1.1 200")
            connection.shutdown(socket.SHUT_WR)  # it says no more, and reads no more

        origin.until_none("streams")


class TestHealth:
    """What the health endpoint answers."""

    def test_the_health_endpoint_says_how_many_sessions_there_are(self, proxy: Proxy, http: httpx2.Client) -> None:
        said = http.get(f"{proxy.health}/healthz")

        assert said.status_code == 200
        assert said.json()["status"] == "ok"
        assert http.get(f"{proxy.health}/elsewhere").status_code == 404
        until(lambda: http.get(f"{proxy.url}/healthz").json()["path"], lambda path: path == "/healthz")
