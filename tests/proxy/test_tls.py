"""TLS between a transport and a protocol, without sockets: what comes is what was sent, however it is cut."""

import asyncio
import ssl
from collections.abc import Callable
from typing import Any

import pytest
import trustme
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_sessions.proxy.tls import Secured, Tls
from tests.virtual import VirtualLoop

from .certificates import issued, trusting

pytestmark = pytest.mark.no_cover

AUTHORITY = trustme.CA()
SERVER = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
issued(AUTHORITY).configure_cert(SERVER)
TIMEOUT = 30.0


class Below(asyncio.Transport):
    """The client's connection: it notes what is written, and what is done with it."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.done: list[str] = []
        self.is_paused = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False

    def is_closing(self) -> bool:
        return "close" in self.done or "abort" in self.done

    def close(self) -> None:
        self.done.append("close")

    def abort(self) -> None:
        self.done.append("abort")

    def write_eof(self) -> None:
        self.done.append("eof")


class Above(asyncio.Protocol):
    """What the proxy makes of a connection: it notes what it hears, part by part."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.heard: list[str] = []
        self.pauses = False
        """Whether it pauses reading with each part."""
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.heard.append("made")

    def data_received(self, data: bytes) -> None:
        self.parts.append(data)
        if self.pauses:
            self.transport.pause_reading()

    def eof_received(self) -> None:
        self.heard.append("eof")

    def connection_lost(self, exc: Exception | None) -> None:
        self.heard.append("lost")


class Client:
    """A client in memory, its proxy's side, and the wire between them. It needs a running loop."""

    def __init__(self) -> None:
        self.below, self.above = Below(), Above()
        self.tls = Tls(lambda: SERVER, TIMEOUT)
        self.secured = Secured(self.tls, lambda: self.above)
        self._inward, self._outward = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.ssl = trusting(AUTHORITY).wrap_bio(self._inward, self._outward, server_hostname="127.0.0.1")
        self.secured.connection_made(self.below)

    def says(self, cut: Callable[[bytes], list[bytes]] = lambda data: [data]) -> None:
        """Send what TLS has to send, cut into segments."""
        for part in cut(self._outward.read()):
            self.secured.data_received(part)

    def hears(self) -> None:
        self._inward.write(bytes(self.below.written))
        self.below.written.clear()

    def shakes_hands(self, cut: Callable[[bytes], list[bytes]] = lambda data: [data]) -> None:
        while True:
            try:
                self.ssl.do_handshake()
            except ssl.SSLWantReadError:
                self.says(cut)
                self.hears()
            else:
                self.says(cut)
                return

    def reads(self) -> bytes:
        self.hears()
        try:
            return self.ssl.read(1 << 20)
        except ssl.SSLWantReadError:
            return b""


def on_virtual_time(story: Callable[[], Any]) -> None:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(story())


async def let_the_loop_turn(client: Client) -> None:
    while client.secured._is_due:  # noqa: ASYNC110  # nothing tells
        await asyncio.sleep(0)


@settings(deadline=None, max_examples=50)
@given(
    messages=st.lists(st.binary(min_size=1, max_size=50_000), max_size=4),
    size=st.integers(min_value=1, max_value=20_000),
)
def test_what_comes_is_what_was_sent_however_it_is_cut(messages: list[bytes], size: int) -> None:
    async def story() -> None:
        client = Client()
        client.shakes_hands(cut)
        for message in messages:
            left = memoryview(message)
            while left:
                left = left[client.ssl.write(left) :]
            client.says(cut)
        await let_the_loop_turn(client)
        assert b"".join(client.above.parts) == b"".join(messages)
        assert client.above.heard == ["made"]
        for message in messages:
            client.secured.write(message)
        answer = b""
        while more := client.reads():
            answer += more
        assert answer == b"".join(messages)

    def cut(data: bytes) -> list[bytes]:
        return [data[start : start + size] for start in range(0, len(data), size)]

    on_virtual_time(story)


@settings(deadline=None, max_examples=100)
@given(noise=st.binary(min_size=1, max_size=300), at=st.sampled_from(["first", "after the handshake"]))
def test_what_is_no_tls_ends_the_connection_without_an_error(noise: bytes, at: str) -> None:
    async def story() -> None:
        client = Client()
        if at == "after the handshake":
            client.shakes_hands()
        client.secured.data_received(noise)
        client.secured.data_received(bytes(20_000))  # no record, whatever the noise began

        assert client.below.is_closing()
        client.secured.connection_lost(None)
        assert client.tls.handshakes == 0

    on_virtual_time(story)


