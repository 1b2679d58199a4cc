"""What an upstream cannot make of another client's answer, on both loops: its bytes are written out."""

import socket
from collections.abc import Iterator

import pytest

from tests.processes import HOST
from tests.waiting import PATIENCE

from .conftest import start_proxy
from .recorder import Recorder, heard, statuses, talk

pytestmark = pytest.mark.processes

POISON = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"
AFTER = {
    "/204": b"HTTP/1.1 204 No Content\r\n\r\n",
    "/304": b"HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n",
    "/304-length": b"HTTP/1.1 304 Not Modified\r\nContent-Length: 6\r\n\r\n",
    "/length": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "/longer": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok and more",
    "/chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "/trailer": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Session-Id: evil\r\n\r\n",
    "/empty": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
}
"""Whole answers, behind each of which the upstream says more."""
NO_HTTP = {
    "/junk": b"SSH-2.0-OpenSSH_9.2\r\n",
    "/both": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "/two-lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nokk",
    "/bare-lf": b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
    "/fold": b"HTTP/1.1 200 OK\r\nX-A: b\r\n c\r\nContent-Length: 2\r\n\r\nok",
    "/gzip": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "/101": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
    "/600": b"HTTP/1.1 600 No\r\nContent-Length: 0\r\n\r\n",
    "/version": b"HTTP/3.0 200 OK\r\nContent-Length: 0\r\n\r\n",
    "/head": b"HTTP/1.1 200 OK\r\nX-A: " + b"a" * 200_000 + b"\r\n\r\n",
}
"""What is no answer, or could be read in two ways."""


@pytest.fixture(scope="module", params=["uvloop", "asyncio"])
def port(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a proxy before such an upstream."""
    upstream = Recorder({**{target: answer + POISON for target, answer in AFTER.items()}, **NO_HTTP})
    with start_proxy(tmp_path_factory.mktemp("answers"), upstream.url, "--loop", request.param) as proxy:
        yield int(proxy.url.rsplit(":", 1)[1])
    upstream.close()


def asked(port: int, target: str, method: str = "GET") -> bytes:
    """Return all that a client gets for one request."""
    return talk(port, b"%s %s HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n" % (method.encode(), target.encode()))


@pytest.mark.parametrize("target", AFTER)
@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
def test_what_comes_after_an_answer_reaches_no_client(port: int, target: str, method: str) -> None:
    first = asked(port, target, method)
    others = [asked(port, f"/next-{number}") for number in range(5)]

    assert b"poison" not in first
    assert b"evil" not in first
    assert [statuses(other) for other in others] == [[200]] * 5
    assert {other.rpartition(b"\r\n\r\n")[2] for other in others} == {b"ok"}


@pytest.mark.parametrize("target", NO_HTTP)
def test_what_is_no_http_is_answered_502_and_the_next_request_is_served(port: int, target: str) -> None:
    assert statuses(asked(port, target)) == [502]
    assert statuses(asked(port, "/next")) == [200]


Before = tuple[int, socket.socket]


@pytest.fixture(params=["uvloop", "asyncio"])
def before(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Before]:
    """The port of a proxy, and the listening socket of its upstream."""
    with socket.create_server((HOST, 0)) as upstream:
        url = f"http://{HOST}:{upstream.getsockname()[1]}"
        with start_proxy(tmp_path_factory.mktemp("before"), url, "--loop", request.param) as proxy:
            upstream.settimeout(PATIENCE)
            yield int(proxy.url.rsplit(":", 1)[1]), upstream


def test_an_answer_that_comes_before_the_body_has_ended_reaches_its_client_at_once(
    before: Before,
) -> None:
    port, upstream = before
    with socket.create_connection((HOST, port), PATIENCE) as client:
        client.sendall(b"POST /large HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 1000)
        with upstream.accept()[0] as behind:
            heard(behind, b"\r\n\r\n")
            behind.sendall(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno")

            assert statuses(heard(client, b"no")) == [401]


@pytest.mark.parametrize(("method", "status"), [(b"GET", 200), (b"DELETE", 200), (b"POST", 502)])
def test_a_request_that_meets_a_closing_connection_is_sent_once_more_if_it_may_be(
    before: Before, method: bytes, status: int
) -> None:
    port, upstream = before
    request = method + b" /x HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n"
    with socket.create_connection((HOST, port), PATIENCE) as client:
        client.sendall(b"GET /first HTTP/1.1\r\nHost: h\r\n\r\n")
        with upstream.accept()[0] as kept:
            heard(kept, b"\r\n\r\n")
            kept.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfirst")
            heard(client, b"first")
            client.sendall(request)
            heard(kept, b"\r\n\r\n")  # it has come over the kept connection, which now ends
        if status == 200:
            with upstream.accept()[0] as fresh:
                heard(fresh, b"\r\n\r\n")
                fresh.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecond")
                assert statuses(heard(client, b"second")) == [200]
        else:
            assert statuses(heard(client, b"\r\n\r\n")) == [502]


def test_where_the_upstream_knows_its_own_host_only_its_redirects_lead_back(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    answers: dict[str, bytes] = {}
    upstream = Recorder(answers)
    answers["/old"] = (
        b"HTTP/1.1 302 Found\r\nLocation: %b/new\r\nSet-Cookie: a=b; Domain=127.0.0.1\r\nContent-Length: 0\r\n\r\n"
        % upstream.url.encode()
    )
    flags = ("--rewrite-host", "--allow-host", "shop.example")
    with start_proxy(tmp_path_factory.mktemp("back"), upstream.url, *flags) as proxy:
        port = int(proxy.url.rsplit(":", 1)[1])
        said = talk(port, b"GET /old HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n")
    upstream.close()

    assert b"\r\nlocation: http://shop.example/new\r\n" in said
    assert b"\r\nset-cookie: a=b\r\n" in said
