"""What the commands say, and their exit statuses, if there is no admin API, no token, no TLS or no reader."""

import json
import os
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import trustme

from otel_sessions._steering.api import Api, Refused
from otel_sessions._steering.target import Target
from otel_sessions.cli import main
from tests.steering.conftest import Command, Served, answering

Output = pytest.CaptureFixture[str]
REFUSED = {"type": "about:blank", "title": "", "detail": "use an allowed host"}


def test_with_no_proxy_there_the_status_is_3(capsys: Output) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert main(["stats", "--admin", f"127.0.0.1:{port}"]) == 3
    assert f"http://127.0.0.1:{port}: nothing answers there (Connection refused)" in capsys.readouterr().err


def test_a_host_that_does_not_exist_has_status_3(capsys: Output) -> None:
    assert main(["stats", "--admin", "nobody.invalid:1"]) == 3
    assert "nothing answers there" in capsys.readouterr().err


def test_a_host_that_cannot_exist_has_status_2(capsys: Output) -> None:
    with pytest.raises(SystemExit) as left:
        main(["stats", "--admin", f"{'a' * 64}.invalid:1"])
    assert left.value.code == 2
    assert "takes HOST:PORT, or a URL" in capsys.readouterr().err


def test_no_token_and_a_wrong_token_have_status_4(served: Served, capsys: Output, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("wrong")
    assert main(["stats", "--admin", served.url]) == 4
    assert "it needs a token; give the token with --admin-token-file" in capsys.readouterr().err
    assert main(["stats", "--admin", served.url, "--admin-token-file", str(tmp_path / "token")]) == 4
    assert "the token is wrong; give" in capsys.readouterr().err


@pytest.mark.parametrize("status", [403, 421])
def test_a_host_that_is_not_allowed_has_status_4(status: int, capsys: Output) -> None:
    with answering((status, {}, json.dumps({**REFUSED, "status": status}).encode())) as other:
        assert main(["stats", "--admin", other.url]) == 4
    assert "use an allowed host" in capsys.readouterr().err


@pytest.mark.parametrize(
    "answer",
    [
        (200, {}, b"<h1>hello</h1>"),
        (200, {}, b"{}"),
        (200, {}, b"[]"),
        (302, {"location": "http://127.0.0.1:9/"}, b""),
        (404, {}, b'{"detail": "Not Found"}'),
        (502, {}, b"\xff"),
    ],
)
def test_another_server_is_no_admin_api(answer: tuple[int, dict[str, str], bytes], capsys: Output) -> None:
    with answering(answer) as other:
        assert main(["stats", "--admin", other.url]) == 3
    assert "this is not an admin API" in capsys.readouterr().err


@pytest.fixture
def rude() -> Iterator[str]:
    """A server that speaks no HTTP."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"220 mail.test\r\n\r\n")
                with suppress(ConnectionError):
                    while connection.recv(65536):
                        pass

        thread = threading.Thread(target=answer)
        thread.start()
        yield "{}:{}".format(*listener.getsockname())
        thread.join()


def test_what_is_no_http_is_no_admin_api(rude: str, capsys: Output) -> None:
    assert main(["stats", "--admin", rude]) == 3
    assert "the answer is no HTTP" in capsys.readouterr().err


def test_what_speaks_no_tls_is_named(rude: str, capsys: Output) -> None:
    assert main(["stats", "--admin", f"https://{rude}/admin/"]) == 3
    assert "does the API speak TLS there?" in capsys.readouterr().err


def test_a_certificate_of_an_unknown_authority_is_named(capsys: Output) -> None:
    with behind_tls(trustme.CA()) as url:
        assert main(["stats", "--admin", url]) == 3
    assert "SSL_CERT_FILE can name the certificate of its authority" in capsys.readouterr().err


class behind_tls:
    """A server that does one handshake."""

    def __init__(self, authority: trustme.CA) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(self._context)

    def __enter__(self) -> str:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._shake_hands)
        self._thread.start()
        return f"https://127.0.0.1:{self._listener.getsockname()[1]}"

    def __exit__(self, *_error: object) -> None:
        self._thread.join()
        self._listener.close()

    def _shake_hands(self) -> None:
        connection, _ = self._listener.accept()
        try:
            self._context.wrap_socket(connection, server_side=True).close()
        except OSError:
            connection.close()


def test_an_api_that_does_not_go_on_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    monkeypatch.setattr("otel_sessions._steering.api._TIMEOUT", 0.01)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert main(["stats", "--admin", "{}:{}".format(*listener.getsockname())]) == 3
    assert "no answer within 0.01 seconds" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("told", "waited"),
    [({"retry-after": "2"}, 2.0), ({"retry-after": "900"}, 5.0), ({"retry-after": "x"}, 1.0), ({}, 1.0)],
)
def test_who_asks_too_fast_waits_as_told_and_asks_again(told: dict[str, str], waited: float) -> None:
    waits: list[float] = []
    with answering((429, told, b"{}"), (200, {}, b'{"total_created": 1}')) as other:
        assert Api(Target(url=other.url), waits.append).statistics() == {"total_created": 1}
    assert waits == [waited]


def test_who_is_always_too_fast_is_refused_at_last() -> None:
    waits: list[float] = []
    body = json.dumps({**REFUSED, "status": 429, "detail": "more slowly"}).encode()
    with answering((429, {}, body)) as other, pytest.raises(Refused, match="more slowly"):
        Api(Target(url=other.url), waits.append).statistics()
    assert len(waits) == 60


def test_the_sessions_of_all_pages_are_listed(capsys: Output) -> None:
    with answering(
        (200, {}, b'{"sessions": [{"fingerprint": "a"}], "next": "1"}'),
        (200, {}, b'{"sessions": [], "next": "2"}'),
        (200, {}, b'{"sessions": [{"fingerprint": "b"}], "next": null}'),
    ) as other:
        assert main(["sessions", "--json", "--admin", other.url]) == 0
    assert [json.loads(line)["fingerprint"] for line in capsys.readouterr().out.splitlines()] == ["a", "b"]


@pytest.mark.parametrize(("error", "status"), [(BrokenPipeError(), 141), (OSError(28, "No space left"), 1)])
def test_a_stdout_that_takes_nothing_ends_the_command(
    error: OSError, status: int, command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = (tmp_path / "out").open("w")

    class Broken:
        encoding = "utf-8"

        def write(self, _text: str) -> None:
            raise error

        def fileno(self) -> int:
            return file.fileno()

    with file:
        monkeypatch.setattr("sys.stdout", Broken())
        assert command("stats") == status
        assert os.path.samestat(os.fstat(file.fileno()), Path(os.devnull).stat())


def test_ipv6_addresses_have_brackets_and_everywhere_is_loopback(capsys: Output) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert main(["stats", "--admin", f"[::]:{port}"]) == 3
    assert f"http://[::1]:{port}: nothing answers there" in capsys.readouterr().err
