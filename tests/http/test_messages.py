"""A request and an answer as bytes: what goes out is one request, and what comes is one answer, or none."""

from collections.abc import AsyncIterator
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from otel_sessions._http.messages import Answer, BadAnswer, Head
from otel_sessions._http.requests import Headers, Outline, Request

OK = b"HTTP/1.1 200 OK\r\n"
MAX_HEAD = 400

Outcome = tuple[Head | None, bytes, bool, float] | str
"""The head, the body, whether it was whole, and how long the connection may be kept; or the error."""


def read(*pieces: bytes, to_head: bool = False, closed: bool = False, max_head: int = MAX_HEAD) -> Outcome:
    answer = Answer(to_head=to_head, max_head=max_head)
    body = b""
    try:
        for piece in pieces:
            answer.feed(piece)
            body += answer.take()
    except BadAnswer as error:
        return str(error)
    if closed:
        answer.end()
    return answer.head, body, answer.whole, answer.kept_seconds


def is_kept(*pieces: bytes, to_head: bool = False) -> bool:
    outcome = read(*pieces, to_head=to_head)
    assert not isinstance(outcome, str), outcome
    assert outcome[2], "it is not whole"
    return outcome[3] > 0


def _headers(lines: bytes) -> Headers:
    return [(name, value) for name, _, value in (line.partition(b": ") for line in lines.splitlines())]


