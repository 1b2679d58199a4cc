"""What the proxy makes of the addresses of its clients, and of the proxies in front."""

from typing import Any

import pytest

from otel_sessions._http.addresses import read_network
from otel_sessions.proxy.headers import Trust, scheme_of, towards_upstream
from otel_sessions.proxy.rules import Rules, Timeouts

TRUST = Trust(networks=(read_network("10.0.0.0/8"), read_network("2001:db8:ffff::/48"), read_network("fe80::/10")))


def scope(sender: str | None, **said: str) -> dict[str, Any]:
    headers = [(name.replace("_", "-").encode(), value.encode()) for name, value in said.items()]
    client = None if sender is None else (sender, 1111)
    return {"type": "http", "scheme": "http", "client": client, "headers": [(b"host", b"h"), *headers]}


def told(scope: dict[str, Any], name: bytes, trust: Trust = TRUST) -> list[str]:
    """Return what the upstream is told under a name."""
    return [value.decode() for found, value in towards_upstream(scope, trust, None) if found == name]


@pytest.mark.parametrize(
    ("sender", "element"),
    [
        ("10.0.0.5", "for=10.0.0.5"),
        ("10.0.0.5:2222", "for=10.0.0.5"),
        ("::ffff:10.0.0.5", "for=10.0.0.5"),
        ("2001:db8:ffff::5", 'for="[2001:db8:ffff::5]"'),
        ("fe80::1%eth0", 'for="[fe80::1]"'),
    ],
)
def test_the_proxys_own_element_of_forwarded_is_an_address_as_rfc_7239_writes_it(sender: str, element: str) -> None:
    assert told(scope(sender, forwarded="for=203.0.113.7"), b"forwarded") == ["for=203.0.113.7", element]


@pytest.mark.parametrize(
    ("sender", "chain"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("2001:db8::7", "2001:db8::7"),
        ("10.0.0.5", "198.51.100.1:80, 10.0.0.5"),
        ("::ffff:10.0.0.5", "198.51.100.1:80, 10.0.0.5"),
        (None, "unknown"),
        ("", "unknown"),
        ("testclient", "unknown"),
    ],
)
def test_the_upstream_is_told_the_address_of_the_sender_and_what_a_trusted_one_said(
    sender: str | None, chain: str
) -> None:
    assert told(scope(sender, x_forwarded_for="198.51.100.1:80"), b"x-forwarded-for") == [chain]


@pytest.mark.parametrize("sender", ["10.0.0.5:2222", "::ffff:10.0.0.5", "[2001:db8:ffff::5]:2222", "fe80::1%eth0"])
def test_a_trusted_hop_is_trusted_however_its_address_is_written(sender: str) -> None:
    asked = scope(sender, x_forwarded_for="203.0.113.7:1111", x_forwarded_proto="https")

    assert TRUST.client(asked) == "203.0.113.7"
    assert TRUST.sent(asked)
    assert scheme_of(asked, TRUST) == "https"


@pytest.mark.parametrize("sender", [None, "", "testclient", "203.0.113.7", "2001:db8::7"])
def test_the_word_of_nobody_else_is_taken(sender: str | None) -> None:
    asked = scope(sender, x_forwarded_for="198.51.100.1", x_forwarded_proto="https", forwarded="for=198.51.100.1")

    assert TRUST.client(asked) in (None, "203.0.113.7", "2001:db8::/64")
    assert not TRUST.sent(asked)
    assert scheme_of(asked, TRUST) == "http"
    assert told(asked, b"forwarded") == []


def test_neighbours_of_an_ipv6_client_are_the_same_client() -> None:
    assert TRUST.client(scope("2001:db8::7")) == TRUST.client(scope("2001:db8::8:1:2:3")) == "2001:db8::/64"
    assert TRUST.client(scope("2001:db8:0:1::7")) == "2001:db8:0:1::/64"


