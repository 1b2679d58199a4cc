"""An answer that repeats a known head is what the parser makes of it, or is left to the parser."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from otel_sessions._http.messages import Answer, BadAnswer, Head, Known

OK = b"HTTP/1.1 200 OK\r\nServer: test\r\n"
GOOD = OK + b"Content-Length: 3\r\n\r\nabc"
Outcome = tuple[Head | None, bytes, bool, float] | str

LINES = [
    *(b"Content-Length: 0", b"Content-Length: 3", b"Content-Length: 03", b"Transfer-Encoding: chunked", b"X: y", b"X:"),
    *(b"Connection: close", b"Keep-Alive: timeout=3", b"Keep-Alive: timeout=1", b" folded", b"Bad name: 1"),
]
BODIES = [b"", b"a", b"abc", b"abcd", b"\r\n\r", b"\r\n\r\n", b"3\r\nabc\r\n0\r\n\r\n", GOOD]
STARTS = [b"HTTP/1.1 %d x\r\n" % status for status in (200, 204, 304, 404)] + [
    b"HTTP/1.0 200 OK\r\n",
    b"RTSP/1.0 200 x\r\n",
]
answers = st.builds(
    lambda interim, start, lines, body: interim + start + b"".join(b"%b\r\n" % line for line in lines) + b"\r\n" + body,
    st.sampled_from([b"", b"", b"", b"HTTP/1.1 103 x\r\n\r\n"]),
    st.sampled_from(STARTS),
    st.lists(st.sampled_from(LINES), max_size=3),
    st.sampled_from(BODIES),
)


def an_answer(*, to_head: bool = False, max_head: int = 400, seal: bytes = b"") -> Answer:
    return Answer(to_head=to_head, max_head=max_head, seal=seal)


def parsed(
    data: bytes, *, to_head: bool = False, max_head: int = 400, seal: bytes = b""
) -> tuple[Outcome, Known | None]:
    answer = an_answer(to_head=to_head, max_head=max_head, seal=seal)
    try:
        answer.feed(data)
    except BadAnswer as error:
        return str(error), None
    known = answer.known_by(data)
    return (answer.head, answer.take(), answer.whole, answer.kept_seconds), known


def known_from(data: bytes, seal: bytes = b"") -> Known:
    known = parsed(data, seal=seal)[1]
    assert known is not None
    return known


@given(answers, answers, st.booleans(), st.sampled_from([40, 400]))
@example(GOOD, GOOD, False, 400)
@example(GOOD, GOOD, True, 400)
@example(GOOD, GOOD, False, 40)
@example(GOOD, GOOD + b"\r\n", False, 400)
def test_a_repeated_answer_is_what_the_parser_makes_of_it(first: bytes, then: bytes, to_head: bool, room: int) -> None:
    known = parsed(first)[1]
    for data in (first, then):
        answer = an_answer(to_head=to_head, max_head=room)
        if known is not None and answer.repeats(data, known):
            taken = answer.head, answer.take(), answer.whole, answer.kept_seconds
            assert taken == parsed(data, to_head=to_head, max_head=room)[0]


def test_only_the_body_of_an_answer_with_a_known_head_may_differ() -> None:
    known, answer = known_from(GOOD), an_answer()

    assert answer.repeats(GOOD.replace(b"abc", b"xyz"), known)

    assert answer.head is known.head
    assert (answer.take(), answer.whole, answer.kept_seconds) == (b"xyz", True, 4.0)


def test_an_answer_without_a_body_repeats_its_head_too() -> None:
    empty = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    known, answer = known_from(empty), an_answer()

    assert answer.repeats(empty, known)

    assert (answer.head, answer.take(), answer.whole) == (known.head, b"", True)


@pytest.mark.parametrize("body", [b"", b"ab", b"abcd", b"abc\r\n"])
def test_a_known_head_with_a_body_of_another_length_is_left_to_the_parser(body: bytes) -> None:
    answer = an_answer()

    assert not answer.repeats(GOOD[:-3] + body, known_from(GOOD))

    assert answer.head is None
    assert not answer.begun


def test_an_answer_that_has_begun_is_left_to_the_parser() -> None:
    answer = an_answer()
    answer.feed(GOOD[:10])

    assert not answer.repeats(GOOD, known_from(GOOD))


@pytest.mark.parametrize(("to_head", "room"), [(True, 400), (False, 40)], ids=["to HEAD", "with a head too large"])
def test_an_answer_to_head_or_with_a_head_too_large_is_left_to_the_parser(to_head: bool, room: int) -> None:
    assert not an_answer(to_head=to_head, max_head=room).repeats(GOOD, known_from(GOOD))


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(GOOD + b"x", id="more came behind it"),
        pytest.param(GOOD[:-1], id="it is not whole"),
        pytest.param(OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", id="it is chunked"),
        pytest.param(OK + b"Content-Length: 03\r\n\r\nabc", id="its length is written otherwise"),
        pytest.param(OK + b"Connection: close\r\nContent-Length: 3\r\n\r\nabc", id="its connection ends"),
        pytest.param(b"HTTP/1.1 103 x\r\n\r\n" + GOOD, id="another head came before it"),
        pytest.param(OK + b"X: %b\r\nContent-Length: 3\r\n\r\nabc" % (b"x" * 2048), id="it is large"),
        pytest.param(b"HTTP/1.1 304 x\r\nContent-Length: 3\r\n\r\n", id="its length is of another answer"),
    ],
)
def test_nothing_is_remembered_of_an_answer_that_may_be_read_otherwise(data: bytes) -> None:
    assert parsed(data, max_head=4000)[1] is None


def seal(word: bytes) -> bytes:
    return b"Seal: %b\r\n\r\n" % word


def sealed(word: bytes, answer: bytes = GOOD) -> bytes:
    """Return an answer whose head ends with a line of its own."""
    head, _, body = answer.partition(b"\r\n\r\n")
    return head + b"\r\n" + seal(word) + body


@given(answers, answers, st.sampled_from([b"one", b"two"]), st.booleans(), st.sampled_from([60, 400]))
@example(GOOD, GOOD, b"two", False, 400)
@example(GOOD, GOOD, b"two", True, 400)
@example(GOOD, GOOD, b"two", False, 60)
def test_a_sealed_answer_is_what_the_parser_makes_of_it_but_for_its_seal(
    first: bytes, then: bytes, word: bytes, to_head: bool, room: int
) -> None:
    known = parsed(sealed(b"one", first), seal=seal(b"one"))[1]
    for data in (sealed(word, then), then, sealed(b"three", then)):
        answer = an_answer(to_head=to_head, max_head=room, seal=seal(word))
        if known is not None and answer.repeats(data, known):
            assert answer.is_sealed
            outcome = parsed(data, to_head=to_head, max_head=room)[0]
            assert isinstance(outcome, tuple)
            assert outcome[1:] == (answer.take(), answer.whole, answer.kept_seconds)
            assert answer.head is not None
            assert outcome[0] == Head(status=answer.head.status, headers=[*answer.head.headers, (b"Seal", word)])


def test_answers_with_the_same_head_but_for_their_seals_have_one_head() -> None:
    known, answer = known_from(sealed(b"one"), seal(b"one")), an_answer(seal=seal(b"two"))

    assert answer.repeats(sealed(b"two"), known)

    assert answer.is_sealed
    assert answer.head is known.head
    assert answer.head.headers == [(b"Server", b"test"), (b"Content-Length", b"3")]


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        pytest.param(sealed(b"two"), b"one", id="it has another seal"),
        pytest.param(sealed(b"one"), b"", id="no seal is expected"),
        pytest.param(GOOD, b"one", id="it has no seal"),
        pytest.param(sealed(b"one").replace(b"Server: test", b"Server: else"), b"one", id="its head differs"),
    ],
)
def test_an_answer_without_the_seal_that_is_expected_is_left_to_the_parser(data: bytes, wanted: bytes) -> None:
    answer = an_answer(seal=seal(wanted) if wanted else b"")

    assert not answer.repeats(data, known_from(sealed(b"one"), seal(b"one")))

    assert not answer.is_sealed


def test_a_sealed_answer_does_not_repeat_a_head_that_is_known_as_a_whole() -> None:
    assert not an_answer(seal=seal(b"one")).repeats(sealed(b"one"), known_from(GOOD))
    assert not an_answer(seal=seal(b"one")).repeats(sealed(b"one"), known_from(sealed(b"one")))


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(GOOD, id="no seal"),
        pytest.param(sealed(b"two"), id="another seal"),
        pytest.param(sealed(b"one", sealed(b"two")), id="two seals"),
        pytest.param(sealed(b"one").replace(b"Server: test", b"seal: x"), id="a seal under another spelling"),
        pytest.param(sealed(b"one").replace(b"\r\nSeal", b"\r\nX-Seal"), id="a line that ends like the seal"),
    ],
)
def test_nothing_is_remembered_of_an_answer_without_exactly_its_seal(data: bytes) -> None:
    assert parsed(data, seal=seal(b"one"))[1] is None