class TestSoundAnswers:
    """Answers that are as they should be."""

    def test_an_answer_has_its_status_its_headers_as_they_came_and_its_body(self) -> None:
        said = OK + b"Content-Length: 3\r\nX-Caf\xc3\xa9: no\r\n\r\n"
        assert read(said) == "the upstream's answer is no HTTP: Invalid header token"
        said = (
            OK
            + b"X-Mixed-Case:  \xe9\xff a \t\r\nEmpty:\r\nSet-Cookie: a\r\nset-cookie: b\r\n"
            + b"Content-Length: 3\r\n\r\nabc"
        )
        headers = [(b"X-Mixed-Case", b"\xe9\xff a"), (b"Empty", b""), (b"Set-Cookie", b"a"), (b"set-cookie", b"b")]
        assert read(said) == (Head(status=200, headers=[*headers, (b"Content-Length", b"3")]), b"abc", True, 4.0)

    def test_chunks_are_joined_and_their_extensions_and_trailers_dropped(self) -> None:
        said = OK + b"Transfer-Encoding: Chunked\r\n\r\n3;a=b\r\nabc\r\n2\r\nde\r\n0\r\nX-Late: 1\r\nHost: evil\r\n\r\n"
        assert read(said) == (Head(status=200, headers=[(b"Transfer-Encoding", b"Chunked")]), b"abcde", True, 4.0)

    def test_a_body_without_length_ends_with_the_connection(self) -> None:
        assert read(OK + b"\r\nabc", b"def") == (Head(status=200, headers=[]), b"abcdef", False, 0.0)
        assert read(OK + b"\r\nabc", b"def", closed=True) == (Head(status=200, headers=[]), b"abcdef", True, 0.0)

    @pytest.mark.parametrize(
        "framing", [b"Content-Length: 4\r\n\r\nabc", b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"]
    )
    def test_an_announced_body_that_is_cut_off_is_not_whole(self, framing: bytes) -> None:
        outcome = read(OK + framing, closed=True)
        assert not isinstance(outcome, str)
        assert outcome[1:] == (b"abc", False, 0.0 if b"Length" in framing else 4.0) or not outcome[2]

    @pytest.mark.parametrize("status", [100, 102, 103, 104, 199])
    def test_heads_before_the_final_one_are_skipped_with_their_headers(self, status: int) -> None:
        first = b"HTTP/1.1 %d Wait\r\nLink: </a>\r\n\r\n" % status
        final = OK + b"Content-Length: 1\r\n\r\na"
        assert read(first + first + final) == (Head(status=200, headers=[(b"Content-Length", b"1")]), b"a", True, 4.0)

    @pytest.mark.parametrize("status", [204, 304])
    @pytest.mark.parametrize("header", [b"", b"Content-Length: 0\r\n"])
    def test_an_answer_that_has_no_body_by_its_status_is_whole_with_its_head(self, status: int, header: bytes) -> None:
        assert is_kept(b"HTTP/1.1 %d x\r\n%b\r\n" % (status, header))

    def test_an_answer_to_head_is_whole_with_its_head_and_its_connection_is_given_up(self) -> None:
        for framing in (b"", b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n"):
            for tail in (b"", b"abc", b"3\r\nabc\r\n0\r\n\r\n", OK + b"Content-Length: 0\r\n\r\n"):
                outcome = read(OK + framing + b"\r\n" + tail, to_head=True, closed=True)
                assert outcome == (Head(status=200, headers=_headers(framing)), b"", True, 0.0)


AFTER = [b"\r\n", b"\n", b"\r", b" ", b"x", b"\r\n\r\n", b"0\r\n\r\n", b"\0", OK + b"Content-Length: 4\r\n\r\nevil"]
WHOLE = [
    OK + b"Content-Length: 0\r\n\r\n",
    OK + b"Content-Length: 4\r\n\r\nab\r\n",
    OK + b"Connection: close\r\nContent-Length: 3\r\n\r\nabc",
    OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\na: b\r\n\r\n",
    b"HTTP/1.1 204 x\r\n\r\n",
    b"HTTP/1.1 304 x\r\nContent-Length: 9\r\n\r\n",
]


class TestKeepingConnections:
    """How long the connection may be kept after an answer."""

    @pytest.mark.parametrize(
        ("value", "seconds"),
        [
            (b"timeout=60", 4.0),
            (b"timeout=5", 4.0),
            (b"timeout=3, max=100", 2.0),
            (b"max=100,Timeout=2", 1.0),
            (b"timeout=1", 0.0),
            (b"timeout=0", 0.0),
            (b"timeout=999999999999", 4.0),
            (b"timeout", 4.0),
            (b"x-timeout=2", 4.0),
        ],
    )
    def test_a_connection_is_kept_for_a_second_less_than_the_upstream_keeps_it(
        self, value: bytes, seconds: float
    ) -> None:
        outcome = read(OK + b"Keep-Alive: %b\r\nContent-Length: 0\r\n\r\n" % value)
        assert outcome[3:] == (seconds,)

    @pytest.mark.parametrize(
        "said",
        [
            b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n",
            OK + b"Connection: close\r\nContent-Length: 0\r\n\r\n",
            OK + b"Connection: keep-alive, Close\r\nContent-Length: 0\r\n\r\n",
            OK + b"Connection: keep-alive\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 204 x\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"HTTP/1.1 304 x\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"HTTP/1.1 204 x\r\nContent-Length: 3\r\n\r\n",
        ],
    )
    def test_a_connection_is_not_kept_after_an_answer_that_says_so_or_is_in_doubt(self, said: bytes) -> None:
        assert not is_kept(said)

    @pytest.mark.parametrize("after", AFTER)
    @pytest.mark.parametrize("said", WHOLE)
    def test_what_follows_an_answer_is_no_part_of_it_and_costs_the_connection(self, said: bytes, after: bytes) -> None:
        alone = read(said)
        for cut in range(len(said) - 12, len(said) + len(after)):
            told = said + after
            followed = read(told[:cut], told[cut:])
            assert followed[:3] == alone[:3]
            assert followed[3:] == (0.0,), cut


class TestNoAnswers:
    """Bytes that are no answer."""

    @pytest.mark.parametrize(
        "said",
        [
            # RFC 9112, section 6: a length that can be read in two ways
            OK + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n",
            OK + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
            OK + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\n",
            OK + b"Content-Length: 3\r\ncontent-length: 4\r\n\r\n",
            *(
                OK + b"Content-Length: %b\r\n\r\n" % n
                for n in (b"3, 3", b"+3", b"-3", b"0x3", b"3 3", b"", b"3;", b"9" * 20)
            ),
            *(
                OK + b"Transfer-Encoding: %b\r\n\r\n" % coding
                for coding in (
                    b"gzip",
                    b"gzip, chunked",
                    b"chunked, gzip",
                    b"identity",
                    b"chunked, chunked",
                    b"xchunked",
                )
            ),
            OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
            OK + b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n",
            OK + b"Transfer-Encoding:\r\n\r\n",
            b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            # section 2.2: line ends
            b"HTTP/1.1 200 OK\nA: b\n\n",
            b"HTTP/1.1 200 OK\r\nA: b\n\r\n",
            b"HTTP/1.1 200 OK\r\nA: b\r\n\n",
            b"HTTP/1.1 200 OK\rA: b\r\n\r\n",
            OK + b"A: b\rc\r\n\r\n",
            # section 5: fields
            OK + b"A: b\r\n c\r\n\r\n",
            OK + b"A: b\r\n\tc\r\n\r\n",
            OK + b" A: b\r\n\r\n",
            OK + b"A : b\r\n\r\n",
            OK + b"A b: c\r\n\r\n",
            OK + b": b\r\n\r\n",
            OK + b"A\r\n\r\n",
            OK + b"A: b\0c\r\n\r\n",
            OK + b"A: b\x01c\r\n\r\n",
            # section 7.1: chunks
            *(
                OK + b"Transfer-Encoding: chunked\r\n\r\n" + chunks
                for chunks in (
                    *(
                        b"3 \r\nabc\r\n",
                        b"3\nabc\n",
                        b"3\r\nabcd\r\n",
                        b"3\r\nabc\n",
                        b"g\r\n",
                        b"-1\r\n",
                        b"0x3\r\nabc\r\n",
                    ),
                    *(
                        b"\r\n",
                        b"3\rabc",
                        b"fffffffffffffffff\r\n",
                        b"3;a=b\nabc\r\n",
                        b"0\r\n x: y\r\n\r\n",
                        b"0\r\nx\r\n\r\n",
                    ),
                )
            ),
            # section 4, and RFC 9110, section 15
            *(b"HTTP/1.1 %b x\r\nContent-Length: 0\r\n\r\n" % n for n in (b"101", b"099", b"000", b"600", b"999")),
            *(b"HTTP/1.1 %b x\r\nContent-Length: 0\r\n\r\n" % n for n in (b"20", b"2000", b"-20", b"2x0", b"")),
            b"HTTP/1.1 101 x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
            *(
                b"HTTP/%b 200 x\r\nContent-Length: 0\r\n\r\n" % v
                for v in (b"0.9", b"2.0", b"1.2", b"2", b"1", b"11.1", b"1.10")
            ),
            *(
                b"%b 200 x\r\nContent-Length: 0\r\n\r\n" % v
                for v in (b"http/1.1", b"RTSP/1.0", b"ICE/1.0", b"ICY", b"HTTPS/1.1")
            ),
            *(b + OK + b"\r\n" for b in (b"\r\n", b"\n", b" ", b"\0", b"\xef\xbb\xbf")),
            b"SSH-2.0-OpenSSH_9.2\r\n",
            b"\x15\x03\x01\x00\x02\x02\x16",
            b"<html></html>",
            # bodies that a status cannot have
            b"HTTP/1.1 100 x\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 103 x\r\nContent-Length: 3\r\n\r\nabc",
            b"HTTP/1.1 104 x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            b"HTTP/1.1 100 x\r\n\r\nSSH-2.0\r\n",
            b"HTTP/1.1 100 x\r\nConnection: close\r\n\r\n" + OK + b"\r\n",
        ],
    )
    def test_what_is_no_http_or_is_ambiguous_is_refused_wherever_it_is_cut(self, said: bytes) -> None:
        for pieces in ([said], [said[:20], said[20:]], [bytes([byte]) for byte in said]):
            assert isinstance(read(*filter(None, pieces)), str), pieces

    def test_a_head_may_have_its_limit_and_not_a_byte_more_wherever_it_is_cut(self) -> None:
        frame = len(OK + b"A: \r\n\r\n")
        fits = OK + b"A: %b\r\n\r\n" % (b"x" * (MAX_HEAD - frame))
        large = OK + b"A: %b\r\n\r\n" % (b"x" * (MAX_HEAD - frame + 1))
        for cut in (1, 20, MAX_HEAD - 2, MAX_HEAD - 1):
            assert isinstance(read(fits[:cut], fits[cut:] + b"body" * 1000), tuple)
            assert (
                read(large[:cut], large[cut:] + b"body") == "the head of the upstream's answer is larger than 400 bytes"
            )
        assert isinstance(read(fits), tuple)
        assert read(large) == "the head of the upstream's answer is larger than 400 bytes"

    def test_heads_before_the_final_one_share_the_limit(self) -> None:
        first = b"HTTP/1.1 100 Continue\r\n\r\n"
        assert read(first * 100) == "the head of the upstream's answer is larger than 400 bytes"
        assert read(*[first] * 100) == "the head of the upstream's answer is larger than 400 bytes"

    @pytest.mark.parametrize("endless", [b"1;" + b"x" * 100, b"0\r\nA: " + b"x" * 100, b"0\r\n" + b"A: b\r\n" * 20])
    def test_what_comes_between_parts_of_a_body_has_a_limit(self, endless: bytes) -> None:
        start = OK + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n"
        more = endless[-100:] if b"x" in endless else b"A: b\r\n" * 20
        said = read(start, endless, *[more] * 4)
        assert said == "more than 400 bytes came between two parts of the upstream's answer"

    @pytest.mark.parametrize("before", [b"", b"HTTP/1.1 103 \r\n" + b"a:\r\n" * 100 + b"\r\n"])
    def test_an_answer_has_at_most_500_header_lines_interim_heads_included(self, before: bytes) -> None:
        allowed = 500 - before.count(b"a:")
        head = OK + b"Content-Length: 0\r\n"
        assert isinstance(read(before + head + b"a:\r\n" * (allowed - 1) + b"\r\n", max_head=4096), tuple)
        refused = "the upstream's answer has more than 500 header lines"
        assert read(before + head + b"a:\r\n" * allowed + b"\r\n", max_head=4096) == refused

    def test_small_parts_of_a_large_body_do_not_add_up_to_the_limit(self) -> None:
        outcome = read(OK + b"Transfer-Encoding: chunked\r\n\r\n", *[b"1\r\na\r\n"] * 1000, b"0\r\n\r\n")
        assert outcome[1:3] == (b"a" * 1000, True)


TOKENS = st.text("abcXYZ-_1", min_size=1, max_size=6).map(lambda text: b"x" + text.encode())
VALUES = st.lists(st.sampled_from([b"a", b" ", b"\xff", b"\t", b":", b"\x80", b"=1,"]), max_size=4).map(b"".join)
HEADERS = st.lists(st.tuples(TOKENS, VALUES), max_size=3)
BODIES = st.lists(st.sampled_from([b"a", b"\r", b"\n", b"\0", b"\r\n0\r\n\r\n", b"HTTP/1.1 ", OK]), max_size=5)


def _lines(headers: Headers) -> bytes:
    return b"".join(b"%b: %b\r\n" % pair for pair in headers)


@st.composite
def answers(draw: st.DrawFn) -> tuple[bytes, Head, bytes]:
    """An answer's bytes, its head and its body."""
    early = draw(st.lists(st.tuples(st.sampled_from([100, 102, 103, 110]), HEADERS), max_size=2))
    status = draw(st.sampled_from([200, 201, 204, 304, 401, 503, 599]))
    headers, parts = draw(HEADERS), draw(BODIES)
    framing = draw(st.sampled_from(["length", "chunked", "close"])) if status not in (204, 304) else "none"
    said = b"".join(b"HTTP/1.1 %d x\r\n%b\r\n" % (number, _lines(more)) for number, more in early)
    body = said_body = b"".join(parts)
    if framing == "length":
        headers = [*headers, (b"Content-Length", b"%d" % len(body))]
    elif framing == "chunked":
        headers = [(b"transfer-encoding", b"chunked"), *headers]
        chunks = b"".join(b"%X\r\n%b\r\n" % (len(part), part) for part in parts)
        said_body = chunks + b"0\r\n" + _lines(draw(HEADERS)) + b"\r\n"
    said += b"HTTP/1.1 %d some reason\r\n%b\r\n" % (status, _lines(headers))
    said += b"" if framing == "none" else said_body
    kept = [(name, value.strip(b" \t")) for name, value in headers]
    return said, Head(status=status, headers=kept), b"" if framing == "none" else body


def cut(said: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted({place % (len(said) + 1) for place in places}), len(said)]
    return [said[start:end] for start, end in pairwise(edges) if start < end]


PLACES = st.lists(st.integers(0, 2000), max_size=12)


class TestCutAnswers:
    """Answers that are cut anywhere."""

    @given(answers(), PLACES)
    def test_an_answer_that_is_cut_anywhere_is_what_it_is_in_one_piece(
        self, answer: tuple[bytes, Head, bytes], places: list[int]
    ) -> None:
        said, head, body = answer
        outcome = read(*cut(said, places), closed=True, max_head=2000)
        assert outcome == read(said, closed=True, max_head=2000)
        assert outcome[:3] == (head, body, True)

    @given(
        answers(),
        st.lists(st.tuples(st.integers(0, 2000), st.binary(max_size=3), st.integers(0, 3)), max_size=3),
        PLACES,
    )
    @example((OK + b"\r\n", Head(status=200, headers=[]), b""), [], [])
    def test_a_spoilt_answer_that_is_cut_anywhere_is_what_it_is_in_one_piece(
        self, answer: tuple[bytes, Head, bytes], changes: list[tuple[int, bytes, int]], places: list[int]
    ) -> None:
        said = answer[0]
        for place, put, removed in changes:
            place %= len(said)
            said = said[:place] + put + said[place + removed :] or b"H"
        together, apart = read(said, closed=True), read(*cut(said, places), closed=True)
        assert (isinstance(together, str) and isinstance(apart, str)) or together == apart


async def parts() -> AsyncIterator[bytes]:
    yield b"abc"


def request_of(
    method: bytes, target: bytes, headers: Headers, body: bytes | AsyncIterator[bytes] | None = None
) -> Request:
    return Request(Outline(method, target, headers), body)


def sent(request: Request) -> bytes:
    return b"".join(request.pieces)


class TestRequests:
    """How a request is written."""

    def test_a_request_goes_out_as_it_is_given(self) -> None:
        request = request_of(b"GET", b"/a?b=%zz", [(b"Host", b"a"), (b"X-Y", b"\xff")])
        assert sent(request) == b"GET /a?b=%zz HTTP/1.1\r\nHost: a\r\nX-Y: \xff\r\n\r\n"
        assert request.is_sent
        assert request.parts is None
        assert sent(request_of(b"GET", b"/%b", [(b"X-%b%", b"%d")])) == b"GET /%b HTTP/1.1\r\nX-%b%: %d\r\n\r\n"

    def test_an_outline_serves_one_request_after_the_other(self) -> None:
        outline = Outline(b"POST", b"/", [(b"Host", b"a")])
        head = b"POST / HTTP/1.1\r\nHost: a\r\n"

        assert sent(Request(outline, b"abc")) == head + b"Content-Length: 3\r\n\r\nabc"
        assert sent(Request(outline, b"")) == head + b"Content-Length: 0\r\n\r\n"
        assert sent(Request(outline)) == head + b"\r\n"

    @pytest.mark.parametrize("headers", [[], [(b"content-length", b"3")]])
    def test_whole_bytes_are_sent_with_their_length(self, headers: Headers) -> None:
        request = request_of(b"POST", b"/", headers, b"abc")
        assert sent(request).lower() == b"post / http/1.1\r\ncontent-length: 3\r\n\r\nabc"
        assert request.is_sent

    def test_an_empty_body_has_the_length_0_and_no_body_has_none(self) -> None:
        assert sent(request_of(b"POST", b"/", [], b"")) == b"POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n"
        assert sent(request_of(b"POST", b"/", [])) == b"POST / HTTP/1.1\r\n\r\n"
        assert sent(request_of(b"POST", b"/", [(b"Content-Length", b"0")])) == sent(request_of(b"POST", b"/", [], b""))

    def test_parts_without_length_are_chunks_and_an_empty_part_does_not_end_them(self) -> None:
        request = request_of(b"POST", b"/", [], parts())
        assert sent(request) == b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
        assert b"".join([*request.frame(b"abc" * 4), *request.frame(b"")]) == b"c\r\nabcabcabcabc\r\n"
        assert not request.is_sent
        assert b"".join(request.last()) == b"0\r\n\r\n"
        assert request.is_sent

    def test_parts_with_a_length_are_counted(self) -> None:
        request = request_of(b"POST", b"/", [(b"Content-Length", b"5")], parts())
        assert request.frame(b"abc") == (b"abc",)
        assert not request.is_sent
        with pytest.raises(ValueError, match="shorter"):
            request.last()
        assert request.frame(b"de") == (b"de",)
        assert request.last() == ()
        assert bool(request.is_sent)
        with pytest.raises(ValueError, match="longer"):
            request.frame(b"f")

    @pytest.mark.parametrize(
        ("method", "target", "headers", "body"),
        [
            (b"GET", b"/\r\nA: b", [], None),
            (b"GET /", b"/", [], None),
            (b"CONNECT", b"a:80", [], None),
            (b"", b"/", [], None),
            (b"GET", b"", [], None),
            (b"GET", b"/", [(b"a:b", b"c")], None),
            (b"GET", b"/", [(b"a ", b"b")], None),
            (b"GET", b"/", [(b"\xe9", b"b")], None),
            (b"GET", b"/", [(b"", b"b")], None),
            (b"GET", b"/ HTTP/1.1", [], None),
            (b"GET", b"/\0", [], None),
            (b"GET", b"/", [(b"a", b"b\r\nc: d")], None),
            (b"GET", b"/", [(b"a", b"b\nc: d")], None),
            (b"GET", b"/", [(b"a", b"b\rc: d")], None),
            (b"GET", b"/", [(b"a", b"\0")], None),
            (b"GET", b"/", [(b"a", b"b"), (b" c", b"d")], None),
            (b"GET", b"/", [(b"a", b"b"), (b"\tc", b"d")], None),
            (b"POST", b"/", [(b"Content-Length", b"4")], b"abc"),
            (b"POST", b"/", [(b"Content-Length", b"2")], b"abc"),
            (b"POST", b"/", [(b"Content-Length", b"1")], None),
            (b"POST", b"/", [(b"Content-Length", b"3"), (b"content-length", b"3")], b"abc"),
            (b"POST", b"/", [(b"Content-Length", b"+3")], b"abc"),
            (b"POST", b"/", [(b"Content-Length", b"")], b"abc"),
            (b"POST", b"/", [(b"Transfer-Encoding", b"chunked")], b"abc"),
        ],
    )
    def test_what_would_not_be_one_request_is_refused(
        self, method: bytes, target: bytes, headers: Headers, body: bytes | None
    ) -> None:
        with pytest.raises(ValueError, match="request"):
            request_of(method, target, headers, body)
