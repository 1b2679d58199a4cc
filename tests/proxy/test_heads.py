"""The heads and the bodies of requests, read from bytes alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_sessions.proxy.chunks import Chunked, Sized
from otel_sessions.proxy.head import Head, Malformed, check_beginning, read_head


def head(*lines: str) -> Head:
    return read_head("".join(f"{line}\r\n" for line in [*lines, ""]).encode("latin-1"))


def status_of(*lines: str) -> int:
    with pytest.raises(Malformed) as malformed:
        head(*lines)
    return malformed.value.status


def test_a_head_is_read_as_it_was_written() -> None:
    read = head("POST /a%2Fb?x=1&y HTTP/1.1", "Host: h", "X-Two: a,  b \t", "X-Two: c", "Content-Length: 3")

    assert (read.method, read.target, read.version, read.length) == ("POST", b"/a%2Fb?x=1&y", "1.1", 3)
    assert read.headers == [(b"host", b"h"), (b"x-two", b"a,  b"), (b"x-two", b"c"), (b"content-length", b"3")]


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("GET / HTTP/1.2", 505),
        ("GET / HTTP/2.0", 505),
        ("GET / HTTP/0.9", 505),
        ("PRI * HTTP/2.0", 505),
        ("GET / HTTP/1.10", 400),
        ("GET / HTTP/1", 400),
        ("GET / http/1.1", 400),
        ("OPTIONS / RTSP/1.0", 400),
        ("GET / ICE/1.0", 400),
        ("GET /", 400),
        ("GET", 400),
        ("GET  / HTTP/1.1", 400),
        (" GET / HTTP/1.1", 400),
        ("GET / HTTP/1.1 ", 400),
        ("GET /\tHTTP/1.1", 400),
        ("GET /a b HTTP/1.1", 400),
        ("GET /\x7f HTTP/1.1", 400),
        ("GET /\x00 HTTP/1.1", 400),
        ("GET /a\nX:b HTTP/1.1", 400),
        ("GET /a\rX:b HTTP/1.1", 400),
        ("GET /a\x0bX:b HTTP/1.1", 400),
        ("GET http://h/\nX:b HTTP/1.1", 400),
        ("G@T / HTTP/1.1", 400),
        ("FOO / HTTP/1.1", 501),
        ("delete / HTTP/1.1", 501),
        ("Get / HTTP/1.1", 501),
        ("CONNECT h:443 HTTP/1.1", 501),
        ("GET http://user@h/ HTTP/1.1", 400),
        ("GET http:///x HTTP/1.1", 400),
        ("GET ftp://h/x HTTP/1.1", 400),
    ],
)
def test_a_request_line_that_is_none_is_refused(line: str, status: int) -> None:
    assert status_of(line, "Host: h") == status


@pytest.mark.parametrize(
    "line",
    [
        "Content-Length : 3",
        " Content-Length: 3",
        "Content-Length: 3\r\nContent-Length: 3",
        "Content-Length: 3, 3",
        "Content-Length: +3",
        "Content-Length: -3",
        "Content-Length: 0x3",
        "Content-Length: 3.0",
        "Content-Length:",
        "Content-Length: 99999999999999999999",
        "Content-Length: 3\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 3",
        "Transfer-Encoding:",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: \x0bchunked",
        "Content_Length: 3",
        "Transfer_Encoding: chunked",
        "X-A: b\r\n folded",
        "X-A: b\r\n\tfolded",
        "X-A: b\nContent-Length: 3",
        "X-A: b\rContent-Length: 3",
        "X-A: \x00",
        "X-A\x00: b",
        "X A: b",
        ": b",
        "no header",
        "\xe9: b",
        "Host: i",
    ],
)
def test_a_header_line_that_may_mean_two_things_is_refused(line: str) -> None:
    assert status_of("POST / HTTP/1.1", "Host: h", line) == 400


def test_a_head_has_a_limited_number_of_lines() -> None:
    assert status_of("GET / HTTP/1.1", "Host: h", *["a: b"] * 500) == 431


@pytest.mark.parametrize("coding", ["gzip, chunked", "identity, chunked"])
def test_a_coding_that_is_not_exactly_chunked_is_refused(coding: str) -> None:
    assert status_of("POST / HTTP/1.1", "Host: h", f"Transfer-Encoding: {coding}") == 501


def test_http_1_0_knows_no_chunks_and_needs_no_host_and_closes() -> None:
    assert status_of("POST / HTTP/1.0", "Host: h", "Transfer-Encoding: chunked") == 400
    assert not head("GET / HTTP/1.0", "Connection: keep-alive").asked.may_go_on


def test_http_1_1_needs_one_host() -> None:
    assert status_of("GET / HTTP/1.1") == 400
    assert status_of("GET http://h/ HTTP/1.1") == 400


@pytest.mark.parametrize(
    ("target", "path", "host"),
    [
        ("http://there:81/a?b", b"/a?b", b"there:81"),
        ("HTTPS://there/a", b"/a", b"there"),
        ("http://there", b"/", b"there"),
        ("http://there?b", b"/?b", b"there"),
        ("http://[::1]:80/a", b"/a", b"[::1]:80"),
    ],
)
def test_an_absolute_target_replaces_the_host(target: str, path: bytes, host: bytes) -> None:
    read = head(f"GET {target} HTTP/1.1", "Host: here", "X-A: b")

    assert (read.target, read.headers) == (path, [(b"host", host), (b"x-a", b"b")])


@pytest.mark.parametrize(
    "lines",
    [
        ("GET / HTTP/1.1", "Host: h", "Connection: Upgrade", "Upgrade: h2c"),
        ("GET / HTTP/1.1", "Host: h", "Upgrade: websocket"),
        ("GET / HTTP/1.0", "Host: h", "Connection: Upgrade", "Upgrade: websocket"),
    ],
)
def test_an_upgrade_to_something_else_or_without_a_connection_header_is_ignored(lines: tuple[str, ...]) -> None:
    assert not head(*lines).is_websocket


@pytest.mark.parametrize("body", ["Content-Length: 1", "Transfer-Encoding: chunked"])
def test_a_websocket_handshake_with_a_body_is_refused(body: str) -> None:
    handshake = ("Host: h", "Connection: keep-alive, Upgrade", "Upgrade: WebSocket")

    assert head("GET / HTTP/1.1", *handshake).is_websocket
    assert status_of("GET / HTTP/1.1", *handshake, body) == 400
    assert status_of("POST / HTTP/1.1", *handshake) == 400


@pytest.mark.parametrize(
    "beginning", [b"\x16\x03\x01", b"GET / HTTP/1.1\nHost", b"\nGET", b"GET / HTTP/3.0\r\nHo", b":"]
)
def test_a_beginning_that_no_head_has_is_refused_before_its_end(beginning: bytes) -> None:
    with pytest.raises(Malformed):
        check_beginning(beginning)


@given(st.binary(max_size=200))
def test_whatever_comes_is_a_head_or_malformed(lines: bytes) -> None:
    raw = b"GET / HTTP/1.1\r\nHost: h\r\n" + lines.replace(b"\r\n\r\n", b"") + b"\r\n\r\n"
    raw = raw[: raw.index(b"\r\n\r\n") + 4]
    try:
        read = read_head(raw)
    except Malformed:
        return
    assert [value for name, value in read.headers if name == b"host"] == [b"h"]


def read_in(body: Chunked | Sized, raw: bytes, cuts: list[int]) -> tuple[bytes, bytes]:
    """Return the content and what is left, fed in pieces that end at the cuts."""
    content, pending = b"", bytearray()
    for begin, end in zip([0, *cuts], [*cuts, len(raw)], strict=True):
        pending += raw[begin:end]
        while not body.is_whole and pending:
            before = len(pending)
            content += body.take(pending)
            if len(pending) == before:
                break
    return content, bytes(pending)


class TestBodies:
    """How the body of a request is read."""

    @given(
        parts=st.lists(st.binary(min_size=1, max_size=40), max_size=8),
        extension=st.sampled_from([b"", b";a", b';a="b c"']),
        trailer=st.sampled_from([b"", b"Host: evil\r\n", b"a: b\r\nc:\r\n"]),
        cuts=st.lists(st.integers(0, 60), max_size=6).map(sorted),
    )
    def test_chunks_are_the_same_however_they_are_cut(
        self, parts: list[bytes], extension: bytes, trailer: bytes, cuts: list[int]
    ) -> None:
        raw = b"".join(b"%X%s\r\n%s\r\n" % (len(part), extension, part) for part in parts)
        raw += b"0%s\r\n%s\r\n" % (extension, trailer)
        body = Chunked()

        content, left = read_in(body, raw + b"GET /next", [min(cut, len(raw)) for cut in cuts])

        assert (content, left, body.is_whole) == (b"".join(parts), b"GET /next", True)

    def test_a_body_of_a_known_length_ends_where_it_says(self) -> None:
        body = Sized(3)

        assert read_in(body, b"abcGET", [1]) == (b"abc", b"GET")
        assert body.is_whole

    @pytest.mark.parametrize(
        "raw",
        [
            b"3 \r\nabc\r\n0\r\n\r\n",
            b" 3\r\nabc\r\n0\r\n\r\n",
            b"3\nabc\r\n0\r\n\r\n",
            b"3\r\nabc\n0\r\n\r\n",
            b"3\r\nabcd\r\n0\r\n\r\n",
            b"0x3\r\nabc\r\n0\r\n\r\n",
            b"-3\r\nabc\r\n0\r\n\r\n",
            b"+3\r\nabc\r\n0\r\n\r\n",
            b"3_0\r\nabc",
            b"\r\nabc",
            b"zz\r\n",
            b"FFFFFFFFFFFFFFFF\r\n",
            b"10000000000000003\r\nabc\r\n",
            b"3\r;\r\nabc\r\n",
            b"3;a\x00\r\nabc\r\n",
            b"3;" + b"a" * 2000,
            b"0\r\nno trailer\r\n\r\n",
            b"0\r\n folded\r\n\r\n",
            b"0\r\nHost : a\r\n\r\n",
            b"0\r\nHost: a\n\r\n",
            b"0\n\n",
        ],
    )
    def test_a_chunk_that_may_mean_two_things_is_refused(self, raw: bytes) -> None:
        with pytest.raises(Malformed):
            read_in(Chunked(), raw, [])

    def test_what_is_beside_the_content_of_a_body_is_limited(self) -> None:
        chunk = b"1;" + b"a" * 900 + b"\r\nx\r\n"

        with pytest.raises(Malformed):
            read_in(Chunked(), chunk * 100, [])
        with pytest.raises(Malformed):
            read_in(Chunked(), b"0\r\n" + b"a: b\r\n" * 20_000, [])

    def test_one_step_reads_a_bounded_number_of_chunks(self) -> None:
        pending = bytearray(b"1\r\nx\r\n" * 40_000)

        assert len(Chunked().take(pending)) < 1_000
