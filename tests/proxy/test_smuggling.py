"""What a client cannot make of a connection: byte strings, with both sides of the proxy looked at, on both loops."""

import base64
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.processes import HOST

from .conftest import start_proxy
from .recorder import Recorder, Seen, statuses, talk

pytestmark = pytest.mark.processes

ANSWERS = {
    "/304": b"HTTP/1.1 304 Not Modified\r\ncontent-length: 10\r\netag: x\r\n\r\n",
    "/204": b"HTTP/1.1 204 No Content\r\n\r\n",
}
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n"
LAST = b"GET /last HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
NEXT = b"GET /next HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
KEY = base64.b64encode(bytes(16))
HANDSHAKE = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\n" % KEY


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A proxy, and the upstream that looks at what comes through."""

    port: int
    upstream: Recorder

    def said(self, *parts: bytes) -> bytes:
        return talk(self.port, *parts)

    def seen(self) -> list[Seen]:
        """Return what has reached the upstream, now that a last request has gone after it."""
        self.said(LAST)
        *seen, last = self.upstream.taken()
        assert " /last " in last.line
        return seen


@pytest.fixture(scope="module", params=["uvloop", "asyncio"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    upstream = Recorder(ANSWERS)
    flags = ("--loop", request.param, "--max-header", "2048", "--matcher", "header:x-session-id")
    with start_proxy(tmp_path_factory.mktemp("pair"), upstream.url, *flags) as proxy:
        yield Pair(port=int(proxy.url.rsplit(":", 1)[1]), upstream=upstream)
    upstream.close()


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0, 0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length : 0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: +0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 36893488147419103232\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: h\r\nTransfer_Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"GET / HTTP/1.1\nHost: h\n\n", 400),
        (b"GET / HTTP/1.1\r\nHost: h\nX-A: b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: h\r\nX-A: b\r\n folded\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost : h\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n Host: h\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: h\r\nHost: h\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\nHost: h\r\n\r\n", 505),
        (b"GET / HTTP/1.2\r\nHost: h\r\n\r\n", 505),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (b"OPTIONS / RTSP/1.0\r\nHost: h\r\n\r\n", 400),
        (b"GET /\r\nHost: h\r\n\r\n", 400),
        (b"delete / HTTP/1.1\r\nHost: h\r\n\r\n", 501),
        (b"FOO / HTTP/1.1\r\nHost: h\r\n\r\n", 501),
        (b"CONNECT h:443 HTTP/1.1\r\nHost: h:443\r\n\r\n", 501),
        (b"GET / HTTP/1.1\r\nHost: h\r\nX-A: " + b"a" * 2048 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: h\r\n" + b"a: b\r\n" * 341 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n" + HANDSHAKE + b"\r\nabcd", 400),
        (b"GET / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n" + HANDSHAKE + b"\r\n0\r\n\r\n", 400),
    ],
)
def test_a_refusal_that_leaves_the_framing_in_doubt_closes_and_serves_nothing_behind_it(
    pair: Pair, raw: bytes, status: int
) -> None:
    said = pair.said(raw + SMUGGLED)

    assert statuses(said) == [status]
    assert b"\r\nconnection: close\r\n" in said
    assert pair.seen() == []


@pytest.mark.parametrize(
    "chunks",
    [
        b"3 \r\nabc\r\n0\r\n\r\n",
        b"3\nabc\r\n0\r\n\r\n",
        b"3\r\nabc\n0\r\n\r\n",
        b"3\r\nabcd\r\n0\r\n\r\n",
        b"0x3\r\nabc\r\n0\r\n\r\n",
        b"FFFFFFFFFFFFFFFFF\r\nabc\r\n0\r\n\r\n",
        b"10000000000000003\r\nabc\r\n0\r\n\r\n",
        b"3;\x00\r\nabc\r\n0\r\n\r\n",
        b"0\r\nHost : i\r\n\r\n",
        b"0\r\nno trailer\r\n\r\n",
        b"0\r\n folded\r\n\r\n",
        b"0\n\n",
    ],
)
@pytest.mark.parametrize("segments", [1, 2])
def test_a_chunk_that_may_mean_two_things_closes_and_serves_nothing_behind_it(
    pair: Pair, chunks: bytes, segments: int
) -> None:
    head = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    parts = [head + chunks + SMUGGLED] if segments == 1 else [head, chunks + SMUGGLED]

    said = pair.said(*parts)

    assert statuses(said) in ([], [400])
    assert pair.seen() == []


@pytest.mark.parametrize("name", [b"X-Session-Id", b"Host", b"X-Forwarded-For", b"Content-Length", b"Connection"])
@pytest.mark.parametrize("segments", [1, 2])
def test_trailers_are_read_and_dropped(pair: Pair, name: bytes, segments: int) -> None:
    head = b"POST /first HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"
    rest = b"0\r\n%s: evil\r\n\r\n" % name + b"GET /second HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"

    said = pair.said(*([head + rest] if segments == 1 else [head, rest]))
    first, second = pair.seen()

    assert statuses(said) == [200] * 2
    assert first.body == b"abc"
    assert "evil" not in repr(first) + repr(second)
    assert second.line == "GET /second HTTP/1.1"


@pytest.mark.parametrize("upgrade", [b"h2c", b"foo", b"TLS/1.0", b"websocket2"])
def test_an_upgrade_to_something_else_is_ignored_and_body_and_next_request_are_read(pair: Pair, upgrade: bytes) -> None:
    said = pair.said(
        b"POST /first HTTP/1.1\r\nHost: h\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: %s\r\n"
        b"HTTP2-Settings: AAMAAABkAAQAAP__\r\nContent-Length: 3\r\n\r\nabc"
        % upgrade
        + b"GET /second HTTP/1.1\r\nHost: h\r\nHTTP2-Settings: AA\r\nConnection: close\r\n\r\n"
    )
    first, second = pair.seen()

    assert statuses(said) == [200] * 2
    assert (first.body, second.line) == (b"abc", "GET /second HTTP/1.1")
    assert not {"upgrade", "http2-settings"} & {name for name, _ in first.headers + second.headers}


@pytest.mark.parametrize("target", [b"/x?", b"/x??", b"/?", b"/x?a=%zz&?", b"//x", b"/x;a=b,c"])
def test_a_target_arrives_as_it_was_written(pair: Pair, target: bytes) -> None:
    pair.said(b"GET %s HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n" % target)

    assert [seen.line for seen in pair.seen()] == [f"GET {target.decode()} HTTP/1.1"]


def test_an_absolute_target_is_served_and_its_authority_replaces_the_host(pair: Pair) -> None:
    pair.said(b"GET http://there.example/a?b HTTP/1.1\r\nHost: here.example\r\nConnection: close\r\n\r\n")
    (seen,) = pair.seen()

    assert seen.line == "GET /a?b HTTP/1.1"
    assert seen.values("host") == ["there.example"]
    assert seen.values("x-forwarded-host") == ["there.example"]


@pytest.mark.parametrize("target", [b"http://u@there/", b"http://there/#a", b"http://there/../a", b"ftp://there/a"])
def test_an_absolute_target_meets_the_rules_of_every_other(pair: Pair, target: bytes) -> None:
    said = pair.said(b"GET %s HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n" % target)

    assert said.startswith(b"HTTP/1.1 400 ")
    assert pair.seen() == []


def test_http_1_0_without_a_host_gets_the_upstreams_own_and_an_answer_without_chunks(pair: Pair) -> None:
    said = pair.said(b"OPTIONS / HTTP/1.0\r\n\r\n")
    (seen,) = pair.seen()

    assert said.endswith(b"\r\n\r\nok")
    assert b"transfer-encoding" not in said
    assert seen.values("host") == [f"{HOST}:{pair.upstream.port}"]
    assert seen.values("x-forwarded-host") == []


def test_trace_is_refused_with_the_methods_that_are_not_and_the_connection_goes_on(pair: Pair) -> None:
    said = pair.said(b"TRACE / HTTP/1.1\r\nHost: h\r\n\r\n", NEXT)

    assert said.startswith(b"HTTP/1.1 405 ")
    assert b"\r\nallow: GET, HEAD, POST" in said
    assert [seen.line for seen in pair.seen()] == ["GET /next HTTP/1.1"]


def test_the_limit_on_a_head_counts_all_of_it(pair: Pair) -> None:
    head = b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\nX-A: %s\r\n\r\n"
    room = 2048 - len(head) + 2

    fits = pair.said(head % (b"a" * room))
    not_any_more = pair.said(head % (b"a" * (room + 1)))

    assert fits.startswith(b"HTTP/1.1 200 ")
    assert not_any_more.startswith(b"HTTP/1.1 431 ")
    assert len(pair.seen()) == 1


@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
@pytest.mark.parametrize("path", [b"/204", b"/304"])
def test_an_answer_that_has_no_body_by_its_status_does_not_cut_the_connection(
    pair: Pair, method: bytes, path: bytes
) -> None:
    said = pair.said(
        b"%s %s HTTP/1.1\r\nHost: h\r\n\r\n" % (method, path),
        NEXT,
    )

    assert statuses(said) == [int(path[1:]), 200]
    assert said.endswith(b"\r\n\r\nok")
    assert len(pair.seen()) == 2


def test_requests_that_come_early_are_answered_in_their_order(pair: Pair) -> None:
    ask = b"POST /%d HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\n%d"

    said = pair.said(b"".join(ask % (n, n) for n in range(5)) + LAST)

    assert statuses(said) == [200] * 6
    assert [(seen.line, seen.body) for seen in pair.seen()][:5] == [
        (f"POST /{n} HTTP/1.1", b"%d" % n) for n in range(5)
    ]


def test_a_refused_request_whose_body_comes_later_does_not_become_a_request(pair: Pair) -> None:
    head = b"POST /../x HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % len(SMUGGLED)
    said = b""
    with socket.create_connection((HOST, pair.port), 20) as connection:
        connection.sendall(head)
        said += connection.recv(65536)
        connection.sendall(SMUGGLED + LAST)
        while more := connection.recv(65536):
            said += more

    assert said.startswith(b"HTTP/1.1 400 ")
    assert said.endswith(b"\r\n\r\nok")
    assert [seen.line for seen in pair.seen()] == ["GET /last HTTP/1.1"]


def test_a_refused_request_whose_body_is_large_closes_once_the_client_has_read_why(pair: Pair) -> None:
    with socket.create_connection((HOST, pair.port), 20) as connection:
        connection.sendall(b"POST /../x HTTP/1.1\r\nHost: h\r\nContent-Length: 10000000\r\n\r\n" + os.urandom(200_000))
        said = b""
        while more := connection.recv(65536):
            said += more

    assert said.startswith(b"HTTP/1.1 400 ")
    assert b"\r\nconnection: close\r\n" in said
    assert pair.seen() == []


def test_a_client_that_expects_to_be_asked_is_asked_or_answered(pair: Pair) -> None:
    head = b"POST %s HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 3\r\nConnection: close\r\n\r\n"
    with socket.create_connection((HOST, pair.port), 20) as connection:
        connection.sendall(head % b"/x")
        asked = connection.recv(65536)
        connection.sendall(b"abc")
        answered = connection.recv(65536)
    refused = pair.said(head % b"/../x")

    assert asked == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert answered.startswith(b"HTTP/1.1 200 ")
    assert refused.startswith(b"HTTP/1.1 400 ")
    assert [seen.body for seen in pair.seen()] == [b"abc"]
