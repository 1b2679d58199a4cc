"""How the head of an answer goes out: written once for a head that is repeated, and for each client as it can read."""

import pytest

from otel_sessions.asgi._repeated import RepeatedAnswer
from otel_sessions.proxy.outgoing import Asked, outgoing

USUAL = Asked(to_head=False, version="1.1", may_go_on=True)
HEADERS = [(b"content-type", b"text/plain"), (b"content-length", b"2")]


def test_a_repeated_head_is_written_once() -> None:
    headers = RepeatedAnswer(HEADERS)
    assert outgoing(200, headers, USUAL) is outgoing(200, headers, USUAL)


@pytest.mark.parametrize("status", [200, 204, 304, 404])
@pytest.mark.parametrize("headers", [HEADERS, [], [(b"connection", b"close")]], ids=["sized", "bare", "closing"])
def test_a_repeated_head_goes_out_as_one_that_is_not_remembered(
    status: int, headers: list[tuple[bytes, bytes]]
) -> None:
    kept = RepeatedAnswer(headers)
    for to_head in (False, True):
        for version in ("1.0", "1.1"):
            for may_go_on in (False, True):
                asked = Asked(to_head, version, may_go_on)
                assert outgoing(status, kept, asked) == outgoing(status, headers, asked)


@pytest.mark.parametrize("headers", [[(b"a", b"b\r\nc: d")], [(b"a b", b"")], [(b"a", b"b\nc")]])
def test_a_head_that_reads_as_another_one_is_refused_each_time(headers: list[tuple[bytes, bytes]]) -> None:
    kept = RepeatedAnswer(headers)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="malformed"):
            outgoing(200, kept, USUAL)
