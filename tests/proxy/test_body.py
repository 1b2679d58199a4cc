"""A stream of events on its way to the client, in virtual time."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import pytest

from otel_sessions._http.client import Call, CallClosed, HungUp, UpstreamError
from otel_sessions.asgi import Message
from otel_sessions.asgi._direct import DIRECT
from otel_sessions.proxy.body import pass_events
from tests.virtual import BACKENDS

pytestmark = [pytest.mark.no_cover, pytest.mark.anyio]

EVENTS = [(b"content-type", b"text/event-stream")]
EVENT = b"data: 1\n\n"
COMMENT = b":\n\n"


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", BACKENDS["asyncio"]()


class Upstream:
    """A call whose body comes in parts, each after a pause; an error ends it."""

    def __init__(self, *said: tuple[float, bytes | UpstreamError]) -> None:
        self._said = self._parts(said)
        self.is_over = False

    @staticmethod
    async def _parts(said: tuple[tuple[float, bytes | UpstreamError], ...]) -> AsyncIterator[bytes]:
        for seconds, part in said:
            await asyncio.sleep(seconds)
            if isinstance(part, UpstreamError):
                raise part
            yield part

    async def pour(self, sink: Callable[[bytes], bool]) -> None:
        async for part in self._said:
            if not sink(part):
                return
        self.is_over = True


class Client:
    """Takes parts until `is_full` is set, and then nothing for 100 seconds."""

    def __init__(self) -> None:
        self.said: list[bytes] = []
        self.is_full = False

    async def send(self, message: Message) -> None:
        if message["type"] == DIRECT:
            message["way"].write = self._write
            return
        if self.is_full:
            await asyncio.sleep(100)
            self.is_full = False
        if message["body"]:
            self.said.append(message["body"])

    def _write(self, part: bytes) -> bool:
        if part:
            self.said.append(part)
        return not self.is_full


async def passed(client: Client, upstream: Upstream, head: list[tuple[bytes, bytes]], after: float | None) -> None:
    await pass_events(cast("Call", upstream), head, client.send, after)


@pytest.mark.parametrize("trouble", [CallClosed("the client has left"), HungUp("the upstream has left")])
@pytest.mark.parametrize("head", [EVENTS, [*EVENTS, (b"content-length", b"18")]], ids=["commented", "sized"])
async def test_the_trouble_of_a_stream_of_events_comes_as_it_is(
    trouble: UpstreamError, head: list[tuple[bytes, bytes]]
) -> None:
    client = Client()

    with pytest.raises(type(trouble)):
        await passed(client, Upstream((0, EVENT), (45, trouble)), head, 30)

    assert client.said == [EVENT, *([COMMENT] if head == EVENTS else [])]


@pytest.mark.parametrize(
    ("pauses", "comments"), [([29, 29, 29], [0, 0, 0]), ([31, 1, 61], [1, 0, 2])], ids=["never silent", "silent"]
)
async def test_a_comment_comes_whenever_there_is_silence_for_so_long(pauses: list[float], comments: list[int]) -> None:
    client = Client()

    await passed(client, Upstream(*((pause, EVENT) for pause in pauses)), EVENTS, 30)

    assert client.said == [said for number in comments for said in [*[COMMENT] * number, EVENT]]


async def test_no_comment_comes_in_the_midst_of_an_event_however_it_is_cut() -> None:
    client = Client()

    await passed(client, Upstream((0, b"data: 1"), (40, b"\n"), (40, b"\n"), (40, EVENT)), EVENTS, 30)

    assert client.said == [b"data: 1", b"\n", b"\n", COMMENT, EVENT]


async def test_without_comments_a_silent_stream_stays_silent() -> None:
    client = Client()

    await passed(client, Upstream((0, EVENT), (4000, EVENT)), EVENTS, None)

    assert client.said == [EVENT, EVENT]


async def test_a_client_that_takes_nothing_gets_no_comment_until_it_takes_again() -> None:
    client = Client()
    client.is_full = True

    await passed(client, Upstream((0, EVENT), (45, EVENT)), EVENTS, 30)

    assert client.said == [EVENT, COMMENT, EVENT]
