"""An answer that announces a session's id is in no shared cache: DESIGN, section 7.3."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from otel_sessions._http.caching import unshared

SAID = [
    (None, b"no-store"),
    (b"", b"no-store"),
    (b"public, max-age=60", b"max-age=60, private"),
    (b"Public,S-MaxAge=10 , max-age=60", b"max-age=60, private"),
    (b"s-maxage=10", b"private"),
    (b"private", b"private"),
    (b'private="set-cookie", max-age=5', b"max-age=5, private"),
    (b'no-cache="x, public", public', b'no-cache="x, public", private'),
    (b"no-store", b"no-store, private"),
    (b"max-age=0,must-revalidate", b"max-age=0, must-revalidate, private"),
    (b"max-age=1;public", b"no-store"),
    (b"public;foo, max-age=9", b"no-store"),
]


def said(headers: list[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    return [value for key, value in headers if key.lower() == name]


@pytest.mark.parametrize(("value", "expected"), SAID)
def test_cache_control_keeps_what_a_private_cache_needs_and_no_more(value: bytes | None, expected: bytes) -> None:
    headers = [] if value is None else [(b"Cache-Control", value)]

    assert said(unshared(headers, b"cookie"), b"cache-control") == [expected]


def test_expires_alone_says_nothing() -> None:
    headers = unshared([(b"expires", b"Thu, 01 Dec 2050 16:00:00 GMT")], b"cookie")

    assert said(headers, b"cache-control") == [b"no-store"]


def test_several_lines_of_cache_control_are_read_as_one() -> None:
    headers = unshared([(b"cache-control", b"public"), (b"x", b"1"), (b"cache-control", b"max-age=9")], b"cookie")

    assert headers == [(b"x", b"1"), (b"vary", b"cookie"), (b"cache-control", b"max-age=9, private")]


@pytest.mark.parametrize(
    "name",
    [
        b"CDN-Cache-Control",
        b"Surrogate-Control",
        b"cloudflare-cdn-cache-control",
        b"X-Accel-Expires",
        b"Edge-Control",
    ],
)
def test_what_speaks_to_shared_caches_alone_is_removed(name: bytes) -> None:
    assert said(unshared([(name, b"max-age=600")], b"cookie"), name.lower()) == []


@pytest.mark.parametrize(
    ("vary", "expected"),
    [
        ([], [b"mcp-session-id"]),
        ([b"accept"], [b"accept", b"mcp-session-id"]),
        ([b"*"], [b"*"]),
        ([b"Accept, Mcp-Session-Id"], [b"Accept, Mcp-Session-Id"]),
        ([b"mcp-session-id-2"], [b"mcp-session-id-2", b"mcp-session-id"]),
    ],
)
def test_vary_names_the_header_that_carries_the_id_once(vary: list[bytes], expected: list[bytes]) -> None:
    headers = unshared([(b"Vary", value) for value in vary], b"mcp-session-id")

    assert said(headers, b"vary") == expected


@given(st.binary(max_size=60))
def test_whatever_the_app_says_no_shared_cache_may_keep_the_answer(value: bytes) -> None:
    headers = unshared([(b"cache-control", value)], b"cookie")

    (made,) = said(headers, b"cache-control")
    directives = [part.strip().partition(b"=")[0].strip().lower() for part in made.split(b",")]
    assert directives[-1] in (b"private", b"no-store")
