"""Cookies: which values a request names, what of them the app sees, and what browsers are told."""

from http.cookies import SimpleCookie

import hypothesis.strategies as st
import pytest
from hypothesis import given

from otel_sessions import ConfigError
from otel_sessions._http import cookies
from otel_sessions.matchers import CookieMatcher, Match, Opens
from tests.exchanges import http

NAME = b"otel-session"
EVIL = b"evil"


def lines(*values: bytes) -> list[tuple[bytes, bytes]]:
    return [(b"cookie", value) for value in values]


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        (lines(b"otel-session=stale; otel-session=live"), [b"stale", b"live"]),
        (lines(b"a=1; otel-session=s ;b=2"), [b"s"]),
        (lines(b"otel-session = s"), [b"s"]),
        (lines(b"a=1; otel-session=", b"otel-session=s"), [b"s"]),
        (lines(b"\xa0otel-session=s"), []),
        (lines(b"Otel-Session=s"), []),
        (lines(b"x-otel-session=s; otel-session-x=s"), []),
        (lines(b"otel-session"), []),
        (lines(b"a=otel-session=s"), []),
        ([(b"x-cookie", b"otel-session=s")], []),
    ],
)
def test_every_value_under_exactly_this_name_is_found(headers: list[tuple[bytes, bytes]], found: list[bytes]) -> None:
    assert cookies.values(headers, NAME) == found


SMUGGLED = [
    b"\xa0otel-session=evil",
    b"otel-session\xa0=evil",
    b"\xc2\xa0otel-session=evil",
    b"\xe2\x80\x83otel-session=evil",
    b"\x0botel-session=evil",
    b"\x00otel-session=evil",
    b'"otel-session"=evil',
    b"OTEL-SESSION=evil",
    b"otel%2dsession=evil",
    b"%6ftel-session=evil",
    b"a=1, otel-session=evil",
    b"a=b otel-session=evil",
    b"a=b\totel-session=evil",
    b'a="x" otel-session=evil',
    b"otel-session=evil",
    b"otel-session = evil",
    b"otel-session",
    b'a="x; otel-session=evil"',
]


@pytest.mark.parametrize("pair", SMUGGLED)
@pytest.mark.parametrize("behind", [False, True])
def test_no_spelling_of_the_name_brings_a_second_value_to_the_app(pair: bytes, behind: bool) -> None:
    own = b"otel-session=s"
    line = b"; ".join([b"b=2", own, pair] if behind else [b"b=2", pair, own])

    kept = cookies.only(lines(line), NAME, b"s")

    text = b"; ".join(value for _, value in kept)
    assert EVIL not in text
    assert text.lower().count(b"otel-session") == 1
    assert b"b=2" in text


@pytest.mark.parametrize("pair", SMUGGLED)
def test_a_request_in_no_session_brings_no_value_at_all(pair: bytes) -> None:
    assert EVIL not in b"".join(value for _, value in cookies.only(lines(b"b=2", pair), NAME, None))


PHP = [b"otel.session", b"otel session", b"otel[session", b"otel+session", b"otel%2esession", b"OTEL.Session"]
"""Names that PHP reads as `otel_session`, or that one version of it does."""


@pytest.mark.parametrize("name", [b"otel_session", b"otel.session"])
@pytest.mark.parametrize("other", [*PHP, b"otel_session", b"otel_session[a]", b" otel_session", b"otel.session[a"])
def test_no_spelling_that_php_reads_alike_brings_a_second_value_to_the_app(name: bytes, other: bytes) -> None:
    kept = cookies.only(lines(b"b=2; %s=evil" % other, b"%s=s" % name), name, b"s")

    assert kept == lines(b"b=2; %s=s" % name)
    assert cookies.only(lines(b"b=2; %s=evil" % other), name, None) == lines(b"b=2")


@pytest.mark.parametrize("other", [b"otelsession", b"otel-session", b"otel__session", b"otel_session_", b"otel"])
def test_cookies_that_no_server_takes_for_ours_stay(other: bytes) -> None:
    line = b"%s=1" % other

    assert cookies.only(lines(line), b"otel_session", None) == lines(line)
    assert cookies.only(lines(line), b"otel_session", b"s") == lines(b"%s; otel_session=s" % line)