@pytest.mark.parametrize("mark", ["_", ".", "~", "!"])
@pytest.mark.parametrize("sender", ["203.0.113.7", "10.0.0.5"])
def test_no_header_passes_that_an_upstream_may_read_as_a_proxys_word(mark: str, sender: str) -> None:
    trust = Trust(networks=TRUST.networks, words=frozenset({b"x-user"}))
    names = [
        name.replace("-", mark).encode() for name in ("x-forwarded-for", "x-real-ip", "x-user", "x-forwarded-host")
    ]
    asked = scope(sender)
    asked["headers"] += [(name, b"forged") for name in names]

    passed = dict(towards_upstream(asked, trust, None))

    assert b"forged" not in passed.values()


@pytest.mark.parametrize("name", [b"mcp-protocol-version", b"x-user"])
@pytest.mark.parametrize("mark", [b"_", b"."])
def test_a_header_that_decides_is_refused_by_its_name_in_another_spelling(name: bytes, mark: bytes) -> None:
    timeouts = Timeouts(connect_timeout=1, idle_timeout=1)
    rules = Rules(trust=Trust(words=frozenset({b"x-user"})), timeouts=timeouts)
    asked = {**scope("10.0.0.5"), "path": "/mcp"}
    assert rules.refusal(asked) is None
    asked["headers"].append((name.replace(b"-", mark), b"1"))

    refused = rules.refusal(asked)

    assert refused is not None
    assert refused[0] == 400
    assert refused[1].startswith(f"the header {name.decode()} is repeated, ")


def over_unix(**said: str) -> dict[str, Any]:
    return {**scope(None, **said), "server": ("/run/proxy.sock", None)}


def over_tcp(**said: str) -> dict[str, Any]:
    """A peer that has left so early that the system names it no more."""
    return {**scope(None, **said), "server": ("127.0.0.1", 8080)}


UNIX = Trust(unix=True, networks=(read_network("10.0.0.0/8"),))


class TestUnixSockets:
    """Whoever connects over a Unix socket has no address."""

    @pytest.mark.parametrize(
        ("entries", "client"),
        [
            ("203.0.113.7", "203.0.113.7"),
            ("203.0.113.7, 10.0.0.5", "203.0.113.7"),
            ("203.0.113.7, 198.51.100.1", "198.51.100.1"),
            ("10.0.0.5", "10.0.0.5"),
            ("203.0.113.7, unknown", None),
            ("", None),
        ],
    )
    def test_a_client_behind_a_trusted_proxy_on_a_unix_socket_has_its_address(
        self, entries: str, client: str | None
    ) -> None:
        assert UNIX.client(over_unix(x_forwarded_for=entries)) == client
        assert TRUST.client(over_unix(x_forwarded_for=entries)) is None
        assert UNIX.client(over_tcp(x_forwarded_for=entries)) is None

    @pytest.mark.parametrize(
        ("entries", "chain"),
        [("203.0.113.7, 10.0.0.5", "203.0.113.7, 10.0.0.5"), ("unknown", "unknown"), ("", "unknown")],
    )
    def test_a_trusted_proxy_on_a_unix_socket_adds_nothing_to_the_addresses(self, entries: str, chain: str) -> None:
        assert told(over_unix(x_forwarded_for=entries), b"x-forwarded-for", UNIX) == [chain]
        assert told(over_unix(x_forwarded_for=entries), b"x-forwarded-for") == ["unknown"]
        assert told(over_tcp(x_forwarded_for=entries), b"x-forwarded-for", UNIX) == ["unknown"]

    def test_only_a_trusted_proxy_on_a_unix_socket_says_the_scheme_and_the_owner(self) -> None:
        asked = {"x_forwarded_proto": "https", "x_user": "ada"}
        trust = Trust(unix=True, words=frozenset({b"x-user"}))

        assert scheme_of(over_unix(**asked), trust) == "https"
        assert scheme_of(over_tcp(**asked), trust) == "http"
        assert told(over_unix(**asked), b"x-user", trust) == ["ada"]
        assert told(over_tcp(**asked), b"x-user", trust) == []
        assert told(over_unix(**asked, forwarded="for=203.0.113.7"), b"forwarded", trust) == [
            "for=203.0.113.7",
            "for=unknown",
        ]
