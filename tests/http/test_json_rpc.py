"""Which method a JSON-RPC message calls, wherever its body is cut."""

import json

import hypothesis.strategies as st
import pytest
from hypothesis import given

from otel_sessions._http.json_rpc import calls

NAMES = st.sampled_from(["method", "params", "id", "m\u00e9thode", 'quoted "method"', "back\\slash"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.sampled_from(["initialize", "tools/list"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)
MESSAGES = st.dictionaries(NAMES, VALUES, max_size=5)


@pytest.mark.parametrize(
    ("start", "told"),
    [
        (b'{"jsonrpc":"2.0","method":"initialize"', True),
        (b' {\n "method" : "initialize" ,', True),
        (b'{"\\u006dethod":"initi\\u0061lize",', True),
        (b'{"method":"tools/list","id":1', False),
        (b'{"params":{"method":"initialize"},"method":"tools/list"', False),
        (b'{"params":{"method":"initialize"},', None),
        (b'{"params":[{"method":"initialize"}],', None),
        (b'{"params":"\\"method\\":\\"initialize\\"",', None),
        (b'{"params":"the end is not here \\"method\\":\\"initialize\\",', None),
        (b'{"params":"method","x":"initialize",', None),
        (b'{"method":"initi', None),
        (b'{"meth\\od":"initialize",', None),  # no such escape
        (b'{"method":', None),
        (b'{"method":{"method":"initialize"},', False),
        (b'[{"method":"tools/list"},', None),
        (b'"method"', None),
        (b"", None),
    ],
)
def test_the_start_of_a_message_tells_only_what_it_says_at_its_top(start: bytes, told: bool | None) -> None:
    assert calls(start, "initialize", complete=False) is told


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b'{"method":"initialize"}', True),
        (b'[{"method":"ping"},{"method":"initialize"}]', True),
        (b'{"client_name":"x"}', False),
        (b'{"params":{"method":"initialize"}}', False),
        (b"initialize", False),
        (b'["initialize"]', False),
        (b"[" * 100_000, False),
        (b"\xff\xfe", False),
        (b"", False),
        (b'{"method":"initialize",}', True),  # no JSON, but a lenient app reads it
        (b'{"id":' + b"9" * 5000 + b',"method":"initialize"}', True),  # more digits than Python converts
    ],
)
def test_a_whole_body_tells_for_certain(body: bytes, told: bool) -> None:
    assert calls(body, "initialize", complete=True) is told


@given(message=MESSAGES, cut=st.integers(min_value=0), escaped=st.booleans())
def test_the_start_of_a_message_never_says_the_opposite_of_the_whole(
    message: dict[str, object], cut: int, escaped: bool
) -> None:
    body = json.dumps(message, ensure_ascii=escaped).encode()
    start = body[: cut % (len(body) + 1)]

    whole = calls(body, "initialize", complete=True)

    assert whole is (message.get("method") == "initialize")
    assert calls(start, "initialize", complete=False) in (whole, None)


@given(st.binary(max_size=200), st.booleans())
def test_no_bytes_are_too_much_for_it(start: bytes, complete: bool) -> None:
    assert calls(start, "initialize", complete=complete) in (True, False, None)
