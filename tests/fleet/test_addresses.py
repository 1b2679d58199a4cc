"""Names, addresses and lists of processes, as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_sessions import ConfigError, Peer
from otel_sessions._core.ids import hint_in, hinted, without_hint
from otel_sessions.fleet.addresses import Address, check_name, is_name, random_name, read_address, read_peers

NAMES = st.from_regex(r"[A-Za-z0-9_-]{1,32}", fullmatch=True)


@pytest.mark.parametrize("name", ["w1", "a", "A_b-9", "-", "x" * 32])
def test_a_name_has_letters_digits_hyphens_and_underscores(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize("name", ["", "a.b", "x" * 33, "a b", "ä", "a\n", "a;b", 'a"', None, 7])
def test_a_name_that_some_cookie_or_header_cannot_carry_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="1 to 32 letters"):
        check_name(name)


def test_a_random_name_is_a_name_and_never_the_same() -> None:
    names = {random_name() for _ in range(1000)}
    assert len(names) == 1000
    assert all(map(is_name, names))


@given(NAMES, st.text())
def test_any_id_survives_its_way_out_and_in(name: str, session_id: str) -> None:
    assert without_hint(name, hinted(name, session_id)) == session_id
    assert hint_in(hinted(name, session_id)) == name


@given(NAMES, st.text())
def test_only_the_own_hint_is_taken_off_and_only_once(name: str, session_id: str) -> None:
    assert without_hint(name, hinted(name, hinted(name, session_id))) == hinted(name, session_id)
    assert without_hint(name, hinted(name + "x", session_id)) == hinted(name + "x", session_id)


def test_an_id_without_a_hint_names_no_process() -> None:
    assert hint_in("abc") is None


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("http://10.0.0.7:9001", {"host": "10.0.0.7", "port": 9001}),
        ("http://gateway", {"host": "gateway", "port": 80}),
        ("https://gateway", {"host": "gateway", "port": 443, "is_tls": True}),
        ("https://[2001:db8::1]:9001/mcp", {"host": "2001:db8::1", "port": 9001, "is_tls": True, "path": b"/mcp"}),
        ("unix:/run/w1.sock", {"socket": "/run/w1.sock"}),
        ("unix:w1.sock", {"socket": "w1.sock"}),
    ],
)
def test_an_address_is_a_url_or_a_unix_socket(text: str, address: dict[str, object]) -> None:
    assert read_address(text) == Address(text=text, **address)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    [
        *("", "10.0.0.7:9001", "ftp://10.0.0.7", "http://", "http://x:0", "http://x:70000", "http://x:y", "unix:"),
        *("http://a b", "http://a@b", "http://a/?b", "http://a/#b", "http://[::1", "http://ä", "http://a\n"),
        *("http://a..b", "http://" + "a" * 64, 'http://a"b', "http://*"),
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"takes a URL as http://10\.0\.0\.7:9001"):
        read_address(text)


def test_a_list_has_a_process_a_line() -> None:
    peers = read_peers(["# the east", "w1=http://10.0.0.1:80", "", "  w2 = unix:/run/w2.sock  "])
    assert peers == {
        "w1": Peer(name="w1", address="http://10.0.0.1:80"),
        "w2": Peer(name="w2", address="unix:/run/w2.sock"),
    }


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("w1", "takes lines as"),
        ("w.1=http://x", "1 to 32 letters"),
        ("w1=x", "takes a URL"),
        ("w0=http://x", "'w0' is there twice"),
    ],
)
def test_a_line_that_is_wrong_is_named(line: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        read_peers(["w0=http://y", line])
