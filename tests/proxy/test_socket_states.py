"""Both sides of a WebSocket in memory and in virtual time: frames cut anywhere, and the deadline of each state."""

import asyncio
from collections.abc import Awaitable, Callable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.exceptions import ConnectionClosed
from websockets.frames import Close, Frame, Opcode
from websockets.uri import parse_uri

from otel_sessions.asgi import Message, Receive, Scope, Send
from otel_sessions.proxy._uvicorn import Server
from otel_sessions.proxy.connection import Connection
from otel_sessions.proxy.serving import Limits
from otel_sessions.proxy.upstream_socket import UpstreamSocket
from tests.virtual import VirtualLoop

from .speaker import switching
from .wire import Wire

pytestmark = pytest.mark.no_cover

IDLE, CLOSE = 60.0, 5.0
"""Seconds: what a side that takes nothing has, and an upstream that closes."""
CLIENT_CLOSE = 10.0
"""Seconds that a client has to answer a close."""
PING = 20.0
"""Seconds between two pings."""
HANDSHAKE = (
    b"GET /x HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
GOODBYE = Frame(Opcode.CLOSE, Close(1000, "bye").serialize())
FRAMES = [
    Frame(Opcode.TEXT, "ä".encode()),
    Frame(Opcode.PING, b"1"),
    Frame(Opcode.BINARY, b"\x00\xff", fin=False),
    Frame(Opcode.PING, b"2"),
    Frame(Opcode.CONT, b"", fin=False),
    Frame(Opcode.CONT, b"ab"),
    Frame(Opcode.TEXT, b""),
    Frame(Opcode.PONG, b"unasked"),
    Frame(Opcode.TEXT, b"x" * 126),
    Frame(Opcode.BINARY, b"y" * 600),
    GOODBYE,
]
MESSAGES = ["ä", b"\x00\xffab", "", "x" * 126, b"y" * 600]


def bytes_of(frames: list[Frame], *, mask: bool) -> bytes:
    return b"".join(frame.serialize(mask=mask) for frame in frames)


LENGTHS = {mask: len(bytes_of(FRAMES, mask=mask)) for mask in (False, True)}


def cut(data: bytes, at: list[int]) -> list[bytes]:
    """Cut bytes at these places."""
    return [data[start:end] for start, end in pairwise([0, *sorted(set(at)), len(data)])]


def on_virtual_time(story: Callable[[], Awaitable[None]]) -> None:
    async def run() -> None:
        await story()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(run())


async def to_an_upstream(idle_timeout: float | None = IDLE) -> tuple[UpstreamSocket, Wire]:
    """Return the proxy's side of a WebSocket to an upstream, whose handshake is over."""
    socket = UpstreamSocket(
        ClientProtocol(parse_uri("ws://h/x")),
        ping_interval=None,
        close_timeout=CLOSE,
        max_queue=1,
        idle_timeout=idle_timeout,
    )
    wire = Wire(socket)
    shaking = asyncio.create_task(socket.handshake())
    await asyncio.sleep(0)
    await wire.says([switching(bytes(wire.written))])
    await shaking
    wire.written.clear()
    return socket, wire


class App:
    """An app that accepts a WebSocket, does what it is told, and notes what it receives until the client leaves."""

    def __init__(self, *says: Message) -> None:
        self._says = says
        self.received: list[str | bytes] = []
        self.left: Message | None = None
        self.reads = asyncio.Event()
        self.reads.set()

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        for message in ({"type": "websocket.accept"}, *self._says):
            await send(message)
        await self.reads.wait()
        while (message := await receive())["type"] == "websocket.receive":
            self.received.append(message["text"] if message.get("text") is not None else message["bytes"])
        self.left = message


async def refuse(_scope: Scope, receive: Receive, _send: Send) -> None:
    """An app that ends without an answer."""
    await receive()


async def drain_nothing() -> None:
    """Leave nothing to wait for."""


def begun(app: App, head: bytes = HANDSHAKE) -> Wire:
    """Return what the proxy's side of a client's WebSocket writes to, once it was given the handshake."""
    socket = Server(app, Limits(idle_timeout=IDLE), 1, drain_nothing)._upgrade()
    wire = Wire(socket)
    socket.begin(head)
    return wire


async def to_a_client(app: App) -> Wire:
    """Return what the proxy's side of a client's WebSocket writes to, once its handshake is over."""
    wire = begun(app)
    while b"\r\n\r\n" not in wire.written:  # noqa: ASYNC110  # nothing tells
        await asyncio.sleep(0)
    return wire


def check_what_the_upstream_says(at: list[int]) -> None:
    async def story() -> None:
        socket, wire = await to_an_upstream()

        async def speak() -> None:
            await wire.says(cut(bytes_of(FRAMES, mask=False), at))
            await wire.ends()

        speaking = asyncio.create_task(speak())
        assert [message async for message in socket] == MESSAGES
        await speaking
        assert (socket.close_code, socket.close_reason) == (1000, "bye")

    on_virtual_time(story)


def check_what_the_client_says(at: list[int]) -> None:
    async def story() -> None:
        app = App()
        wire = await to_a_client(app)
        await wire.says(cut(bytes_of(FRAMES, mask=True), at))
        while app.left is None:  # noqa: ASYNC110  # nothing tells
            await asyncio.sleep(0)
        assert app.received == MESSAGES
        assert (app.left["code"], app.left["reason"]) == (1000, "bye")

    on_virtual_time(story)


class TestFramesThatAreCutAnywhere:
    """Frames that are cut anywhere."""

    @pytest.mark.parametrize(
        ("check", "length"),
        [(check_what_the_upstream_says, LENGTHS[False]), (check_what_the_client_says, LENGTHS[True])],
        ids=["upstream", "client"],
    )
    def test_frames_cut_at_any_one_byte_are_the_same_messages(
        self, check: Callable[[list[int]], None], length: int
    ) -> None:
        for place in range(1, length):
            check([place])
        check(list(range(1, length)))

    @settings(deadline=None, max_examples=50)
    @given(at=st.lists(st.integers(1, LENGTHS[False] - 1), max_size=40))
    def test_an_upstreams_frames_cut_anywhere_are_the_same_messages(self, at: list[int]) -> None:
        check_what_the_upstream_says(at)

    @settings(deadline=None, max_examples=50)
    @given(at=st.lists(st.integers(1, LENGTHS[True] - 1), max_size=40))
    def test_a_clients_frames_cut_anywhere_are_the_same_messages(self, at: list[int]) -> None:
        check_what_the_client_says(at)


class TestDeadlinesTowardsTheUpstream:
    """Deadlines towards the upstream."""

    @pytest.mark.deadline("a WebSocket's upstream that does not answer a close")
    def test_an_upstream_that_never_answers_a_close_is_cut_off(self) -> None:
        async def story() -> None:
            socket, wire = await to_an_upstream()
            closing = asyncio.create_task(socket.close(4000))

            await asyncio.sleep(CLOSE - 1)
            assert "abort" not in wire.done
            await asyncio.sleep(2)
            assert "abort" in wire.done
            await closing

        on_virtual_time(story)

    @pytest.mark.deadline("a WebSocket's upstream that has closed and keeps its connection")
    def test_an_upstream_that_closes_and_keeps_its_connection_is_cut_off(self) -> None:
        async def story() -> None:
            socket, wire = await to_an_upstream()
            await wire.says([GOODBYE.serialize(mask=False)])

            await asyncio.sleep(CLOSE - 1)
            assert "abort" not in wire.done
            await asyncio.sleep(2)
            assert "abort" in wire.done
            assert (socket.close_code, socket.close_reason) == (1000, "bye")

        on_virtual_time(story)

    @pytest.mark.deadline("a WebSocket's upstream that takes nothing of what waits for it")
    def test_an_upstream_that_takes_nothing_is_cut_off_and_frees_who_waits_for_it(self) -> None:
        async def story() -> None:
            socket, wire = await to_an_upstream()
            wire.unwritten = 70_000
            socket.pause_writing()
            ways = [asyncio.create_task(way) for way in (socket.send("waits"), socket.close())]

            await asyncio.sleep(IDLE - 1)
            assert (wire.done, [way.done() for way in ways]) == ([], [False, False])
            await asyncio.sleep(2)
            assert "abort" in wire.done
            await asyncio.wait(ways)
            with pytest.raises(ConnectionClosed):
                await socket.send("more")
            await asyncio.gather(*ways, return_exceptions=True)

        on_virtual_time(story)

    def test_an_upstream_that_goes_on_taking_is_not_cut_off(self) -> None:
        async def story() -> None:
            socket, wire = await to_an_upstream()
            wire.unwritten = 70_000
            socket.pause_writing()
            for _ in range(5):
                await asyncio.sleep(IDLE - 1)
                wire.unwritten -= 1000
            assert wire.done == []
            wire.unwritten = 0
            socket.resume_writing()
            await asyncio.sleep(IDLE * 3)

            assert wire.done == []

        on_virtual_time(story)

    def test_without_an_idle_timeout_an_upstream_may_take_nothing(self) -> None:
        async def story() -> None:
            socket, wire = await to_an_upstream(idle_timeout=None)
            wire.unwritten = 70_000
            socket.pause_writing()
            await asyncio.sleep(IDLE * 100)

            assert wire.done == []

        on_virtual_time(story)


BAD_TEXT = Frame(Opcode.TEXT, b"\x03\xe8")
UNKNOWN = b"\x83\x80" + bytes(4)
"""A frame with an opcode that means nothing."""
SAID = [
    *(frame.serialize(mask=True) for frame in (*FRAMES, BAD_TEXT, Frame(Opcode.BINARY, bytes(300)))),
    *(UNKNOWN, b"\x81\x01a", b"\x00\x80" + bytes(4)),
]
"""What a client may say: frames, and frames that are malformed, unmasked, or go on with no message."""


async def received_of(parts: list[bytes]) -> list[str | bytes]:
    """Return what an app receives of a client that says this, and then leaves."""
    app = App()
    wire = await to_a_client(app)
    speaking = asyncio.create_task(wire.says(parts))
    await asyncio.sleep(1)
    if not wire.is_closing():
        await wire.ends()
        wire.close()
    await asyncio.sleep(1)
    await speaking
    assert app.left is not None
    return app.received


class TestClientsThatSayWhatIsWrong:
    """Clients whose frames or handshake are malformed."""

    @settings(deadline=None, max_examples=100)
    @given(said=st.lists(st.sampled_from(SAID), max_size=8).map(b"".join), data=st.data())
    def test_what_comes_before_an_error_arrives_wherever_the_bytes_are_cut(
        self, said: bytes, data: st.DataObject
    ) -> None:
        at = data.draw(st.lists(st.integers(1, max(1, len(said))), max_size=8))

        async def story() -> None:
            assert await received_of(cut(said, at)) == await received_of([said])

        on_virtual_time(story)

    @pytest.mark.parametrize(
        "wrong",
        [BAD_TEXT.serialize(mask=True), UNKNOWN, b"\x81\x01a"],
        ids=["a bad text", "an unknown frame", "an unmasked frame"],
    )
    def test_messages_right_in_front_of_an_error_arrive(self, wrong: bytes) -> None:
        async def story() -> None:
            assert await received_of([Frame(Opcode.TEXT, b"before").serialize(mask=True) + wrong]) == ["before"]

        on_virtual_time(story)

    def test_a_close_right_behind_a_bad_text_ends_the_connection(self) -> None:
        async def story() -> None:
            app = App()
            wire = await to_a_client(app)
            await wire.says([bytes_of([BAD_TEXT, GOODBYE], mask=True)])
            await asyncio.sleep(1)

            assert (app.received, wire.is_closing()) == ([], True)
            assert app.left is not None

        on_virtual_time(story)

    @pytest.mark.parametrize("frame", SAID, ids=range(len(SAID)))  # a mask is random
    @pytest.mark.parametrize("accepts", [True, False])
    def test_what_comes_right_behind_the_handshake_waits_until_the_app_answers(
        self, frame: bytes, accepts: bool
    ) -> None:
        async def story() -> None:
            app = App() if accepts else refuse
            wire = Wire(Connection(Server(app, Limits(idle_timeout=IDLE), 1, drain_nothing)._serving))
            await wire.says([HANDSHAKE + frame + GOODBYE.serialize(mask=True)])
            await asyncio.sleep(1)

            assert wire.written.startswith(b"HTTP/1.1 101" if accepts else b"HTTP/1.1 500")
            assert wire.is_closing()
            if isinstance(app, App):
                assert app.left is not None

        on_virtual_time(story)

    def test_a_malformed_frame_ends_at_once_what_the_app_has_closed(self) -> None:
        async def story() -> None:
            wire = await to_a_client(App({"type": "websocket.close", "code": 4001}))
            await wire.says([UNKNOWN])
            await asyncio.sleep(0)

            assert wire.is_closing()

        on_virtual_time(story)

    @pytest.mark.parametrize(
        "lines",
        [
            b"".join(b"X-%d: a\r\n" % number for number in range(200)),
            b"X: %b\r\n" % (b"a" * 9000),
            b"Sec-WebSocket-Protocol: \xe4\r\n",
        ],
        ids=["many lines", "a long line", "a bad list"],
    )
    def test_a_handshake_that_is_refused_closes_the_connection(self, lines: bytes) -> None:
        async def story() -> None:
            wire = begun(App(), HANDSHAKE[:-2] + lines + b"\r\n")
            await asyncio.sleep(1)

            assert wire.written.startswith(b"HTTP/1.1 4")
            assert wire.is_closing()

        on_virtual_time(story)


def pong_to(wire: Wire) -> bytes:
    """Return a client's answer to the last ping."""
    assert bytes(wire.written[-6:-4]) == b"\x89\x04"
    return Frame(Opcode.PONG, bytes(wire.written[-4:])).serialize(mask=True)


class TestDeadlinesTowardsTheClient:
    """Deadlines towards the client."""

    @pytest.mark.deadline("a WebSocket's client that does not answer a close")
    def test_a_client_that_never_answers_a_close_is_left(self) -> None:
        async def story() -> None:
            wire = await to_a_client(App({"type": "websocket.close", "code": 4001}))

            await asyncio.sleep(CLIENT_CLOSE - 1)
            assert wire.done == []
            await asyncio.sleep(2)
            assert "close" in wire.done

        on_virtual_time(story)

    @pytest.mark.deadline("a WebSocket's client that takes nothing of what waits for it")
    def test_a_client_that_takes_nothing_is_cut_off(self) -> None:
        async def story() -> None:
            wire = await to_a_client(App({"type": "websocket.send", "bytes": bytes(70_000)}))
            wire.unwritten = 70_000
            wire.protocol.pause_writing()

            await asyncio.sleep(IDLE - 1)
            assert "abort" not in wire.done
            await asyncio.sleep(2)
            assert "abort" in wire.done

        on_virtual_time(story)

    def test_a_client_that_goes_on_taking_is_not_cut_off(self) -> None:
        async def story() -> None:
            wire = await to_a_client(App({"type": "websocket.send", "bytes": bytes(70_000)}))
            wire.unwritten = 70_000
            wire.protocol.pause_writing()
            for _ in range(20):
                await asyncio.sleep(IDLE - 1)
                wire.unwritten -= 1000

            assert "abort" not in wire.done

        on_virtual_time(story)

    def test_a_client_that_takes_nothing_of_a_close_is_cut_off(self) -> None:
        async def story() -> None:
            wire = await to_a_client(App({"type": "websocket.close", "code": 4001}))
            wire.unwritten = 1000

            await asyncio.sleep(CLIENT_CLOSE + IDLE * 2)
            assert "abort" in wire.done

        on_virtual_time(story)

    @pytest.mark.deadline("a WebSocket's client that does not answer a ping")
    def test_a_client_that_answers_no_ping_is_closed(self) -> None:
        async def story() -> None:
            wire = await to_a_client(App())

            await asyncio.sleep(PING + IDLE - 1)
            assert wire.done == []
            await asyncio.sleep(2)
            assert "close" in wire.done
            assert b"keepalive ping timeout" in wire.written

        on_virtual_time(story)

    def test_a_client_that_answers_each_ping_stays(self) -> None:
        async def story() -> None:
            wire = await to_a_client(App())
            for _ in range(10):
                await asyncio.sleep(PING + 1)
                await wire.says([pong_to(wire)])

            assert wire.done == []

        on_virtual_time(story)

    def test_a_client_that_goes_on_sending_stays_while_its_pong_is_on_the_way(self) -> None:
        async def story() -> None:
            wire = await to_a_client(App())
            for _ in range(20):
                await asyncio.sleep(IDLE - 1)
                await wire.says([b"\x81\x81" + bytes(4) + b"a"])

            assert wire.done == []

        on_virtual_time(story)

    @pytest.mark.parametrize("before", [1.0, PING + 1], ids=["before the ping", "after the ping"])
    def test_the_time_for_a_pong_stands_still_while_its_client_is_not_read(self, before: float) -> None:
        async def story() -> None:
            app = App()
            app.reads.clear()
            wire = await to_a_client(app)
            await asyncio.sleep(before)
            saying = asyncio.create_task(wire.says([b"\x81\x81" + bytes(4) + b"a"]))
            await asyncio.sleep(PING)
            assert wire.is_paused
            answering = asyncio.create_task(wire.says([pong_to(wire)]))
            await asyncio.sleep(IDLE * 10)
            assert (wire.done, answering.done()) == ([], False)

            app.reads.set()
            await asyncio.gather(saying, answering)
            await asyncio.sleep(PING)
            assert (wire.done, app.received) == ([], ["a"])
            await asyncio.sleep(IDLE * 3)
            assert "close" in wire.done

        on_virtual_time(story)

    def test_a_ping_behind_a_message_that_waits_is_answered_once_the_message_is_taken(self) -> None:
        async def story() -> None:
            app = App()
            app.reads.clear()
            wire = await to_a_client(app)
            wire.written.clear()
            frames = [Frame(Opcode.TEXT, b"a" * 600), *[Frame(Opcode.PING, b"late")] * 3]
            saying = asyncio.create_task(wire.says([frame.serialize(mask=True) for frame in frames]))
            await asyncio.sleep(PING - 1)
            assert (bytes(wire.written), wire.is_paused) == (b"", True)

            app.reads.set()
            await saying
            await asyncio.sleep(0)
            assert bytes(wire.written) == Frame(Opcode.PONG, b"late").serialize(mask=False) * 3

        on_virtual_time(story)


class TestSidesThatAreHalfGone:
    """Sides that have closed one direction."""

    @pytest.mark.parametrize("waits", [False, True], ids=["read", "unread"])
    def test_a_client_that_ends_without_a_close_has_left_behind_what_it_said(self, waits: bool) -> None:
        async def story() -> None:
            app = App()
            if waits:
                app.reads.clear()
            wire = await to_a_client(app)
            frames = [b"\x81\x81" + bytes(4) + letter for letter in (b"a", b"b", b"c")]
            saying = asyncio.create_task(wire.says([b"".join(frames)]))
            ending = asyncio.create_task(wire.ends())
            await asyncio.sleep(1)
            assert (wire.done != []) is not waits
            app.reads.set()
            await asyncio.gather(saying, ending)
            await asyncio.sleep(1)

            assert app.received == ["a", "b", "c"]
            assert app.left is not None
            assert "close" in wire.done

        on_virtual_time(story)

    def test_an_upstream_that_ends_without_a_close_is_over_behind_what_it_said(self) -> None:
        async def story() -> None:
            socket, wire = await to_an_upstream()
            saying = asyncio.create_task(wire.says([b"\x81\x01a\x81\x01b\x81\x01c"]))
            await asyncio.sleep(1)
            ending = asyncio.create_task(wire.ends())
            await asyncio.sleep(1)
            assert wire.done == []

            received = [await socket.recv() for _ in range(3)]
            with pytest.raises(ConnectionClosed):
                await socket.recv()
            await asyncio.gather(saying, ending)
            assert (received, socket.close_code) == (["a", "b", "c"], 1006)

        on_virtual_time(story)

    def test_a_close_of_an_upstream_that_has_ended_too_comes_in_its_words(self) -> None:
        async def story() -> None:
            socket, wire = await to_an_upstream()
            await wire.says([GOODBYE.serialize(mask=False)])
            await wire.ends()
            await asyncio.sleep(1)

            assert (socket.close_code, socket.close_reason) == (1000, "bye")
            assert wire.is_closing()

        on_virtual_time(story)
