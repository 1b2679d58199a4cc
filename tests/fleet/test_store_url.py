import pytest

from otel_sessions import ConfigError
from otel_sessions.fleet.store_url import Server, StoreUrl, parse_store_url
from otel_sessions.fleet.valkey import ValkeyStore


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("valkey://a", StoreUrl(servers=(Server(host="a", port=6379),))),
        ("redis://a:1/3", StoreUrl(servers=(Server(host="a", port=1),), database=3)),
        ("valkeys://a:1,b:2", StoreUrl(servers=(Server(host="a", port=1), Server(host="b", port=2)), tls=True)),
        ("rediss://[::1]", StoreUrl(servers=(Server(host="::1", port=6379),), tls=True)),
        ("rediss://[::1]:5", StoreUrl(servers=(Server(host="::1", port=5),), tls=True)),
        ("valkey://u:p%40%3F@a", StoreUrl(servers=(Server(host="a", port=6379),), username="u", password="p@?")),
        ("valkey://:p@a", StoreUrl(servers=(Server(host="a", port=6379),), password="p")),
        ("unix:///run/a%20b.sock", StoreUrl(path="/run/a b.sock")),
        ("unix://u:p@/run/s", StoreUrl(path="/run/s", username="u", password="p")),
    ],
)
def test_a_url_is_read_part_by_part(url: str, parts: StoreUrl) -> None:
    assert parse_store_url(url) == parts


def test_sentinels_have_a_default_port_of_their_own() -> None:
    assert parse_store_url("valkey://a", sentinel=True).servers == (Server(host="a", port=26379),)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("localhost:6379", "no scheme"),
        ("http://secret@a", "'http'"),
        ("a secret b://a", "scheme is unknown"),
        ("unix://secret@run/s", "absolute path"),
        ("valkey://u:secret?@a", "percent-encode"),
        ("valkey://u:secret#@a", "percent-encode"),
        ("valkey://u:secret@", "a host is missing"),
        ("valkey://u:secret@a,,b", "a host is missing"),
        ("valkey://u:secret@a b", "a host is missing"),
        ("valkey://u:secret@a:0", "a port"),
        ("valkey://u:secret@a:65536", "a port"),
        ("valkey://u:secret@a:x", "a port"),
        ("valkey://u:secret@a:\u0661", "a port"),
        ("valkey://u:secret@a/x", "a database"),
        ("valkey://u:secret@a:" + "1" * 5000, "a port"),
        ("valkey://u:secret@a/" + "1" * 5000, "a database"),
        ("valkey://u:secret@a/\u0661", "a database"),
        ("valkey://u:secret@a..b", "a host is missing"),
        ("valkey://u:secret@" + "\xe4" * 80, "a host is missing"),
        ("valkey://u:secret@[::g]", "a host is missing"),
    ],
)
def test_a_wrong_url_is_named_without_its_credentials(url: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why) as caught:
        parse_store_url(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "cluster", "sentinel", "why"),
    [
        ("valkey://a", True, "main", "not both"),
        ("valkey://a", False, "", "empty"),
        ("unix:///s", True, None, "no Unix socket"),
        ("unix:///s", False, "main", "no Unix socket"),
        ("valkey://a,b", False, None, "several hosts"),
        ("valkey://a/1", True, None, "database 0 only"),
    ],
)
def test_a_url_must_fit_to_the_kind_of_store(url: str, cluster: bool, sentinel: str | None, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        ValkeyStore(url, cluster=cluster, sentinel=sentinel, time_limit=1.0)


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
def test_a_time_limit_is_a_positive_number_of_seconds(seconds: float) -> None:
    with pytest.raises(ConfigError, match="time limit"):
        ValkeyStore("valkey://a", time_limit=seconds)


def test_no_representation_shows_credentials() -> None:
    url = "valkey://user:secret@a:1,[::1]:2"
    store = ValkeyStore(url, cluster=True, time_limit=1.0)
    assert repr(store) == "<ValkeyStore a:1, [::1]:2>"
    assert "secret" not in repr(parse_store_url(url))
    assert "user" not in repr(parse_store_url(url))
