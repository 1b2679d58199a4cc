"""What the proxy keeps of a client, so that it can end the client's session at the upstream."""

import sys
from http import HTTPStatus

from hypothesis import given
from hypothesis import strategies as st

from otel_sessions.proxy import Peer
from otel_sessions.proxy.peer import Marked, credentials

SHOWN = [(b"host", b"h"), (b"authorization", b"Bearer a:b"), (b"cookie", b"a=b; c=d"), (b"x-forwarded-for", b"::1")]
OF_THE_REQUEST = [(b"accept", b"*/*"), (b"content-length", b"3"), (b"traceparent", b"00-1-2-01"), (b"if-match", b"x")]

names = st.from_regex(rb"[a-z0-9!#$%&'*+.^_`|~-]{1,20}", fullmatch=True)
values = st.from_regex(rb"[\x21-\x7e\x80-\xff]([\t\x20-\x7e\x80-\xff]{0,30}[\x21-\x7e\x80-\xff])?|", fullmatch=True)


def test_what_shows_the_client_is_kept_and_what_is_about_one_request_is_not() -> None:
    assert Peer(b"/mcp", [*OF_THE_REQUEST, *SHOWN]).headers == SHOWN


def test_the_upstream_decides_which_headers_are_the_last_good_ones() -> None:
    peer = Peer(b"/mcp", SHOWN)
    for status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        peer.note([(b"authorization", b"Bearer wrong")], status)
        assert peer.headers == SHOWN
    peer.note([(b"authorization", b"Bearer new")], HTTPStatus.OK)
    assert peer.headers == [(b"authorization", b"Bearer new")]


@given(st.lists(st.tuples(names, values), max_size=20))
def test_headers_are_kept_byte_by_byte_and_in_their_order(headers: list[tuple[bytes, bytes]]) -> None:
    assert Peer(b"/mcp", headers).headers == credentials(headers)


def test_hundreds_of_tiny_headers_take_no_more_than_their_bytes() -> None:
    tiny = [(b"x-%d" % number, b"") for number in range(500)]
    peer = Peer(b"/mcp", tiny)
    kept = sum(sys.getsizeof(getattr(peer, name)) for name in ("_kept", "_mark"))
    assert kept < sum(len(name) + len(value) + 2 for name, value in tiny) + 100


def test_nothing_of_what_a_client_has_shown_is_printed() -> None:
    assert repr(Peer(b"/mcp?key=secret", SHOWN)) == "<Peer>"


CHANGES = st.dictionaries(
    st.sampled_from([*SHOWN, *OF_THE_REQUEST, (b"x-request-id", b"1")]), st.sampled_from([b"", b"other"]), max_size=3
)


@given(CHANGES)
def test_headers_with_other_values_have_the_mark_of_such_headers(values: dict[tuple[bytes, bytes], bytes]) -> None:
    changes = {(name, value): (name, other) for (name, value), other in values.items()}
    before = Marked([*OF_THE_REQUEST, *SHOWN])
    after = before.changed(changes)
    assert after == [changes.get(pair, pair) for pair in before]
    assert after.mark == Marked(after).mark
