"""What is an address, and whose request came through which proxies."""

import pickle
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from otel_sessions import ConfigError
from otel_sessions._http.addresses import client_name, is_address, is_host, read_address, read_network
from otel_sessions.asgi import client_address

PROXIES = ["10.0.0.0/8", "2001:db8:ffff::/48"]
PORTS = st.integers(0, 65535)
ZONES = st.text("abcdefghijklmnopqrstuvwxyz0123456789._-", min_size=1, max_size=15)
BLANKS = st.text(" \t", max_size=3)


class TestOneAddress:
    """How one address is read."""

    @pytest.mark.parametrize(
        ("text", "address"),
        [
            ("203.0.113.7", "203.0.113.7"),
            ("203.0.113.7:1111", "203.0.113.7"),
            ("203.0.113.7:0", "203.0.113.7"),
            (" 203.0.113.7\t", "203.0.113.7"),
            ("2001:db8::7", "2001:db8::7"),
            ("2001:DB8:0:0::7", "2001:db8::7"),
            ("[2001:db8::7]", "2001:db8::7"),
            ("[2001:db8::7]:1111", "2001:db8::7"),
            ("fe80::1%eth0", "fe80::1"),
            ("[fe80::1%eth0]:80", "fe80::1"),
            ("::ffff:203.0.113.7", "203.0.113.7"),
            ("::ffff:cb00:7107", "203.0.113.7"),
            ("[::FFFF:203.0.113.7]:1111", "203.0.113.7"),
            ("::ffff:203.0.113.7:1111", "203.0.113.7"),
            ("64:ff9b::203.0.113.7:1111", "64:ff9b::203.0.113.7"),
            ("fe80::203.0.113.7%eth0:1111", "fe80::203.0.113.7"),
            ("::1", "::1"),
        ],
    )
    def test_an_address_is_read_in_every_way_in_which_it_is_written(self, text: str, address: str) -> None:
        assert read_address(text) == ip_address(address)
        assert is_address(text)

    @pytest.mark.parametrize(
        "text",
        [
            *("", " ", "unknown", "_hidden", "testclient", "example.org:80", "/run/app.sock", "@"),
            *("203.0.113", "203.0.113.256", "010.0.0.1", "203.0.113.7:", "203.0.113.7:65536", "203.0.113.7:-1"),
            *("203.0.113.7:8o", "203.0.113.7:٣", "٣.0.113.7", "203.0.113.7%eth0", "203.0.113.7 10.0.0.1", "1:2"),
            *(
                "[203.0.113.7]",
                "[203.0.113.7]:80",
                "[2001:db8::7",
                "2001:db8::7]",
                "[2001:db8::7]1111",
                "[2001:db8::7]:",
            ),
            *("[2001:db8::7]:65536", "[[2001:db8::7]]", "[]", "[]:1", "2001:db8::7::", "fe80::1%", "fe80::1%a%b"),
            *("203.0.113.7\x00", '"203.0.113.7"', "for=203.0.113.7", "0x7f.1", "2130706433"),
        ],
    )
    def test_what_is_no_address_is_none(self, text: str) -> None:
        assert read_address(text) is None
        assert not is_address(text)

    @pytest.mark.parametrize(
        ("text", "is_one"),
        [
            ("203.0.113.0/24", True),
            ("203.0.113.7/32", True),
            ("203.0.113.7/33", False),
            ("2001:db8::/64", True),
            ("fe80::1%eth0/64", True),
            ("::ffff:203.0.113.7/128", True),
            ("2001:db8::/129", False),
            ("203.0.113.7/", False),
            ("203.0.113.7/255.255.255.0", False),
            ("203.0.113.7:80/24", False),
            ("/24", False),
            ("ada/24", False),
        ],
    )
    def test_an_address_may_have_the_length_of_a_prefix(self, text: str, *, is_one: bool) -> None:
        assert is_address(text) is is_one

    @given(address=st.ip_addresses(v=4), port=PORTS, blank=BLANKS)
    def test_an_ipv4_address_comes_back_however_it_is_written(
        self, address: IPv4Address, port: int, blank: str
    ) -> None:
        for text in (f"{address}", f"{address}:{port}", f"::ffff:{address}", f"[::ffff:{address}]:{port}"):
            assert read_address(f"{blank}{text}{blank}") == address

    @given(address=st.ip_addresses(v=6), port=PORTS, zone=ZONES, blank=BLANKS)
    def test_an_ipv6_address_comes_back_however_it_is_written(
        self, address: IPv6Address, port: int, zone: str, blank: str
    ) -> None:
        for text in (
            f"{address}",
            f"{address.exploded}",
            f"[{address}]:{port}",
            f"{address}%{zone}",
            f"[{address}%{zone}]",
        ):
            assert read_address(f"{blank}{text}{blank}") == (address.ipv4_mapped or address)

    @given(text=st.text() | st.text("0123456789abcdef:.[]%/ ", max_size=50))
    @example("%")
    @example("[%]:")
    def test_no_text_is_too_strange_to_be_read(self, text: str) -> None:
        address = read_address(text)

        assert address is None or is_address(text)
        assert address is None or read_address(str(address)) == address

    @given(address=st.ip_addresses())
    def test_the_name_of_a_client_is_its_ipv4_address_or_its_64(self, address: IPv4Address | IPv6Address) -> None:
        name = client_name(address)
        network = ip_network(name)

        assert address in network
        assert network.prefixlen == (64 if isinstance(network, IPv6Network) else 32)
        assert is_address(name)


