"""A client's connection in memory and in virtual time: the deadline of each of its states, and clients half gone."""

import asyncio
from collections.abc import Awaitable, Callable
from http import HTTPStatus

import pytest

from otel_sessions.asgi import ASGIApp, Receive, Scope, Send
from otel_sessions.proxy._uvicorn import Server
from otel_sessions.proxy.connection import Connection
from otel_sessions.proxy.exchange import Stalled
from otel_sessions.proxy.forward import answer, refuse
from otel_sessions.proxy.rules import STALLED
from otel_sessions.proxy.serving import Limits
from tests.virtual import VirtualLoop

from .recorder import statuses
from .wire import Wire

pytestmark = pytest.mark.no_cover

HEAD, IDLE = 30.0, 60.0
"""Seconds: what a head has, and a client or an upstream that does not go on."""
NEXT = 75.0
"""Seconds that a connection is kept without a request, where the idle timeout is longer."""
LEAVING = 2.0
"""Seconds that a client that was refused has to leave."""
ASK = b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n"
POST = b"POST /x HTTP/1.1\r\nHost: h\r\n"
FRAMINGS = {
    "sized": (b"Content-Length: 90000\r\n\r\n", b"x"),
    "chunked": (b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
}
framings = pytest.mark.parametrize(("framing", "part"), list(FRAMINGS.values()), ids=list(FRAMINGS))


async def nothing() -> None:
    """Leave nothing to wait for."""


async def app(_scope: Scope, receive: Receive, send: Send) -> None:
    """Read all of a request, then answer; refuse a request that stalls, as the proxy does."""
    try:
        while (message := await receive()).get("more_body"):
            pass
    except Stalled:
        await refuse(send, *STALLED)
        return
    if message["type"] == "http.request":
        await answer(send, HTTPStatus.OK, "ok")


async def early(_scope: Scope, _receive: Receive, send: Send) -> None:
    """Answer at once, and read nothing."""
    await answer(send, HTTPStatus.OK, "ok")


class Waiting:
    """An app that says half of an answer, and then waits until its client has left."""

    def __init__(self) -> None:
        self.is_left = False

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass
        self.is_left = True


def connected(app: ASGIApp = app, *, idle_timeout: float | None = IDLE) -> Wire:
    """Return a client's connection to a server of this app."""
    limits = Limits(head_timeout=HEAD, idle_timeout=idle_timeout)
    return Wire(Connection(Server(app, limits, 1, nothing)._serving))


def on_virtual_time(story: Callable[[], Awaitable[None]]) -> None:
    async def run() -> None:
        await story()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(run())


async def is_left_after(wire: Wire, seconds: float) -> bool:
    """Return whether a connection is open for so many seconds, and not much longer."""
    await asyncio.sleep(seconds - 0.5)
    if wire.is_closing():
        return False
    await asyncio.sleep(LEAVING + 1)
    return wire.is_closing()


def pieces(data: bytes) -> list[bytes]:
    return [bytes([letter]) for letter in data]


class TestBeforeARequestIsThere:
    """A connection before a request is there."""

    @pytest.mark.deadline("a client that sends nothing after it has connected")
    def test_a_client_that_never_says_anything_is_left(self) -> None:
        async def story() -> None:
            wire = connected()

            assert await is_left_after(wire, HEAD)
            assert wire.written == b""

        on_virtual_time(story)

    @pytest.mark.deadline("the head of a request, a WebSocket's handshake included")
    @pytest.mark.parametrize("before", [b"", ASK], ids=["first", "second"])
    @pytest.mark.parametrize(
        "half", [b"G", b"GET /x HT", ASK[:-2], ASK[:-2] + b"Connection: upgrade\r\nUpgrade: websocket\r\nSec-W"]
    )
    def test_half_a_head_is_refused(self, before: bytes, half: bytes) -> None:
        async def story() -> None:
            wire = connected()
            await wire.says([before + half])

            assert await is_left_after(wire, HEAD)
            assert statuses(bytes(wire.written)) == ([200, 408] if before else [408])

        on_virtual_time(story)

    @pytest.mark.deadline("the head of a request, a WebSocket's handshake included")
    def test_a_head_that_drips_has_the_deadline_of_the_whole(self) -> None:
        async def story() -> None:
            wire, began = connected(), asyncio.get_running_loop().time()
            for part in pieces(ASK[:-2] + b"X-A: " + b"a" * 100):
                await wire.says([part])
                await asyncio.sleep(1)
                if wire.written:
                    break

            assert asyncio.get_running_loop().time() - began < HEAD + 2
            assert statuses(bytes(wire.written)) == [408]

        on_virtual_time(story)

    @pytest.mark.deadline("a client without a request")
    @pytest.mark.parametrize(("idle_timeout", "kept"), [(IDLE, IDLE), (None, NEXT), (NEXT * 2, NEXT)])
    def test_a_client_without_a_request_is_left(self, idle_timeout: float | None, kept: float) -> None:
        async def story() -> None:
            wire = connected(idle_timeout=idle_timeout)
            await wire.says([ASK])

            assert await is_left_after(wire, kept)
            assert statuses(bytes(wire.written)) == [200]

        on_virtual_time(story)


class TestWhileARequestIsUnderWay:
    """A connection while a request is under way."""

    @pytest.mark.deadline("a request that stops coming")
    @framings
    def test_a_request_that_stops_coming_is_refused(self, framing: bytes, part: bytes) -> None:
        async def story() -> None:
            wire = connected()
            await wire.says([POST + framing + part])

            assert await is_left_after(wire, IDLE)
            assert statuses(bytes(wire.written)) == [408]

        on_virtual_time(story)

    @framings
    def test_a_request_that_goes_on_coming_has_no_deadline(self, framing: bytes, part: bytes) -> None:
        async def story() -> None:
            wire = connected()
            await wire.says([POST + framing])
            for _ in range(20):
                await asyncio.sleep(IDLE - 1)
                await wire.says([part])

            assert (bytes(wire.written), wire.is_closing()) == (b"", False)

        on_virtual_time(story)

    @pytest.mark.deadline("the rest of a request whose answer has been sent")
    @framings
    @pytest.mark.parametrize("drips", [False, True])
    def test_the_rest_of_a_request_that_is_answered_has_the_time_of_a_head(
        self, framing: bytes, part: bytes, drips: bool
    ) -> None:
        async def story() -> None:
            wire = connected(early)
            await wire.says([POST + framing.replace(b"90000", b"9000") + part])
            end = asyncio.get_running_loop().time() + HEAD + LEAVING * 2
            while asyncio.get_running_loop().time() < end and not wire.is_closing():
                await asyncio.sleep(1)
                if drips:
                    await wire.says([part])

            assert statuses(bytes(wire.written)) == [200]
            assert wire.is_closing()

        on_virtual_time(story)

    @pytest.mark.deadline("a client that was refused and does not leave")
    @pytest.mark.parametrize("drips", [False, True])
    def test_a_client_that_was_refused_has_two_seconds_to_leave(self, drips: bool) -> None:
        async def story() -> None:
            wire = connected()
            await wire.says([b"NONSENSE\r\n\r\n"])
            assert (statuses(bytes(wire.written)), wire.done) == ([400], ["eof"])
            for _ in range(4):
                await asyncio.sleep(LEAVING / 4 + 0.1)
                if drips:
                    await wire.says([b"x"])

            assert wire.done == ["eof", "abort"]

        on_virtual_time(story)

    def test_an_exchange_has_no_deadline_but_its_apps(self) -> None:
        async def story() -> None:
            wire = connected(Waiting())
            await wire.says([ASK])
            await asyncio.sleep(IDLE * 20)

            assert wire.done == []

        on_virtual_time(story)


class TestWhileAnAnswerIsTaken:
    """A connection while the client takes an answer."""

    @pytest.mark.deadline("a client that takes nothing of its answer")
    @pytest.mark.parametrize("answering", [early, Waiting()], ids=["whole", "half"])
    @pytest.mark.parametrize("close", [b"", b"Connection: close\r\n"], ids=["kept", "last"])
    @pytest.mark.parametrize("leaves", [False, True])
    def test_a_client_that_takes_nothing_is_cut_off(self, answering: ASGIApp, close: bytes, leaves: bool) -> None:
        async def story() -> None:
            wire = connected(answering)
            wire.is_stuck = True
            await wire.says([ASK[:-2] + close + b"\r\n"])
            await asyncio.sleep(1)
            if leaves:
                await wire.ends()

            await asyncio.sleep(IDLE - 2)
            assert "abort" not in wire.done
            await asyncio.sleep(
                IDLE + LEAVING + 3
            )  # what is written whole has its time behind the time of the connection
            assert "abort" in wire.done

        on_virtual_time(story)

    @pytest.mark.parametrize("answering", [early, Waiting()], ids=["whole", "half"])
    def test_a_client_that_goes_on_taking_is_not_cut_off(self, answering: ASGIApp) -> None:
        async def story() -> None:
            wire = connected(answering)
            wire.is_stuck = True
            await wire.says([ASK[:-2] + b"Connection: close\r\n\r\n"])
            await asyncio.sleep(1)
            for _ in range(20):
                await asyncio.sleep(IDLE - LEAVING - 1)
                wire.unwritten -= 1

            assert "abort" not in wire.done

        on_virtual_time(story)


class TestClientThatIsHalfGone:
    """A client that has closed its sending side."""

    @pytest.mark.parametrize(
        "said",
        [b"", b"GET /x HT", POST + b"Content-Length: 5\r\n\r\nab", ASK[:-2]],
        ids=["nothing", "line", "body", "head"],
    )
    def test_a_client_that_ends_before_its_request_is_whole_gets_nothing_and_is_left(self, said: bytes) -> None:
        async def story() -> None:
            wire = connected()
            await wire.says([said] if said else [])
            await wire.ends()
            await asyncio.sleep(1)

            assert (bytes(wire.written), wire.done) == (b"", ["close"])

        on_virtual_time(story)

    def test_a_client_that_ends_while_its_answer_is_under_way_has_left(self) -> None:
        async def story() -> None:
            app = Waiting()
            wire = connected(app)
            await wire.says([ASK])
            await asyncio.sleep(1)
            await wire.ends()
            await asyncio.sleep(1)

            assert app.is_left
            assert wire.done == ["close"]

        on_virtual_time(story)

    def test_a_client_that_ends_behind_its_answer_is_left_in_order(self) -> None:
        async def story() -> None:
            wire = connected()
            await wire.says([ASK])
            await asyncio.sleep(1)
            await wire.ends()
            await asyncio.sleep(IDLE)

            assert (statuses(bytes(wire.written)), wire.done) == ([200], ["close"])

        on_virtual_time(story)
