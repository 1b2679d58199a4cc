"""The client towards an upstream that says every byte by script: whole answers, clear errors, and never a hang."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from otel_sessions._http.client import (
    BadAnswer,
    Call,
    CallClosed,
    CallLimits,
    CannotConnect,
    Client,
    HungUp,
    Origin,
    TimedOut,
)
from otel_sessions._http.connection import Connection
from tests.virtual import VirtualLoop
from tests.waiting import PATIENCE

from .upstream import Peer, Upstream

OK = b"HTTP/1.1 200 OK\r\n"
FINE = OK + b"Content-Length: 2\r\n\r\nok"
EARLY = b"HTTP/1.1 401 No\r\nContent-Length: 2\r\n\r\nno"
HOST = [(b"Host", b"a")]
PATIENT = CallLimits(connect_timeout=60, head_timeout=60, write_timeout=60)
SHORT = CallLimits(connect_timeout=5, head_timeout=20, write_timeout=10)

pytestmark = pytest.mark.anyio


def _new_uvloop() -> asyncio.AbstractEventLoop:
    return pytest.importorskip("uvloop").new_event_loop()  # type: ignore[no-any-return]


LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.SelectorEventLoop,
    "uvloop": _new_uvloop,
}


@pytest.fixture(params=list(LOOPS))
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    pytest.importorskip(request.param)
    return "asyncio", {"loop_factory": LOOPS[request.param]}


@pytest.fixture(params=["tcp", "unix"])
async def upstream(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Upstream]:
    async with Upstream().listening(tmp_path / "socket" if request.param == "unix" else None) as upstream:
        yield upstream


@pytest.fixture
async def client(upstream: Upstream) -> AsyncIterator[Client]:
    client = Client(upstream.origin)
    yield client
    client.close()


def get(client: Client, target: bytes = b"/", limits: CallLimits = PATIENT) -> Call:
    return client.call(b"GET", target, HOST, limits=limits)


async def whole(call: Call) -> tuple[int, bytes]:
    """Return the status and the body."""
    with call:
        head = await call.head()
        body = b""
        while part := await call.read(60):
            body += part
        return head.status, body


async def talk(call: Call, peer: Awaitable[Peer], *pieces: bytes, hangs_up: bool = False) -> tuple[int, bytes]:
    """Let the upstream say this to the call, and return the status and the body."""

    async def answer() -> None:
        other = await peer
        await other.heard()
        await other.says(*pieces)
        if hangs_up:
            await other.hangs_up()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(answer())
        return await whole(call)


async def again(peer: Peer) -> Peer:
    """The same connection once more."""
    return peer


async def settle() -> None:
    """Let all that has arrived be read, and every task run until it waits."""
    for _ in range(10):
        await asyncio.sleep(0)


class TestAnswers:
    """How an answer is read."""

    async def test_an_answer_comes_with_its_head_and_then_its_body(self, upstream: Upstream, client: Client) -> None:
        with client.call(b"POST", b"/x?y", [(b"Host", b"a"), (b"X-Y", b"\xff")], b"abc", limits=PATIENT) as call:
            heading = asyncio.ensure_future(call.head())
            peer = await upstream.peer()
            assert await peer.heard() == b"POST /x?y HTTP/1.1\r\nHost: a\r\nX-Y: \xff\r\nContent-Length: 3\r\n\r\n"
            assert await peer.heard(3) == b"abc"
            await peer.says(b"HTTP/1.1 201 Made\r\nX-Z: \xfe\r\nTransfer-Encoding: chunked\r\n\r\n")
            head = await heading
            assert (head.status, head.headers[0]) == (201, (b"X-Z", b"\xfe"))
            reading = asyncio.ensure_future(call.read(None))
            await peer.says(b"3\r\nabc\r\n")
            assert await reading == b"abc"
            overs = [call.is_over]
            await peer.says(b"0\r\n\r\n")
            assert await call.read(None) == b""
            assert [*overs, call.is_over] == [False, True]
            assert await call.read(None) == b""

    async def test_a_call_has_a_head_once_a_final_one_has_come(self, upstream: Upstream, client: Client) -> None:
        with client.call(b"GET", b"/", [(b"Host", b"a")], limits=PATIENT) as call:
            heading = asyncio.ensure_future(call.head())
            peer = await upstream.peer()
            await peer.heard()
            await peer.says(b"HTTP/1.1 103 Hints\r\n\r\n")
            await settle()
            had_head = call.has_head
            await peer.says(OK + b"Content-Length: 0\r\n\r\n")
            await heading
            assert [had_head, call.has_head] == [False, True]

    @pytest.mark.parametrize("interim", [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Hints\r\nLink: a\r\n\r\n"])
    async def test_heads_before_the_final_one_are_skipped(
        self, upstream: Upstream, client: Client, interim: bytes
    ) -> None:
        assert await talk(get(client), upstream.peer(), interim, interim + FINE) == (200, b"ok")

    async def test_a_body_until_the_end_of_the_connection_is_whole(self, upstream: Upstream, client: Client) -> None:
        assert await talk(get(client), upstream.peer(), OK + b"\r\nab", b"cd", hangs_up=True) == (200, b"abcd")

    async def test_the_rest_of_a_body_is_there_once_all_of_it_has_come(
        self, upstream: Upstream, client: Client
    ) -> None:
        with get(client) as call:
            heading = asyncio.ensure_future(call.head())
            peer = await upstream.peer()
            await peer.heard()
            await peer.says(OK + b"Content-Length: 4\r\n\r\nab")
            await heading
            assert call.rest() is None
            await peer.says(b"cd")
            await settle()
            assert call.rest() == b"abcd"
        assert await talk(get(client), again(peer), FINE) == (200, b"ok")

    @pytest.mark.parametrize(
        "framing", [b"Content-Length: 5\r\n\r\nab", b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n"]
    )
    async def test_a_body_that_is_cut_off_gives_its_beginning_and_then_an_error(
        self, upstream: Upstream, client: Client, framing: bytes
    ) -> None:
        with get(client) as call:
            heading = asyncio.ensure_future(call.head())
            peer = await upstream.peer()
            await peer.heard()
            await peer.says(OK + framing)
            await heading
            await peer.hangs_up()
            await settle()
            assert await call.read(60) == b"ab"
            with pytest.raises(HungUp):
                await call.read(60)

    async def test_a_body_until_the_end_that_is_reset_is_not_whole(self, tmp_path: Path) -> None:
        async with Upstream().listening(None) as upstream:
            with get(Client(upstream.origin)) as call:
                heading = asyncio.ensure_future(call.head())
                peer = await upstream.peer()
                await peer.heard()
                await peer.says(OK + b"\r\nab")
                await heading
                assert await call.read(60) == b"ab"
                peer.resets()
                with pytest.raises(HungUp):
                    await call.read(60)

    @pytest.mark.parametrize(
        "said",
        [
            b"SSH-2.0-OpenSSH_9.2\r\n",
            b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
            OK + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n",
            OK + b"A: " + b"x" * 102_400,
        ],
    )
    async def test_what_is_no_answer_is_an_error_and_ends_the_connection(
        self, upstream: Upstream, client: Client, said: bytes
    ) -> None:
        with get(client) as call:
            heading = asyncio.ensure_future(call.head())
            peer = await upstream.peer()
            await peer.heard()
            await peer.says(said)
            with pytest.raises(BadAnswer):
                await heading
            await peer.left()

    async def test_an_upstream_that_speaks_before_it_is_asked_is_no_http(
        self, upstream: Upstream, client: Client
    ) -> None:
        async def speak() -> None:
            peer = await upstream.peer()
            await peer.says(b"220 mail.example ESMTP\r\n")
            await peer.left()

        speaking = asyncio.ensure_future(speak())
        with pytest.raises(BadAnswer):
            await whole(get(client))
        await speaking

    async def test_a_bad_chunk_is_an_error_after_what_came_before_it(self, upstream: Upstream, client: Client) -> None:
        with get(client) as call:
            heading = asyncio.ensure_future(call.head())
            peer = await upstream.peer()
            await peer.heard()
            await peer.says(OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\nxyz\r\n")
            with contextlib.suppress(BadAnswer):
                await heading
                assert await call.read(60) == b"ab"
                await call.read(60)
            await peer.left()


class TestWhichConnection:
    """Which connection a call takes."""

    async def test_a_connection_is_used_again_after_a_whole_answer(self, upstream: Upstream, client: Client) -> None:
        assert await talk(get(client), upstream.peer(), FINE) == (200, b"ok")
        for said in (FINE, b"HTTP/1.1 204 x\r\n\r\n", b"HTTP/1.1 304 x\r\nContent-Length: 7\r\n\r\n", FINE):
            await talk(get(client), again(upstream.peers[0]), said)
        assert len(upstream.peers) == 1

    async def test_an_answer_that_nobody_reads_to_its_end_still_frees_its_connection(
        self, upstream: Upstream, client: Client
    ) -> None:
        with get(client) as call:
            heading = asyncio.ensure_future(call.head())
            peer = await upstream.peer()
            await peer.heard()
            await peer.says(FINE)
            await heading
            await settle()
        assert await talk(get(client), again(peer), FINE) == (200, b"ok")

    @pytest.mark.parametrize(
        "said",
        [
            FINE + FINE.replace(b"ok", b"no"),
            FINE + b"\r\n",
            OK + b"Connection: close\r\nContent-Length: 2\r\n\r\nok",
            b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
            OK + b"Keep-Alive: timeout=1\r\nContent-Length: 2\r\n\r\nok",
            OK + b"Content-Length: 2\r\n\r\nokay",
            OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n0\r\n\r\n",
        ],
    )
    async def test_a_connection_is_not_used_again_after_anything_else(
        self, upstream: Upstream, client: Client, said: bytes
    ) -> None:
        assert await talk(get(client), upstream.peer(), said) == (200, b"ok")
        assert await upstream.peers[0].left() == b""
        assert await talk(get(client), upstream.peer(), FINE) == (200, b"ok")

    async def test_a_connection_is_given_up_after_head(self, upstream: Upstream, client: Client) -> None:
        call = client.call(b"HEAD", b"/", HOST, limits=PATIENT)
        assert await talk(call, upstream.peer(), OK + b"Content-Length: 2\r\n\r\n") == (200, b"")
        assert await upstream.peers[0].left() == b""

    async def test_bytes_that_come_later_than_the_answer_are_given_to_nobody(
        self, upstream: Upstream, client: Client
    ) -> None:
        assert await talk(get(client), upstream.peer(), FINE) == (200, b"ok")
        await upstream.peers[0].says(FINE.replace(b"ok", b"no"))  # it has come, and no loop has looked
        assert await talk(get(client), upstream.peer(), FINE) == (200, b"ok")

    async def test_bytes_that_come_while_a_connection_is_kept_end_it(self, upstream: Upstream, client: Client) -> None:
        assert await talk(get(client), upstream.peer(), FINE) == (200, b"ok")
        await upstream.peers[0].says(b"x")
        await upstream.peers[0].left()
        assert await talk(get(client), upstream.peer(), FINE) == (200, b"ok")

    async def test_a_kept_connection_that_has_ended_is_not_used(self, upstream: Upstream, client: Client) -> None:
        assert await talk(get(client), upstream.peer(), FINE) == (200, b"ok")
        await upstream.peers[0].hangs_up()
        await settle()
        post = client.call(b"POST", b"/", HOST, b"x", limits=PATIENT)
        assert await talk(post, upstream.peer(), FINE) == (200, b"ok")

    async def test_no_more_connections_are_kept_than_allowed(self, upstream: Upstream) -> None:
        client = Client(upstream.origin, max_kept=2)
        async with asyncio.TaskGroup() as tasks:
            for _ in range(4):
                tasks.create_task(talk(get(client), upstream.peer(), FINE))
        leaving = [asyncio.ensure_future(peer.left()) for peer in upstream.peers]
        done: set[asyncio.Future[bytes]] = set()
        while len(done) < 2:
            done, _ = await asyncio.wait(leaving, return_when="FIRST_COMPLETED")
        await settle()
        assert sum(left.done() for left in leaving) == 2
        client.close()
        await asyncio.wait(leaving)

    async def test_connections_that_have_ended_take_no_place_of_those_that_are_kept(self, upstream: Upstream) -> None:
        client = Client(upstream.origin, max_kept=1)
        first, second = get(client), get(client)
        assert await talk(first, upstream.peer(), FINE) == (200, b"ok")
        heading = asyncio.ensure_future(second.head())
        await upstream.peers[0].heard()
        with get(client) as third:
            third_heading = asyncio.ensure_future(third.head())
            other = await upstream.peer()
            await other.heard()
            await upstream.peers[0].says(FINE)
            await heading
            await settle()
            second.close()
            await upstream.peers[0].hangs_up()
            await other.says(FINE)
            await third_heading
            await settle()
        assert await talk(get(client), again(other), FINE) == (200, b"ok")
        client.close()

    async def test_a_closed_client_keeps_nothing_but_lets_calls_end(self, upstream: Upstream, client: Client) -> None:
        with get(client) as call:
            heading = asyncio.ensure_future(call.head())
            peer = await upstream.peer()
            client.close()
            await peer.heard()
            await peer.says(FINE)
            assert (await heading).status == 200
            assert await call.read(60) == b"ok"
        assert await peer.left() == b""


async def kept_and_asked(upstream: Upstream, client: Client, call: Call) -> "asyncio.Future[Any]":
    """A call that has met a kept connection, on which the upstream has not yet answered."""
    assert await talk(get(client), upstream.peer(), FINE) == (200, b"ok")
    asking = asyncio.ensure_future(whole(call))
    await upstream.peers[0].heard()
    return asking


async def one_part() -> AsyncIterator[bytes]:
    yield b"abc"


class Sink:
    """Takes so many parts."""

    def __init__(self, takes: int = 1000) -> None:
        self.parts: list[bytes] = []
        self.tasks: list[asyncio.Task[Any] | None] = []
        self._takes = takes
        self._called = asyncio.Event()

    def __call__(self, part: bytes) -> bool:
        self._called.set()
        self.parts.append(part)
        self.tasks.append(asyncio.current_task())
        return len(self.parts) < self._takes

    async def has(self, body: bytes) -> None:
        """Wait until the sink has got all of this."""
        while b"".join(self.parts) != body:
            await self._called.wait()
            self._called.clear()


CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


def chunk(part: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(part), part)


@contextlib.asynccontextmanager
async def pouring(upstream: Upstream, call: Call, sink: Sink) -> AsyncIterator[tuple[Peer, asyncio.Task[None]]]:
    """Yield an upstream that has sent a head, and a task that pours the body into the sink."""
    with call:
        heading = asyncio.ensure_future(call.head())
        peer = await upstream.peer()
        await peer.heard()
        await peer.says(CHUNKED)
        await heading
        task = asyncio.create_task(call.pour(sink))
        await settle()
        yield peer, task


class ReadsByLine(Connection):
    """Is told of each line by itself, all in one turn of the loop, as uvloop tells of more than fits its buffer."""

    def data_received(self, data: bytes) -> None:
        for line in data.splitlines(keepends=True):
            super().data_received(line)


class ReadByLine(Origin):
    """An upstream whose connections read lines."""

    __slots__ = ()

    async def connect(self) -> Connection:
        return (await asyncio.get_running_loop().create_connection(ReadsByLine, self.host, self.port))[1]


class TestClosingConnections:
    """A kept connection that the server is just closing."""

    @pytest.mark.parametrize(("method", "body"), [(b"GET", None), (b"DELETE", None), (b"PUT", b"abc")])
    async def test_an_idempotent_request_that_is_held_whole_is_sent_once_more(
        self, upstream: Upstream, client: Client, method: bytes, body: bytes | None
    ) -> None:
        asking = await kept_and_asked(upstream, client, client.call(method, b"/", HOST, body, limits=PATIENT))
        await upstream.peers[0].hangs_up()
        peer = await upstream.peer()
        assert (await peer.heard()).startswith(method)
        assert await peer.heard(len(body or b"")) == (body or b"")
        await peer.says(FINE)
        assert await asking == (200, b"ok")

    async def test_a_request_is_sent_once_more_but_not_twice(self, upstream: Upstream, client: Client) -> None:
        asking = await kept_and_asked(upstream, client, get(client))
        await upstream.peers[0].hangs_up()
        await (await upstream.peer()).hangs_up()
        with pytest.raises(HungUp):
            await asking
        assert len(upstream.peers) == 2

    @pytest.mark.parametrize(
        ("method", "body"), [(b"POST", None), (b"POST", b"abc"), (b"PATCH", b"abc"), (b"PUT", "parts")]
    )
    async def test_another_request_is_an_error_at_once(
        self, upstream: Upstream, client: Client, method: bytes, body: bytes | str | None
    ) -> None:
        call = client.call(method, b"/", HOST, one_part() if isinstance(body, str) else body, limits=PATIENT)
        asking = await kept_and_asked(upstream, client, call)
        await upstream.peers[0].hangs_up()
        with pytest.raises(HungUp):
            await asking
        assert len(upstream.peers) == 1

    async def test_an_answer_that_had_begun_is_not_asked_for_again(self, upstream: Upstream, client: Client) -> None:
        asking = await kept_and_asked(upstream, client, get(client))
        await upstream.peers[0].says(b"H")
        await upstream.peers[0].hangs_up()
        with pytest.raises(HungUp):
            await asking
        assert len(upstream.peers) == 1

    async def test_a_new_connection_that_ends_at_once_is_an_error(self, upstream: Upstream, client: Client) -> None:
        asking = asyncio.ensure_future(whole(get(client)))
        await (await upstream.peer()).hangs_up()
        with pytest.raises(HungUp):
            await asking

    async def test_parts_are_poured_as_they_come_without_a_task_and_the_last_by_the_task(
        self, upstream: Upstream, client: Client
    ) -> None:
        sink, call = Sink(), get(client)
        async with pouring(upstream, call, sink) as (peer, task):
            await peer.says(chunk(b"ab"))
            await sink.has(b"ab")
            await peer.says(b"2;x\r\n")  # of which nothing is body yet
            await settle()
            await peer.says(b"cd\r\n")
            await sink.has(b"abcd")
            assert sink.tasks == [None, None]
            assert not task.done()
            await peer.says(chunk(b"ef") + b"0\r\n\r\n")
            await task
            assert sink.parts == [b"ab", b"cd", b"ef"]
            assert call.is_over
            await call.pour(sink)
            assert len(sink.parts) == 3
        assert await talk(get(client), again(peer), FINE) == (200, b"ok")

    async def test_a_sink_that_takes_no_more_ends_the_pouring_and_what_comes_then_waits(
        self, upstream: Upstream, client: Client
    ) -> None:
        sink, call = Sink(takes=1), get(client)
        async with pouring(upstream, call, sink) as (peer, task):
            await peer.says(chunk(b"ab"))
            await task
            await peer.says(chunk(b"cd"))
            await settle()
            assert sink.parts == [b"ab"]
            assert await call.read(60) == b"cd"
            assert not call.is_over

    async def test_what_has_come_before_is_poured_at_once(self, upstream: Upstream, client: Client) -> None:
        sink = Sink()
        with get(client) as call:
            heading = asyncio.ensure_future(call.head())
            peer = await upstream.peer()
            await peer.heard()
            await peer.says(CHUNKED + chunk(b"ab"))
            await heading
            while not sink.parts:
                await call.pour(sink)
            assert sink.parts == [b"ab"]

    async def test_a_large_part_is_poured_by_the_task_so_that_others_come_before_it(
        self, upstream: Upstream, client: Client
    ) -> None:
        sink, call, large = Sink(), get(client), bytes(60_000)
        async with pouring(upstream, call, sink) as (peer, task):
            await peer.says(chunk(large))
            while b"".join(sink.parts) != large:
                await task
                task = asyncio.create_task(call.pour(sink))
                await settle()
            assert any(sink.tasks)
            task.cancel()

    @pytest.mark.parametrize("ends", ["hangs up", "bad chunk", "closed"])
    async def test_a_body_that_breaks_off_while_it_is_poured_is_an_error(
        self, upstream: Upstream, client: Client, ends: str
    ) -> None:
        sink, call = Sink(), get(client)
        async with pouring(upstream, call, sink) as (peer, task):
            await peer.says(chunk(b"ab"))
            await sink.has(b"ab")
            if ends == "hangs up":
                await peer.hangs_up()
            elif ends == "bad chunk":
                await peer.says(b"xyz\r\n")
            else:
                call.close()
            with pytest.raises({"hangs up": HungUp, "bad chunk": BadAnswer, "closed": CallClosed}[ends]):
                await task
            with pytest.raises(CallClosed if ends == "closed" else (HungUp, BadAnswer)):
                await call.pour(sink)
        await peer.left()

    async def test_what_a_sink_raises_ends_the_call(self, upstream: Upstream, client: Client) -> None:
        class Broken(Sink):
            def __call__(self, part: bytes) -> bool:
                raise RuntimeError("the sink is broken")

        async with pouring(upstream, get(client), Broken()) as (peer, task):
            await peer.says(chunk(b"ab"))
            with pytest.raises(RuntimeError, match="the sink is broken"):
                await task
            await peer.left()

    async def test_what_comes_in_one_turn_behind_a_refusal_of_the_sink_waits_for_the_task(self) -> None:
        async with Upstream().listening(None) as upstream:
            sink = Sink(takes=1)
            call = get(Client(ReadByLine(host=upstream.origin.host, port=upstream.origin.port)))
            async with pouring(upstream, call, sink) as (peer, task):
                await peer.says(chunk(b"ab") + chunk(b"cd") + chunk(b"ef"))
                await task
                assert sink.parts == [b"ab", b"cdef"]
                assert sink.tasks[0] is None


class Parts:
    """A body that comes as the test says."""

    def __init__(self) -> None:
        self._parts: asyncio.Queue[bytes | Exception | None] = asyncio.Queue()
        self.ended = asyncio.Event()

    def come(self, part: bytes | Exception | None) -> None:
        self._parts.put_nowait(part)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            while (part := await self._parts.get()) is not None:
                if isinstance(part, Exception):
                    raise part
                yield part
        finally:
            self.ended.set()


def post(client: Client, parts: Parts, limits: CallLimits = PATIENT, length: int | None = None) -> Call:
    framing = [] if length is None else [(b"Content-Length", b"%d" % length)]
    return client.call(b"POST", b"/", [*HOST, *framing], parts, limits=limits)


class TestBodiesOfRequests:
    """How the body of a request is sent."""

    async def test_parts_go_out_as_they_come(self, upstream: Upstream, client: Client) -> None:
        parts = Parts()
        asking = asyncio.ensure_future(whole(post(client, parts)))
        peer = await upstream.peer()
        assert b"Transfer-Encoding: chunked" in await peer.heard()
        for part in (b"abc", b"", b"d"):
            parts.come(part)
        assert await peer.heard(14) == b"3\r\nabc\r\n1\r\nd\r\n"
        parts.come(None)
        assert await peer.heard() == b"0\r\n\r\n"
        await peer.says(FINE)
        assert await asking == (200, b"ok")
        assert await talk(get(client), again(peer), FINE) == (200, b"ok")

    async def test_a_counted_body_frees_its_connection_although_its_end_has_not_come(
        self, upstream: Upstream, client: Client
    ) -> None:
        parts = Parts()
        asking = asyncio.ensure_future(whole(post(client, parts, length=3)))
        peer = await upstream.peer()
        await peer.heard()
        parts.come(b"abc")
        assert await peer.heard(3) == b"abc"
        await peer.says(FINE)
        assert await asking == (200, b"ok")
        await parts.ended.wait()
        assert await talk(get(client), again(peer), FINE) == (200, b"ok")

    async def test_an_early_answer_comes_at_once_and_the_rest_of_the_body_is_not_waited_for(
        self, upstream: Upstream, client: Client
    ) -> None:
        parts = Parts()
        asking = asyncio.ensure_future(whole(post(client, parts)))
        peer = await upstream.peer()
        await peer.heard()
        await peer.says(EARLY)
        assert await asking == (401, b"no")
        await parts.ended.wait()
        assert await peer.left() == b""

    async def test_a_body_and_its_answer_pass_at_the_same_time(self, upstream: Upstream, client: Client) -> None:
        parts = Parts()
        with post(client, parts) as call:
            heading = asyncio.ensure_future(call.head())
            peer = await upstream.peer()
            await peer.heard()
            await peer.says(OK + b"Transfer-Encoding: chunked\r\n\r\n")
            await heading
            for part in (b"a", b"b", b"c"):
                parts.come(part)
                assert await peer.heard(6) == b"1\r\n%b\r\n" % part
                await peer.says(b"1\r\n%b\r\n" % part)
                assert await call.read(60) == part
            parts.come(None)
            assert await peer.heard() == b"0\r\n\r\n"
            await peer.says(b"0\r\n\r\n")
            assert await call.read(60) == b""
        assert await talk(get(client), again(peer), FINE) == (200, b"ok")

    async def test_what_a_body_raises_is_raised_and_ends_the_connection(
        self, upstream: Upstream, client: Client
    ) -> None:
        parts = Parts()
        asking = asyncio.ensure_future(whole(post(client, parts)))
        peer = await upstream.peer()
        await peer.heard()
        parts.come(b"abc")
        parts.come(LookupError("too large"))
        with pytest.raises(LookupError, match="too large"):
            await asking
        assert await peer.left() == b"3\r\nabc\r\n"

    @pytest.mark.parametrize(("sent", "sort"), [(b"abcd", "longer"), (b"ab", "shorter")])
    async def test_a_body_of_another_length_than_announced_is_an_error(
        self, upstream: Upstream, client: Client, sent: bytes, sort: str
    ) -> None:
        parts = Parts()
        asking = asyncio.ensure_future(whole(post(client, parts, length=3)))
        peer = await upstream.peer()
        await peer.heard()
        parts.come(sent)
        parts.come(None)
        with pytest.raises(ValueError, match=sort):
            await asking
        assert await peer.left() == (b"" if sort == "longer" else sent)

    async def test_an_upstream_that_ends_while_a_body_is_sent_is_an_error(
        self, upstream: Upstream, client: Client
    ) -> None:
        parts = Parts()
        asking = asyncio.ensure_future(whole(post(client, parts)))
        peer = await upstream.peer()
        await peer.heard()
        await peer.hangs_up()
        with pytest.raises(HungUp):
            await asking
        await parts.ended.wait()

    async def test_a_part_that_comes_after_the_upstream_has_ended_goes_nowhere(
        self, upstream: Upstream, client: Client
    ) -> None:
        parts = Parts()
        with post(client, parts) as call:
            heading = asyncio.ensure_future(call.head())
            await (await upstream.peer()).hangs_up()
            with pytest.raises(HungUp):
                await heading
            parts.come(b"abc")
            await parts.ended.wait()

    @pytest.mark.parametrize("kind", ["tcp", "unix"])
    async def test_an_early_answer_is_not_lost_if_the_upstream_ends_the_connection_at_once(
        self, kind: str, tmp_path: Path
    ) -> None:
        listener = socket.socket(socket.AF_UNIX if kind == "unix" else socket.AF_INET)
        listener.bind(str(tmp_path / "socket") if kind == "unix" else ("127.0.0.1", 0))
        listener.listen()

        async def body() -> AsyncIterator[bytes]:
            peer, _ = listener.accept()  # the loop does not run while the upstream answers and ends
            yield b"abc"
            peer.sendall(EARLY)
            peer.close()  # a reset, since it has not read
            yield b"def"  # asyncio sends it at once, and cannot
            await asyncio.Event().wait()

        with listener:
            address = listener.getsockname()
            origin = Origin(path=address) if kind == "unix" else Origin(host=address[0], port=address[1])
            assert await whole(Client(origin).call(b"POST", b"/", HOST, body(), limits=PATIENT)) == (401, b"no")

    async def test_a_new_connection_that_is_reset_at_once_is_an_error(self, upstream: Upstream, client: Client) -> None:
        async def endless() -> AsyncIterator[bytes]:
            while True:
                yield b"x" * 65536

        asking = asyncio.ensure_future(whole(client.call(b"POST", b"/", HOST, endless(), limits=PATIENT)))
        peer = await upstream.peer()
        await peer.heard()
        peer.resets()
        with pytest.raises(HungUp):
            await asking

    async def test_a_body_that_is_always_ready_lets_others_have_their_turn(
        self, upstream: Upstream, client: Client
    ) -> None:
        turns = 0

        async def others() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        async def ready() -> AsyncIterator[bytes]:
            for _ in range(1000):
                yield b"x"

        other = asyncio.ensure_future(others())
        asking = asyncio.ensure_future(whole(client.call(b"POST", b"/", HOST, ready(), limits=PATIENT)))
        peer = await upstream.peer()
        await peer.heard()
        before = turns
        await peer.heard()
        assert turns - before > 900
        await peer.says(FINE)
        assert await asking == (200, b"ok")
        other.cancel()


class TestBackpressure:
    """A side that is slow holds up the other side."""

    async def test_an_upstream_that_does_not_read_is_not_sent_more_than_buffers_hold(
        self, upstream: Upstream, client: Client
    ) -> None:
        sent = 0

        async def endless() -> AsyncIterator[bytes]:
            nonlocal sent
            while sent < 64 << 20:
                sent += 65536
                yield b"x" * 65536

        with client.call(
            b"POST", b"/", [*HOST, (b"Content-Length", b"%d" % (64 << 20))], endless(), limits=PATIENT
        ) as call:
            asking = asyncio.ensure_future(call.head())
            peer = await upstream.peer()
            await peer.heard()
            before = -1
            while before < sent:
                before = sent
                await settle()
            assert sent < 32 << 20
            for _ in range(64):
                await peer.heard(1 << 20)
            await peer.says(FINE)
            await asking
            assert await call.read(60) == b"ok"
        assert sent == 64 << 20

    async def test_an_answer_that_nobody_reads_stops_at_a_bounded_buffer(
        self, upstream: Upstream, client: Client
    ) -> None:
        with get(client) as call:
            heading = asyncio.ensure_future(call.head())
            peer = await upstream.peer()
            await peer.heard()
            saying = asyncio.ensure_future(
                peer.says(OK + b"Content-Length: %d\r\n\r\n" % (32 << 20), b"x" * (32 << 20))
            )
            await heading
            for _ in range(20):
                await settle()
            assert not saying.done()
            first = await call.read(60)
            assert 65536 <= len(first) <= 65536 + (256 << 10)
            got = len(first)
            while part := await call.read(60):
                got += len(part)
            assert got == 32 << 20
            await saying
        assert await talk(get(client), again(peer), FINE) == (200, b"ok")

    async def test_a_large_answer_that_is_whole_at_once_keeps_its_connection(
        self, upstream: Upstream, client: Client
    ) -> None:
        assert await talk(get(client), upstream.peer(), OK + b"Content-Length: 90000\r\n\r\n" + b"x" * 90000)
        assert await talk(get(client), again(upstream.peers[0]), FINE) == (200, b"ok")


async def _tells_later(peer: Peer) -> None:
    await peer.heard()
    await settle()
    await peer.says(FINE)


class Observed(Connection):
    """Notes what it has read."""

    def __init__(self, pieces: list[bytes]) -> None:
        super().__init__()
        self._pieces = pieces

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._pieces.append(data)


@dataclass(frozen=True, kw_only=True, slots=True)
class Observing(Origin):
    """An upstream whose connections note what they have read."""

    pieces: list[bytes] = field(default_factory=list)

    async def connect(self) -> Connection:
        loop, make = asyncio.get_running_loop(), partial(Observed, self.pieces)
        if self.path is not None:
            return (await loop.create_unix_connection(make, self.path))[1]
        return (await loop.create_connection(make, self.host, self.port))[1]


class Slow(Origin):
    """Connects when it is told."""

    __slots__ = ()

    async def connect(self) -> Connection:
        await asyncio.Event().wait()
        raise AssertionError


class ClosedInTheEnd(Origin):
    """Closes a call in the very moment in which its connection is there."""

    __slots__ = ()
    calls: ClassVar[list[Call]] = []

    async def connect(self) -> Connection:
        connection = await super().connect()
        self.calls[-1].close()
        return connection


class TestClosingACall:
    """What happens to the connection of a call that is closed."""

    async def test_a_call_that_is_closed_ends_whoever_waits_for_its_head(
        self, upstream: Upstream, client: Client
    ) -> None:
        call = get(client)
        heading = asyncio.ensure_future(call.head())
        peer = await upstream.peer()
        await peer.heard()
        call.close()
        call.close()
        with pytest.raises(CallClosed):
            await heading
        assert await peer.left() == b""

    async def test_a_call_that_is_closed_ends_whoever_waits_for_its_body(
        self, upstream: Upstream, client: Client
    ) -> None:
        parts = Parts()
        call = post(client, parts)
        heading = asyncio.ensure_future(call.head())
        peer = await upstream.peer()
        await peer.heard()
        await peer.says(OK + b"\r\n")
        await heading
        reading = asyncio.ensure_future(call.read(60))
        await settle()
        call.close()
        with pytest.raises(CallClosed):
            await reading
        with pytest.raises(CallClosed):
            await call.read(60)
        await parts.ended.wait()
        assert not call.is_over
        assert await peer.left() == b""

    async def test_a_call_that_is_closed_gives_nothing_of_what_has_come(
        self, upstream: Upstream, client: Client
    ) -> None:
        with get(client) as call:
            heading = asyncio.ensure_future(call.head())
            peer = await upstream.peer()
            await peer.says(OK + b"Content-Length: 9\r\n\r\nabc")
            await heading
        with pytest.raises(CallClosed):
            await call.read(60)

    @pytest.mark.parametrize("has_head", [False, True])
    async def test_a_call_on_the_connection_of_a_call_closed_with_its_last_byte_gets_its_answer(
        self, upstream: Upstream, has_head: bool
    ) -> None:
        """A client leaves with the last byte of its answer, before the task that has waited for this byte goes on."""
        origin = Observing(path=upstream.origin.path, host=upstream.origin.host, port=upstream.origin.port)
        client = Client(origin)
        first, second = get(client), get(client)
        waiting: asyncio.Future[Any] = asyncio.ensure_future(first.head())
        peer = await upstream.peer()
        await peer.heard()
        if has_head:
            await peer.says(OK + b"Content-Length: 2\r\n\r\n")
            await waiting
            waiting = asyncio.ensure_future(first.read(60))
            await settle()
        origin.pieces.clear()
        await peer.says(b"ok" if has_head else FINE)
        while not origin.pieces:  # noqa: ASYNC110  # what comes next must run in the turn after the byte has come
            await asyncio.sleep(0)
        first.close()
        telling = asyncio.ensure_future(_tells_later(peer))
        async with asyncio.timeout(PATIENCE):
            assert (await second.head()).status == 200
            assert await second.read(60) == b"ok"
            await asyncio.gather(telling, waiting)
        assert len(upstream.peers) == 1
        client.close()

    async def test_a_call_that_is_closed_before_its_head_sends_nothing(
        self, upstream: Upstream, client: Client
    ) -> None:
        call = get(client)
        call.close()
        with pytest.raises(CallClosed):
            await call.head()
        assert await (await upstream.peer()).left() == b""

    async def test_a_call_that_is_closed_while_it_connects_ends_at_once(self, upstream: Upstream) -> None:
        call = get(Client(Slow()))
        heading = asyncio.ensure_future(call.head())
        await settle()
        call.close()
        call.close()
        with pytest.raises(CallClosed):
            await heading

    async def test_a_call_that_is_closed_as_it_is_connected_gives_the_connection_up(self, tmp_path: Path) -> None:
        async with Upstream().listening(tmp_path / "socket") as upstream:
            call = get(Client(ClosedInTheEnd(path=upstream.origin.path)))
            ClosedInTheEnd.calls.append(call)
            with pytest.raises(CallClosed):
                await call.head()
            assert await (await upstream.peer()).left() == b""

    async def test_a_task_that_is_cancelled_gives_its_connection_up(self, upstream: Upstream, client: Client) -> None:
        asking = asyncio.ensure_future(whole(get(client)))
        peer = await upstream.peer()
        await peer.heard()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert await peer.left() == b""


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
async def secret(authority: trustme.CA, tmp_path: Path) -> AsyncIterator[Upstream]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("upstream.example").configure_cert(context)
    async with Upstream().listening(tmp_path / "secret", context) as upstream:
        yield upstream


def trusting(authority: trustme.CA, origin: Origin, name: str = "upstream.example") -> Origin:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return replace(origin, tls=context, server_name=name)


class TestNoConnection:
    """A server to which there is no connection."""

    async def test_an_upstream_that_does_not_listen_is_an_error(self, tmp_path: Path) -> None:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))  # and does not listen
            origins = [
                Origin(host="127.0.0.1", port=unused.getsockname()[1]),
                Origin(path=str(tmp_path / "nobody")),
                Origin(path="/" + "x" * 200),
                Origin(host="a" * 64 + ".invalid", port=80),
            ]
            for origin in origins:
                with pytest.raises(CannotConnect), get(Client(origin)) as call:
                    await call.head()

    async def test_options_are_set_on_tcp_sockets(self, upstream: Upstream) -> None:
        options = ((socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),)
        connection = await replace(upstream.origin, options=options).connect()
        sock = connection._transport.get_extra_info("socket")
        assert bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)) == (upstream.origin.path is None)
        connection.close()

    async def test_an_option_that_a_socket_does_not_take_leaves_no_connection_behind(self, tmp_path: Path) -> None:
        async with Upstream().listening(None) as upstream:
            origin = replace(upstream.origin, options=((socket.SOL_SOCKET, 9999, 1),))
            with pytest.raises(CannotConnect), get(Client(origin)) as call:
                await call.head()
            assert await (await upstream.peer()).left() == b""

    async def test_answers_come_over_tls_and_the_connection_is_kept(
        self, authority: trustme.CA, secret: Upstream
    ) -> None:
        client = Client(trusting(authority, secret.origin))
        large = b"x" * (1 << 20)
        said = OK + b"Content-Length: %d\r\n\r\n" % len(large)
        assert await talk(get(client), secret.peer(), said, large) == (200, large)
        assert await talk(get(client), again(secret.peers[0]), FINE) == (200, b"ok")
        client.close()
        assert await secret.peers[0].left() == b""

    async def test_an_answer_over_tls_that_is_reset_is_not_whole(self, authority: trustme.CA, tmp_path: Path) -> None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("upstream.example").configure_cert(context)
        async with Upstream().listening(None, context) as upstream:
            with get(Client(trusting(authority, upstream.origin))) as call:
                heading = asyncio.ensure_future(call.head())
                peer = await upstream.peer()
                await peer.heard()
                await peer.says(OK + b"\r\n")
                await heading
                peer.resets()
                with pytest.raises(HungUp):
                    await call.read(60)

    async def test_a_certificate_of_somebody_else_is_no_connection(
        self, authority: trustme.CA, secret: Upstream
    ) -> None:
        for origin, why in (
            (trusting(authority, secret.origin, "other.example"), "Hostname mismatch"),
            (trusting(trustme.CA(), secret.origin), "unable to get local issuer certificate"),
        ):
            with (
                pytest.raises(CannotConnect, match=f"SSLCertVerificationError, {why}") as caught,
                get(Client(origin)) as call,
            ):
                await call.head()
            assert isinstance(caught.value.__cause__, ssl.SSLError)

    async def test_tls_towards_an_upstream_that_speaks_none_is_no_connection(
        self, authority: trustme.CA, upstream: Upstream
    ) -> None:
        with get(Client(trusting(authority, upstream.origin))) as call:
            heading = asyncio.ensure_future(call.head())
            await (await upstream.peer()).says(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            with pytest.raises(CannotConnect, match="SSLError, WRONG_VERSION_NUMBER"):
                await heading


VIRTUAL = [pytest.param("unix", ("asyncio", {"loop_factory": VirtualLoop}), id="virtual")]
in_virtual_time = pytest.mark.parametrize(("upstream", "anyio_backend"), VIRTUAL, indirect=["upstream"])
"""On a loop whose time jumps, over a Unix socket, which holds no byte back."""


def now() -> float:
    return asyncio.get_running_loop().time()


class TestTimeLimits:
    """Time limits, in virtual time."""

    @pytest.mark.deadline("an upstream that stops answering")
    @in_virtual_time
    async def test_a_head_has_its_time_however_slowly_it_comes(self, upstream: Upstream, client: Client) -> None:
        with get(client, limits=SHORT) as call:
            heading = asyncio.ensure_future(call.head())
            peer = await upstream.peer()
            began = now()
            for byte in b"HTTP/1.1 200 OK\r\nA: ":
                await peer.says(bytes([byte]))
                await asyncio.sleep(1)
            with pytest.raises(TimedOut):
                await heading
            assert now() - began == pytest.approx(20, abs=1)

    @in_virtual_time
    async def test_the_time_for_a_head_runs_from_the_last_part_of_the_request(
        self, upstream: Upstream, client: Client
    ) -> None:
        parts = Parts()
        with post(client, parts, SHORT) as call:
            heading = asyncio.ensure_future(call.head())
            for _ in range(4):
                await asyncio.sleep(15)
                parts.come(b"abc")
            parts.come(None)
            await asyncio.sleep(19)
            assert not heading.done()
            await asyncio.sleep(2)
            with pytest.raises(TimedOut):
                await heading

    @pytest.mark.deadline("an upstream that stops answering")
    @in_virtual_time
    async def test_a_body_has_its_time_for_each_part(self, upstream: Upstream, client: Client) -> None:
        with get(client, limits=SHORT) as call:
            heading = asyncio.ensure_future(call.head())
            peer = await upstream.peer()
            await peer.says(OK + b"Content-Length: 9\r\n\r\n")
            await heading
            for _ in range(3):
                reading = asyncio.ensure_future(call.read(10))
                await asyncio.sleep(9)
                await peer.says(b"a")
                assert await reading == b"a"
            reading = asyncio.ensure_future(call.read(None))
            await asyncio.sleep(1000)
            await peer.says(b"a")
            assert await reading == b"a"
            began = now()
            with pytest.raises(TimedOut):
                await call.read(1)  # sooner than the last wait would have ended
            assert now() - began == pytest.approx(1, abs=0.01)

    @pytest.mark.deadline("an upstream that takes nothing of a request")
    @in_virtual_time
    async def test_an_upstream_that_takes_nothing_has_its_time(self, upstream: Upstream, client: Client) -> None:
        async def endless() -> AsyncIterator[bytes]:
            while True:
                yield b"x" * 65536

        with client.call(b"POST", b"/", HOST, endless(), limits=SHORT) as call:
            began = now()
            with pytest.raises(TimedOut):
                await call.head()
            assert now() - began == pytest.approx(10, abs=0.01)

    @pytest.mark.deadline("connecting to the upstream")
    @in_virtual_time
    async def test_a_connection_has_its_time_tls_included(
        self, upstream: Upstream, client: Client, authority: trustme.CA
    ) -> None:
        began = now()
        with (
            pytest.raises(CannotConnect, match="within 5 s"),
            get(Client(trusting(authority, upstream.origin)), limits=SHORT) as call,
        ):
            await call.head()
        assert now() - began == pytest.approx(5, abs=0.01)

    @in_virtual_time
    async def test_a_connection_is_kept_for_4_s_and_then_closed(self, upstream: Upstream, client: Client) -> None:
        assert await talk(get(client), upstream.peer(), FINE) == (200, b"ok")
        await asyncio.sleep(3.9)
        assert await talk(get(client), again(upstream.peers[0]), FINE) == (200, b"ok")
        began = now()
        assert await upstream.peers[0].left() == b""
        assert now() - began == pytest.approx(4, abs=0.01)

    @in_virtual_time
    async def test_bytes_that_nobody_asked_for_end_a_kept_connection_at_once(
        self, upstream: Upstream, client: Client
    ) -> None:
        assert await talk(get(client), upstream.peer(), FINE) == (200, b"ok")
        began = now()
        await upstream.peers[0].says(b"x")
        await upstream.peers[0].left()
        assert now() == began

    @in_virtual_time
    async def test_a_request_that_is_not_all_sent_costs_its_connection_at_once(
        self, upstream: Upstream, client: Client
    ) -> None:
        began = now()
        large = b"x" * (32 << 20)
        calls = [post(client, Parts()), client.call(b"POST", b"/", HOST, large, limits=PATIENT)]
        for call in calls:
            asking = asyncio.ensure_future(whole(call))
            peer = await upstream.peer()
            await peer.heard()
            await peer.says(EARLY)
            assert await asking == (401, b"no")
            assert len(await peer.left()) < len(large)
        assert now() == began

    @pytest.mark.deadline("a connection to the upstream without a request")
    @in_virtual_time
    async def test_each_kept_connection_is_closed_at_its_own_time(self, upstream: Upstream, client: Client) -> None:
        began = now()
        left = []
        calls = [get(client) for _ in range(3)]
        asking = [asyncio.ensure_future(whole(call)) for call in calls]
        for seconds in (3, 1, 2):
            peer = await upstream.peer()
            await peer.heard()
            await peer.says(OK + b"Keep-Alive: timeout=%d\r\nContent-Length: 0\r\n\r\n" % (seconds + 1))
        await asyncio.wait(asking)
        for number in (1, 2, 0):
            await upstream.peers[number].left()
            left.append(now() - began)
        assert left == pytest.approx([1, 2, 3], abs=0.01)

    @in_virtual_time
    async def test_nothing_is_left_on_the_loop_when_all_is_closed(self, upstream: Upstream, client: Client) -> None:
        assert await talk(get(client, limits=SHORT), upstream.peer(), FINE) == (200, b"ok")
        client.close()
        loop = asyncio.get_running_loop()
        assert all(timer.cancelled() for timer in loop._scheduled)  # type: ignore[attr-defined]

    async def test_a_time_that_is_over_is_an_error_on_every_loop(self, upstream: Upstream, client: Client) -> None:
        limits = CallLimits(connect_timeout=60, head_timeout=0.01, write_timeout=60)
        with pytest.raises(TimedOut):
            await whole(get(client, limits=limits))


ANSWERS = st.lists(
    st.tuples(
        st.sampled_from([b"", b"HTTP/1.1 100 x\r\n\r\n"]),
        st.binary(max_size=5),
        st.sampled_from(["length", "chunked"]),
        st.sampled_from([b"", b"", b"", b"\r\n", FINE.replace(b"ok", b"no"), b"0\r\n\r\n"]),
        st.lists(st.integers(1, 80), max_size=3),
    ),
    min_size=2,
    max_size=4,
)


class TestCutAnswers:
    """Answers that are cut anywhere, one after another."""

    @given(ANSWERS)
    def test_calls_one_after_another_never_see_each_others_bytes(
        self, tmp_path_factory: pytest.TempPathFactory, answers: list[tuple[bytes, bytes, str, bytes, list[int]]]
    ) -> None:
        async def run(folder: Path) -> None:
            async with Upstream().listening(folder / "socket") as upstream:
                client = Client(upstream.origin)
                kept: Peer | None = None
                for early, body, framing, after, places in answers:
                    said = OK + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
                    if framing == "chunked":
                        chunk = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
                        said = OK + b"Transfer-Encoding: chunked\r\n\r\n%b0\r\n\r\n" % chunk
                    said = early + said + after
                    edges = [0, *sorted({place for place in places if place < len(said)}), len(said)]
                    pieces = [said[start:end] for start, end in pairwise(edges)]
                    peer = upstream.peer() if kept is None else again(kept)
                    assert await talk(get(client), peer, *pieces) == (200, body)
                    kept = None if after else upstream.peers[-1]
                client.close()

        with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
            runner.run(run(tmp_path_factory.mktemp("answers")))
