"""A body on its way to the client, in virtual time."""

from collections.abc import AsyncIterator

import anyio
import pytest

from otel_sessions._http.client import CallClosed, HungUp, UpstreamError
from otel_sessions.asgi import Message
from otel_sessions.proxy.body import pass_body

pytestmark = [pytest.mark.no_cover, pytest.mark.anyio]

EVENTS = [(b"content-type", b"text/event-stream")]


@pytest.mark.parametrize("trouble", [CallClosed("the client has left"), HungUp("the upstream has left")])
@pytest.mark.parametrize("head", [EVENTS, [*EVENTS, (b"content-length", b"18")]], ids=["commented", "sized"])
async def test_the_trouble_of_a_stream_of_events_comes_as_it_is(
    trouble: UpstreamError, head: list[tuple[bytes, bytes]]
) -> None:
    said: list[Message] = []

    async def parts() -> AsyncIterator[bytes]:
        yield b"data: 1\n\n"
        await anyio.sleep(45)
        raise trouble

    async def send(message: Message) -> None:
        said.append(message)

    with pytest.raises(type(trouble)):
        await pass_body(parts(), head, send, 30.0)

    comments = [b":\n\n"] if head == EVENTS else []
    assert [message["body"] for message in said] == [b"data: 1\n\n", *comments]