@pytest.mark.parametrize("other", PHP)
def test_only_the_cookie_of_exactly_this_name_says_which_session(other: bytes) -> None:
    scope = {**http(), "headers": lines(b"%s=live" % other)}

    assert CookieMatcher("otel_session").match(scope) == Match(opens=Opens.YES)


def test_headers_that_are_right_already_stay_as_they_are() -> None:
    headers = [(b"host", b"h"), *lines(b"a=1; otel-session=s; b=2")]

    assert cookies.only(headers, NAME, b"s") is headers
    assert cookies.only(headers, b"other", None) is headers


def test_other_cookies_keep_their_order_and_their_text() -> None:
    headers = [*lines(b'a="1, 2";b=%20; otel-session=x'), (b"host", b"h"), *lines(b"c")]

    assert cookies.only(headers, NAME, None) == [(b"host", b"h"), (b"cookie", b'a="1, 2"; b=%20; c')]
    assert cookies.only(lines(b"otel-session=x"), NAME, None) == []
    assert cookies.only([], NAME, b"s") == lines(b"otel-session=s")


@given(st.lists(st.sampled_from([*SMUGGLED, b"a=1", b"b=2; c=3", b"otel-session=s"]), max_size=5), st.booleans())
def test_whatever_a_client_sends_python_reads_only_the_sessions_own_id(sent: list[bytes], in_session: bool) -> None:
    kept = cookies.only(lines(*sent), NAME, b"s" if in_session else None)

    read = [
        part.partition("=")[2].strip()
        for _, value in kept
        for part in value.decode("latin-1").split(";")
        if part.partition("=")[0].strip() == "otel-session"  # as Starlette's parser strips
    ]
    assert read == (["s"] if in_session else [])


@given(st.lists(st.sampled_from([*SMUGGLED, b"a=1", b"b=2; c=3", b"otel-session=s"]), max_size=5))
def test_whatever_a_client_sends_pythons_own_parser_reads_no_other_id(sent: list[bytes]) -> None:
    read = SimpleCookie()
    for _, value in cookies.only(lines(*sent), NAME, b"s"):
        read.load(value.decode("latin-1"))

    assert "otel-session" not in read or read["otel-session"].value == "s"


@given(st.binary(max_size=40).filter(lambda text: b"otel" not in text.lower() and b"%" not in text))
def test_removing_is_done_once_and_for_all(line: bytes) -> None:
    once = cookies.only(lines(line, b"otel-session=x"), NAME, b"s")

    assert cookies.only(once, NAME, b"s") is once
    assert cookies.values(once, NAME) == [b"s"]


def test_a_matcher_names_every_value_once() -> None:
    scope = http(cookie="otel-session=stale; otel-session=live; otel-session=stale")

    assert CookieMatcher().match(scope) == Match(session_ids=("stale", "live"), opens=Opens.YES)