class TestNetworks:
    """How a network is read."""

    @pytest.mark.parametrize(
        ("text", "network"),
        [
            (" 10.0.0.0/8 ", "10.0.0.0/8"),
            ("10.0.0.5", "10.0.0.5/32"),
            ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
            ("::ffff:10.0.0.5", "10.0.0.5/32"),
            ("::ffff:0:0/96", "0.0.0.0/0"),
            ("2001:db8::/32", "2001:db8::/32"),
            ("2001:db8::7", "2001:db8::7/128"),
            ("::/0", "::/0"),
        ],
    )
    def test_a_network_of_mapped_addresses_is_the_ipv4_network(self, text: str, network: str) -> None:
        assert read_network(text) == ip_network(network)


def whose(sender: object, *forwarded: str, trusted: list[str] = PROXIES) -> str | None:
    """Return the client of a request that `sender` has brought, with these `X-Forwarded-For` headers."""
    headers = [(b"x-forwarded-for", line.encode("latin-1")) for line in forwarded]
    scope: dict[str, Any] = {"type": "http", "client": sender, "headers": headers}
    return client_address(trusted=trusted)(scope)


class TestClientsOfRequests:
    """Which client a request belongs to."""

    @pytest.mark.parametrize(
        ("sender", "forwarded", "client"),
        [
            # without a proxy
            (("203.0.113.7", 1111), [], "203.0.113.7"),
            (["203.0.113.7", 1111], [], "203.0.113.7"),
            (("::ffff:203.0.113.7", 1111, 0, 0), [], "203.0.113.7"),
            (("2001:db8::7", 1111), [], "2001:db8::/64"),
            (("2001:db8:1:2:3:4:5:6%eth0", 1111), [], "2001:db8:1:2::/64"),
            (("203.0.113.7", 1111), ["198.51.100.1"], "203.0.113.7"),
            # through one
            (("10.0.0.5", 1111), ["203.0.113.7"], "203.0.113.7"),
            (("10.0.0.5:2222", 0), ["203.0.113.7:1111"], "203.0.113.7"),
            (("::ffff:10.0.0.5", 1111), ["::ffff:203.0.113.7"], "203.0.113.7"),
            (("2001:db8:ffff::5%eth0", 1111), ["[2001:db8::7]:1111"], "2001:db8::/64"),
            (("10.0.0.5", 1111), ["198.51.100.1, 203.0.113.7"], "203.0.113.7"),
            (("10.0.0.5", 1111), ["198.51.100.1", "203.0.113.7"], "203.0.113.7"),
            # through several
            (("10.0.0.5", 1111), ["203.0.113.7, 10.1.1.1:3333"], "203.0.113.7"),
            (("10.0.0.5", 1111), ["198.51.100.1, 203.0.113.7,  [::ffff:10.1.1.1]:80 ,2001:db8:ffff::1"], "203.0.113.7"),
            # all trusted, or no word of a client
            (("10.0.0.5", 1111), ["10.2.2.2, 10.1.1.1"], "10.2.2.2"),
            (("10.0.0.5", 1111), [], "10.0.0.5"),
            (("10.0.0.5", 1111), ["", " , "], "10.0.0.5"),
            (("10.0.0.5", 1111), ["unknown"], "10.0.0.5"),
            (("10.0.0.5", 1111), ["203.0.113.7, garbage, 10.1.1.1"], "10.1.1.1"),
            (("10.0.0.5", 1111), ["203.0.113.7, 10.1.1.1:99999"], "10.0.0.5"),
            # no address
            (None, [], None),
            (None, ["203.0.113.7"], None),
            (("", 0), ["203.0.113.7"], None),
            ((), ["203.0.113.7"], None),
            (("/run/app.sock", None), ["203.0.113.7"], None),
            (("testclient", 50000), ["203.0.113.7"], None),
        ],
    )
    def test_the_client_is_the_last_address_on_the_way_that_is_not_trusted(
        self, sender: object, forwarded: list[str], client: str | None
    ) -> None:
        assert whose(sender, *forwarded) == client

    def test_without_trusted_proxies_nobodys_word_is_taken(self) -> None:
        scope: dict[str, Any] = {"client": ("127.0.0.1", 1), "headers": [(b"x-forwarded-for", b"203.0.113.7")]}

        assert client_address()(scope) == "127.0.0.1"

    def test_a_scope_without_a_client_has_no_address(self) -> None:
        assert client_address(trusted=PROXIES)({"headers": [(b"x-forwarded-for", b"203.0.113.7")]}) is None

    @given(said=st.lists(st.text(st.characters(codec="latin-1")), max_size=5))
    def test_whatever_a_client_says_its_proxy_has_the_last_word(self, said: list[str]) -> None:
        assert whose(("10.0.0.5", 1), *said, "203.0.113.7") == "203.0.113.7"

    @given(said=st.lists(st.text(st.characters(codec="latin-1")), max_size=5))
    def test_whatever_a_proxy_passes_on_the_client_is_an_address(self, said: list[str]) -> None:
        client = whose(("10.0.0.5", 1), *said)

        assert client is not None
        assert is_address(client)

    @pytest.mark.parametrize(
        "wrong",
        ["everybody", "", "10.0.0.0/33", "10.0.0.1/8", "10.0.0.5:80", "[::1]", "fe80::1%eth0", "fe80::%eth0/10"],
    )
    def test_a_wrong_network_is_named(self, wrong: str) -> None:
        with pytest.raises(ConfigError) as error:
            client_address(trusted=["10.0.0.0/8", wrong])

        assert repr(wrong) in str(error.value)

    @pytest.mark.parametrize("wrong", ["10.0.0.0/8", [ip_network("10.0.0.0/8")], [10]])
    def test_networks_are_a_list_of_texts(self, wrong: Any) -> None:
        with pytest.raises(ConfigError, match="trusted takes"):
            client_address(trusted=wrong)

    def test_the_way_to_name_a_client_is_a_value(self) -> None:
        one, same, other = (client_address(trusted=trusted) for trusted in (PROXIES, [*PROXIES], []))

        assert one == same != other
        assert hash(one) == hash(same)
        assert pickle.loads(pickle.dumps(one)) == one  # noqa: S301  # made here


class TestHosts:
    """At which hosts a server can be."""

    @pytest.mark.parametrize(
        "text",
        [
            *("h", "127.0.0.1", "::1", "::", "2001:db8::1", "fe80::1%eth0", "gateway", "a.b.c", "a.b.", "my_app_1"),
            *("xn--bcher-kva.example", "bücher.example", "a" * 63, ".".join(["a" * 63] * 3)),
        ],
    )
    def test_addresses_and_names_are_hosts(self, text: str) -> None:
        assert is_host(text)

    @pytest.mark.parametrize(
        "text",
        [
            *("", ".", "a..b", ".a", "a b", "a\tb", "a\0b", 'a"b', "a/b", "a@b", "*", "[::1]", "::g", "1:2", "a:80"),
            *("a" * 64, "ä" * 80, "ä..b", ".".join(["a" * 63] * 5), "a" * 100_000, "\ud800"),
        ],
        ids=lambda text: repr(text)[:30],
    )
    def test_what_no_server_can_have_is_no_host(self, text: str) -> None:
        assert not is_host(text)