def test_records_of_a_byte_come_joined_and_a_bounded_number_at_a_stretch() -> None:
    async def story() -> None:
        client = Client()
        client.shakes_hands()
        for _ in range(5000):
            client.ssl.write(b"x")
        client.says()

        assert len(b"".join(client.above.parts)) <= 512
        assert client.below.is_paused
        await let_the_loop_turn(client)
        assert len(client.above.parts) <= 11
        assert b"".join(client.above.parts) == b"x" * 5000
        assert not client.below.is_paused

    on_virtual_time(story)


def test_nothing_is_read_for_a_protocol_that_has_paused() -> None:
    async def story() -> None:
        client = Client()
        client.shakes_hands()
        client.above.transport.pause_reading()
        client.ssl.write(b"later")
        client.says()
        assert (client.above.parts, client.below.is_paused) == ([], True)

        client.above.transport.resume_reading()
        await let_the_loop_turn(client)
        assert (client.above.parts, client.below.is_paused) == ([b"later"], False)

    on_virtual_time(story)


@pytest.mark.deadline("a TLS handshake")
def test_a_handshake_has_a_deadline_and_counts_until_then() -> None:
    async def story() -> None:
        client = Client()
        await asyncio.sleep(TIMEOUT - 1)
        assert (client.below.done, client.tls.handshakes) == ([], 1)

        await asyncio.sleep(2)
        assert client.below.done == ["abort"]
        client.secured.connection_lost(None)
        assert (client.tls.handshakes, client.above.heard) == (0, [])

    on_virtual_time(story)


def test_a_connection_whose_handshake_is_over_has_no_deadline_of_it() -> None:
    async def story() -> None:
        client = Client()
        client.shakes_hands()
        await asyncio.sleep(TIMEOUT * 2)

        assert (client.below.done, client.tls.handshakes) == ([], 0)

    on_virtual_time(story)


def test_handshakes_under_way_are_given_up_at_the_end() -> None:
    async def story() -> None:
        client, other = Client(), Client()
        other.shakes_hands()
        client.tls.give_up()
        other.tls.give_up()

        assert (client.below.done, other.below.done) == (["abort"], [])

    on_virtual_time(story)


@pytest.mark.parametrize(("how", "below"), [("close", ["close"]), ("write_eof", ["eof"])])
def test_the_last_word_is_a_goodbye_and_what_comes_then_is_dropped(how: str, below: list[str]) -> None:
    async def story() -> None:
        client = Client()
        client.shakes_hands()
        client.secured.write(b"the end")
        client.ssl.write(b"unread")
        getattr(client.above.transport, how)()
        client.says()
        client.secured.write(b"too late")

        assert client.reads() == b"the end"
        assert client.ssl.read(1) == b""  # else it were cut
        assert client.below.done == below
        assert client.above.parts == []
        assert not client.below.is_paused

    on_virtual_time(story)


def test_a_client_that_says_goodbye_has_left() -> None:
    async def story() -> None:
        client = Client()
        client.shakes_hands()
        client.ssl.write(b"last")
        with pytest.raises(ssl.SSLWantReadError):
            client.ssl.unwrap()
        client.says()
        client.secured.connection_lost(None)

        assert client.above.parts == [b"last"]
        assert client.above.heard == ["made", "eof", "lost"]
        assert client.below.done == ["close"]

    on_virtual_time(story)


def test_a_client_that_leaves_without_a_goodbye_has_left_too() -> None:
    async def story() -> None:
        client = Client()
        client.shakes_hands()
        client.secured.eof_received()
        client.secured.connection_lost(None)

        assert client.above.heard == ["made", "eof", "lost"]

    on_virtual_time(story)


def test_a_goodbye_waits_until_what_came_before_it_has_been_read() -> None:
    async def story() -> None:
        client = Client()
        client.shakes_hands()
        client.above.pauses = True
        client.ssl.write(b"last but one")
        client.says()
        client.ssl.write(b"last")
        with pytest.raises(ssl.SSLWantReadError):
            client.ssl.unwrap()
        client.says()
        await let_the_loop_turn(client)
        assert (client.above.parts, client.above.heard, client.below.done) == ([b"last but one"], ["made"], [])

        client.above.transport.resume_reading()
        await let_the_loop_turn(client)
        assert client.above.parts == [b"last but one", b"last"]
        assert (client.above.heard, client.below.done) == (["made"], [])
        client.above.transport.resume_reading()
        await let_the_loop_turn(client)
        assert (client.above.heard, client.below.done) == (["made", "eof"], ["close"])

    on_virtual_time(story)