class TestWhatBrowsersAreTold:
    """What browsers are told in Set-Cookie."""

    @pytest.mark.parametrize(
        ("matcher", "said"),
        [
            (CookieMatcher(), "otel-session=s; Path=/; HttpOnly; SameSite=Lax"),
            (CookieMatcher(max_age=60), "otel-session=s; Path=/; Max-Age=60; HttpOnly; SameSite=Lax"),
            (
                CookieMatcher("a", domain="example.org", path="/app", same_site="Strict"),
                "a=s; Path=/app; Domain=example.org; HttpOnly; SameSite=Strict",
            ),
            (CookieMatcher("__Host-id"), "__Host-id=s; Path=/; HttpOnly; SameSite=Lax; Secure"),
            (CookieMatcher("__secure-id", path="/x"), "__secure-id=s; Path=/x; HttpOnly; SameSite=Lax; Secure"),
            (CookieMatcher(same_site="None"), "otel-session=s; Path=/; HttpOnly; SameSite=None; Secure"),
            (
                CookieMatcher(partitioned=True),
                "otel-session=s; Path=/; HttpOnly; SameSite=Lax; Partitioned; Secure",
            ),
        ],
    )
    def test_a_cookie_has_what_was_asked_for_and_what_browsers_need(self, matcher: CookieMatcher, said: str) -> None:
        headers = matcher.announce("s", http(scheme="http"), [])

        assert headers == [(b"set-cookie", said.encode())]
        SimpleCookie().load(said)

    def test_what_the_app_sets_under_that_name_is_replaced(self) -> None:
        said = [(b"Set-Cookie", b"otel-session=app; Path=/x"), (b"set-cookie", b"otel-session-2=b")]

        headers = CookieMatcher().announce("s", http(), said)

        assert [value.partition(b";")[0] for _, value in headers] == [b"otel-session-2=b", b"otel-session=s"]

    @pytest.mark.parametrize(
        ("settings", "says"),
        [
            ({"name": "__Host-id", "secure": False}, "secure=False does not go with a name that begins with __Host-"),
            ({"name": "__SECURE-id", "secure": False}, "secure=False does not go with a name"),
            ({"same_site": "None", "secure": False}, "secure=False does not go with same_site='None'"),
            ({"partitioned": True, "secure": False}, "secure=False does not go with partitioned=True"),
            ({"name": "__Host-id", "path": "/app"}, "__Host- takes path='/' and no domain"),
            ({"name": "__host-id", "domain": "example.org"}, "__Host- takes path='/' and no domain"),
            ({"same_site": "lax"}, "same_site takes Lax, Strict or None, not 'lax'"),
            ({"name": "a b"}, "the name of a cookie takes"),
            ({"name": ""}, "the name of a cookie takes"),
            ({"name": "a=b"}, "the name of a cookie takes"),
            ({"path": "app"}, "path takes a path that begins with /"),
            ({"path": "/; Domain=evil"}, "path takes a path that begins with /"),
            ({"path": "/\r\n"}, "path takes a path that begins with /"),
            ({"domain": "example.org; Path=/"}, "domain takes a host's name"),
            ({"domain": ""}, "domain takes a host's name"),
            ({"domain": "-a.org"}, "domain takes a host's name"),
            ({"domain": "1.2.3.4"}, "domain takes a host's name"),
            ({"domain": ".10.0.0.1"}, "domain takes a host's name"),
            ({"domain": "127.1"}, "domain takes a host's name"),
            ({"domain": "::1"}, "domain takes a host's name"),
            ({"domain": "a" * 64 + ".org"}, "domain takes a host's name"),
            ({"domain": ".".join(["a" * 60] * 5)}, "domain takes a host's name"),
            ({"domain": b"example.org"}, "domain takes a host's name"),
            ({"secure": "no"}, "secure takes True or False or None, not 'no'"),
            ({"secure": 0}, "secure takes True or False or None, not 0"),
            ({"partitioned": "no"}, "partitioned takes True or False, not 'no'"),
            ({"partitioned": None}, "partitioned takes True or False, not None"),
            ({"name": "a" * 3841}, "the name of a cookie takes at most 3840 bytes"),
            ({"name": b"a"}, "the name of a cookie takes"),
            ({"name": None}, "the name of a cookie takes"),
            ({"name": "__Http-id", "secure": False}, "secure=False does not go with a name"),
            ({"path": "/" + "a" * 1024}, "path takes at most 1024 bytes"),
            ({"path": None}, "path takes a path that begins with /"),
            ({"same_site": None}, "same_site takes Lax, Strict or None, not None"),
            ({"max_age": "60"}, "max_age takes a whole number of seconds"),
            ({"max_age": 0}, "max_age takes a whole number of seconds"),
            ({"max_age": 1.5}, "max_age takes a whole number of seconds"),
            ({"max_age": True}, "max_age takes a whole number of seconds"),
        ],
    )
    def test_what_browsers_would_reject_is_refused_when_the_matcher_is_made(
        self, settings: dict[str, object], says: str
    ) -> None:
        with pytest.raises(ConfigError) as caught:
            CookieMatcher(**settings)  # type: ignore[arg-type]  # wrong on purpose

        assert says in str(caught.value)

    def test_a_cookie_is_sent_again_after_half_of_the_time_that_browsers_keep_it(self) -> None:
        assert CookieMatcher().renew_after is None
        assert CookieMatcher(max_age=60).renew_after == 30.0
        assert CookieMatcher(max_age=10 * 365 * 86_400).renew_after == 200 * 86_400
