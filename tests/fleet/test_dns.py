"""Peers that are known by a name in the DNS."""

import asyncio
import socket
from collections import Counter
from typing import Any

import pytest

from otel_sessions import Peer, PeerUnavailable, SessionManager
from otel_sessions.asgi import SESSION, Receive, Send, SessionLeaseMiddleware
from otel_sessions.fleet import StaticPeers
from otel_sessions.fleet.addresses import read_address
from otel_sessions.fleet.dns import Resolved
from otel_sessions.matchers import HeaderMatcher
from tests.virtual import VirtualLoop

from .apps import HOST, free_socket, served, url_of

pytestmark = pytest.mark.anyio
virtual = pytest.mark.parametrize("anyio_backend", [("asyncio", {"loop_factory": VirtualLoop})], ids=["virtual"])
real = pytest.mark.parametrize("anyio_backend", ["asyncio"])


class Network:
    """The addresses that the DNS has, and the process at each of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **names: str | None) -> None:
        self.names = {address.replace("_", "."): name for address, name in names.items()}
        self.rounds: list[float] = []
        self.asked: Counter[str] = Counter()
        self.fails = False
        self.goes_on = asyncio.Event()
        self.goes_on.set()
        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", self.resolve, raising=False)

    async def resolve(self, host: str, port: int, **_: object) -> list[Any]:
        assert host == "gateway"
        self.rounds.append(asyncio.get_running_loop().time())
        await self.goes_on.wait()
        if self.fails:
            raise socket.gaierror(socket.EAI_NONAME, "no such host")
        return [(0, 0, 0, "", (address, port)) for address in self.names]

    async def ask(self, address: str) -> str | None:
        self.asked[address] += 1
        return self.names[address.removeprefix("http://").removesuffix(":8000").strip("[]")]


def resolved(network: Network, url: str = "http://gateway:8000") -> Resolved:
    directory = Resolved(read_address(url))
    directory.open(network.ask)
    return directory


@virtual
async def test_each_address_is_asked_for_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network(monkeypatch, **{"10_0_0_1": "a", "10_0_0_2": None, "::1": "b"})
    directory = resolved(network)
    assert await directory.find("a") == Peer(name="a", address="http://10.0.0.1:8000")
    assert await directory.find("b") == Peer(name="b", address="http://[::1]:8000")
    assert len(network.rounds) == 1
    assert set(network.asked.values()) == {1}


@virtual
async def test_an_unknown_name_is_asked_for_again_at_most_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network(monkeypatch, **{"10_0_0_1": "a"})
    directory = resolved(network)
    for _ in range(3):
        assert await asyncio.gather(*(directory.find(f"forged-{number}") for number in range(50))) == [None] * 50
    first = network.rounds[0]
    assert network.rounds == [first, first + 1.0, first + 2.0]


@virtual
async def test_a_process_that_has_come_is_found_and_one_that_has_gone_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network(monkeypatch, **{"10_0_0_1": "a"})
    directory = resolved(network)
    assert await directory.find("a")
    network.names = {"10.0.0.1": "b"}
    assert await directory.find("b") == Peer(name="b", address="http://10.0.0.1:8000")
    assert await directory.find("a") is None


@virtual
async def test_too_many_that_wait_for_a_round_are_told_to_come_later(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network(monkeypatch, **{"10_0_0_1": "a"})
    network.goes_on.clear()
    directory = resolved(network)
    waiting = [asyncio.create_task(directory.find("a")) for _ in range(64)]
    await asyncio.sleep(5)
    with pytest.raises(PeerUnavailable, match="'b'"):
        await directory.find("b")
    network.goes_on.set()
    assert None not in await asyncio.gather(*waiting)


@virtual
async def test_a_host_that_is_unknown_is_logged_and_leaves_what_is_known(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    network = Network(monkeypatch, **{"10_0_0_1": "a"})
    directory = resolved(network)
    assert await directory.find("a")
    network.fails = True
    assert await directory.find("b") is None
    assert await directory.find("a")
    assert "cannot be found" in caplog.text


@virtual
async def test_one_who_waits_may_be_cancelled_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network(monkeypatch, **{"10_0_0_1": "a"})
    network.goes_on.clear()
    directory = resolved(network)
    first, second = (asyncio.create_task(directory.find("a")) for _ in range(2))
    await asyncio.sleep(1)
    first.cancel()
    await asyncio.sleep(1)
    network.goes_on.set()
    assert await second


@virtual
async def test_closing_ends_a_round_and_forgets_what_was_found(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network(monkeypatch, **{"10_0_0_1": "a"})
    directory = resolved(network)
    assert await directory.find("a")
    network.goes_on.clear()
    waiting = asyncio.create_task(directory.find("b"))
    await asyncio.sleep(5)
    directory.close()
    assert await waiting is None
    directory.close()


@virtual
async def test_of_very_many_addresses_the_first_ones_count(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    network = Network(monkeypatch, **{f"10_0_{n // 256}_{n % 256}": f"n{n}" for n in range(300)})
    directory = resolved(network)
    assert await directory.find("n255")
    assert len(network.asked) == 256
    assert "300 addresses" in caplog.text


@real
async def test_a_process_with_a_random_name_is_found_at_its_address() -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})
        assert SESSION in scope

    listener, secret = free_socket(), "a secret of the whole fleet"
    one, two = (StaticPeers(dns=url_of(listener), secret=secret) for _ in range(2))
    first, second = SessionManager(fleet=one), SessionManager(fleet=two)
    async with first, second, served(SessionLeaseMiddleware(app, first, HeaderMatcher()), listener) as url:
        session = await first.create_session()
        assert await second.locate(session.id) == Peer(name=one.name, address=f"http://{HOST}:{url.rpartition(':')[2]}")
        assert await second.locate("forged.x") is None


@real
@pytest.mark.parametrize("said", [b"", b"peer someone", b"refused"])
async def test_a_service_that_is_no_process_of_the_fleet_is_no_peer(said: bytes) -> None:
    async def other(scope: Any, receive: Receive, send: Send) -> None:
        headers = [(b"content-length", b"0"), (b"otel-sessions-fleet", said)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    async with served(other, free_socket()) as url:
        fleet = StaticPeers(dns=url, secret="a secret of the whole fleet")
        async with SessionManager(fleet=fleet) as manager:
            assert await manager.locate("someone.x") is None


@real
async def test_an_address_where_nobody_listens_is_no_peer() -> None:
    with free_socket() as nobody:
        fleet = StaticPeers(dns=url_of(nobody), secret="a secret of the whole fleet")
        async with SessionManager(fleet=fleet) as manager:
            assert await manager.locate("someone.x") is None


@virtual
async def test_a_directory_that_was_left_amid_a_round_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network(monkeypatch, **{"10_0_0_1": "a"})
    network.goes_on.clear()
    directory = resolved(network)
    waiting = asyncio.create_task(directory.find("a"))
    await asyncio.sleep(5)
    network.goes_on.set()
    directory.open(network.ask)
    assert await directory.find("a")
    assert await waiting
