"""What an upstream that knows its own host only names in its answers, and what its client gets."""

import pytest

from otel_sessions.proxy.leading_back import LeadingBack

HOST, BASE = b"shop.example:8443", b"https://shop.example:8443"


def led_back(name: bytes, value: bytes, hostname: str = "inner", port: int = 9000) -> bytes:
    [(_, changed)] = LeadingBack(hostname, port)([(name, value)], "https", HOST)
    return changed


@pytest.mark.parametrize("name", [b"location", b"content-location"])
@pytest.mark.parametrize(
    ("value", "changed"),
    [
        (b"http://inner:9000/a?b#c", BASE + b"/a?b#c"),
        (b"https://inner:9000/a", BASE + b"/a"),
        (b"HTTP://INNER:9000", BASE),
        (b"//inner:9000?x", BASE + b"?x"),
        (b"/a//inner:9000/", b"/a//inner:9000/"),
        (b"a", b"a"),
        (b"", b""),
        (b"http://inner/a", b"http://inner/a"),
        (b"http://inner:90001/a", b"http://inner:90001/a"),
        (b"http://inner:9000.evil/a", b"http://inner:9000.evil/a"),
        (b"http://inner:9000@evil/a", b"http://inner:9000@evil/a"),
        (b"http://other:9000/a", b"http://other:9000/a"),
        (b"http://evil/?http://inner:9000/", b"http://evil/?http://inner:9000/"),
    ],
)
def test_a_place_at_the_upstream_becomes_a_place_at_the_proxy(name: bytes, value: bytes, changed: bytes) -> None:
    assert led_back(name, value) == changed


@pytest.mark.parametrize("value", [b"http://inner/a", b"http://inner:80/a"])
def test_a_usual_port_may_be_left_out(value: bytes) -> None:
    assert led_back(b"location", value, port=80) == BASE + b"/a"


def test_an_address_of_ipv6_is_in_brackets() -> None:
    assert led_back(b"location", b"http://[::1]:9000/a", hostname="::1") == BASE + b"/a"


@pytest.mark.parametrize(
    ("value", "changed"),
    [
        (b"a=b; Domain=inner; Path=/", b"a=b; Path=/"),
        (b"a=b;domain=.INNER", b"a=b"),
        (b"a=b; Domain = inner ; Secure", b"a=b; Secure"),
        (b"a=b; Domain=inner.example", b"a=b; Domain=inner.example"),
        (b"a=b; Domain=other", b"a=b; Domain=other"),
        (b"domain=inner", b"domain=inner"),
        (b"a=b; Path=/", b"a=b; Path=/"),
    ],
)
def test_a_cookie_for_the_upstreams_domain_becomes_one_for_the_host_alone(value: bytes, changed: bytes) -> None:
    assert led_back(b"set-cookie", value) == changed


def test_other_headers_stay_as_they_are() -> None:
    assert led_back(b"link", b"<http://inner:9000/a>") == b"<http://inner:9000/a>"
