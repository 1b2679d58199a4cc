"""The outline of a request in which lines have another value is the outline that is made anew."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_sessions._http.requests import Headers, Outline

HEADERS: Headers = [(b"Host", b"h"), (b"Trace", b"a"), (b"Cookie", b"a"), (b"Content-Length", b"3"), (b"Via", b"a")]
names = st.sampled_from([b"Host", b"Trace", b"Cookie", b"Content-Length", b"Via", b"X"])
values = st.one_of(st.sampled_from([b"", b"a", b"3", b"h\r\nTrace: a", b"\n", b"\0"]), st.binary(max_size=3))
Changes = dict[tuple[bytes, bytes], tuple[bytes, bytes]]


def outline(headers: Headers) -> tuple[bytes, int | None, bool, bool]:
    return seen(Outline(b"PUT", b"/", headers))


def seen(made: Outline) -> tuple[bytes, int | None, bool, bool]:
    return made.lines, made.length, made.is_head, made.is_idempotent


@given(
    st.lists(st.tuples(names, values), max_size=6), st.dictionaries(st.sampled_from(HEADERS), st.tuples(names, values))
)
def test_an_outline_with_other_values_is_that_of_the_other_headers(more: Headers, changes: Changes) -> None:
    headers = [*HEADERS, *more]
    try:
        made = Outline(b"PUT", b"/", headers)
    except ValueError:
        return

    changed = made.changed(changes)

    if changed is not None:
        assert seen(changed) == outline([changes.get(pair, pair) for pair in headers])


def test_lines_that_stand_there_once_can_have_another_value() -> None:
    changed = Outline(b"PUT", b"/", HEADERS).changed(
        {(b"Trace", b"a"): (b"Trace", b"b"), (b"Via", b"a"): (b"Via", b"")}
    )

    assert changed is not None
    assert seen(changed) == outline([HEADERS[0], (b"Trace", b"b"), *HEADERS[2:4], (b"Via", b"")])


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({(b"Trace", b"b"): (b"Trace", b"c")}, id="no such line"),
        pytest.param({(b"Trace", b"a"): (b"trace", b"c")}, id="another name"),
        pytest.param({(b"Cookie", b"a"): (b"Cookie", b"b")}, id="a line that stands there twice"),
        pytest.param({(b"Same", b"a"): (b"Same", b"b")}, id="a line that stands there twice in a row"),
        pytest.param({(b"Trace", b"a"): (b"Trace", b"b\r\nX: c")}, id="two lines"),
        pytest.param({(b"Content-Length", b"3"): (b"Content-Length", b"4")}, id="the length"),
    ],
)
def test_an_outline_is_made_anew_where_the_change_is_more_than_a_value(change: Changes) -> None:
    assert Outline(b"PUT", b"/", [*HEADERS, (b"Cookie", b"a"), *[(b"Same", b"a")] * 2]).changed(change) is None
