"""Where a server is, as a setting says it: what stands for a Unix socket, and what is no address."""

from pathlib import Path

import pytest

from otel_sessions._core.options import NotTaken
from otel_sessions._program.arguments import LISTENER, PLAIN_ADDRESS_OR_OFF, SERVER

NO_HOSTS = ["a b", "a..b", "a" * 64, "ä" * 80, "[v1.x y]", 'a"b']


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:80", ("127.0.0.1", 80)),
        ("[::]:0", ("::", 0)),
        ("unix:/run/a", Path("/run/a")),
        ("unix:8080", Path("8080")),
    ],
)
def test_a_listener_is_a_host_and_a_port_or_a_path(text: str, address: object) -> None:
    assert LISTENER.take_text(text) == address


@pytest.mark.parametrize(
    "text", ["unix:", "unix: ", "unix:/a\0b", "::1", "8080", "h:99999", "/run/a", *(f"{host}:80" for host in NO_HOSTS)]
)
def test_what_is_no_listener_is_refused(text: str) -> None:
    with pytest.raises(NotTaken, match=r"^takes (HOST:PORT or unix:PATH|a path after unix:)"):
        LISTENER.take_text(text)


@pytest.mark.parametrize("text", ["unix:/run/a", "unix:", "http://127.0.0.1:80", "https://h:1"])
def test_an_address_without_tls_and_unix_sockets_says_so(text: str) -> None:
    with pytest.raises(NotTaken, match="no Unix socket for it, and TLS belongs in front of it"):
        PLAIN_ADDRESS_OR_OFF.take_text(text)
    assert PLAIN_ADDRESS_OR_OFF.take_text("127.0.0.1:80") == ("127.0.0.1", 80)
    assert PLAIN_ADDRESS_OR_OFF.take_text("off") is None


@pytest.mark.parametrize("text", ["http://h:1/base", "https://h", "unix:/run/a"])
def test_a_server_is_a_url_or_a_path(text: str) -> None:
    assert SERVER.take_text(text) == text


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("unix:", "takes a path after unix:"),
        ("/run/a", "takes a URL that starts with http:// or https://, or unix:PATH"),
        ("http+unix://a", "takes a URL that starts with http:// or https://, or unix:PATH"),
        ("http://ada:secret@h", "takes a URL with only a scheme, a host, a port and a path, or unix:PATH"),
        *(
            (f"http://{host}", "takes a URL with only a scheme, a host, a port and a path, or unix:PATH")
            for host in NO_HOSTS
        ),
    ],
)
def test_what_is_no_server_is_refused_without_repeating_it(text: str, says: str) -> None:
    with pytest.raises(NotTaken, match=f"^{says}$"):
        SERVER.take_text(text)
