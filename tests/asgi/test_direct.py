"""Parts of a stream that come past `send`, outside any task: they are used and noted like all others. asyncio only."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import anyio
import pytest

from otel_sessions import Session, SessionManager
from otel_sessions.asgi import Message, Receive, Scope, Send, SessionLeaseMiddleware
from otel_sessions.asgi._direct import DIRECT, direct
from tests.exchanges import Client, http
from tests.virtual import BACKENDS

pytestmark = pytest.mark.anyio

START: Message = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"text/event-stream")],
}
LAST: Message = {"type": "http.response.body", "body": b"", "more_body": False}
EVENT = b"data: 1\n\n"
COMMENT = b": ping\n\n"


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", BACKENDS["asyncio"]()


class DirectClient(Client):
    """A client of a server that has the direct way."""

    async def send(self, message: Message) -> None:
        if message["type"] == DIRECT:
            message["way"].write = self._write
        else:
            await super().send(message)

    def _write(self, part: bytes) -> bool:
        self.sent.append({"type": "http.response.body", "body": part, "more_body": True})
        return True


def asking(**headers: str) -> DirectClient:
    return DirectClient(http(**headers))


def saying(parts: Sequence[bytes], pause: float = 0) -> Callable[[Scope, Receive, Send], Any]:
    """An app that says each part from a callback, `pause` seconds behind the one before."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(dict(START))
        write = await direct(send)
        loop, over = asyncio.get_running_loop(), asyncio.Event()
        for number, part in enumerate(parts, 1):
            loop.call_later(number * pause, write, part)
        loop.call_later(len(parts) * pause, over.set)
        await over.wait()
        await send(dict(LAST))

    return app


@pytest.mark.parametrize(("parts", "messages"), [([EVENT, COMMENT, EVENT], 3), ([COMMENT], 1), ([], 1)])
async def test_each_part_that_has_more_than_comments_counts_as_a_message(
    manager: SessionManager[None], session: Session[None], parts: list[bytes], messages: int
) -> None:
    client = await asking(x_session_id="s").go(SessionLeaseMiddleware(saying(parts), manager))

    assert client.body == b"".join(parts)
    assert session.metadata.message_count == messages


async def test_parts_in_no_session_pass_unnoted(manager: SessionManager[None]) -> None:
    client = await asking(x_session_id="unknown").go(SessionLeaseMiddleware(saying([EVENT]), manager, skip="/mcp"))

    assert client.body == EVENT


async def test_a_stream_whose_parts_pass_directly_goes_on(
    manager: SessionManager[None], session: Session[None]
) -> None:
    app = SessionLeaseMiddleware(saying([EVENT] * 9, pause=30), manager, stream_idle_timeout=35)

    client = await asking(x_session_id="s").go(app)

    assert client.body == EVENT * 9


async def test_a_stream_of_comments_alone_ends_after_its_timeout(
    manager: SessionManager[None], session: Session[None]
) -> None:
    began = anyio.current_time()
    app = SessionLeaseMiddleware(saying([EVENT, *[COMMENT] * 9], pause=10), manager, stream_idle_timeout=35)

    client = await asking(x_session_id="s").go(app)

    assert client.sent[-1] == LAST
    assert anyio.current_time() == began + 10 + 35


async def test_a_server_without_the_direct_way_is_an_error(
    manager: SessionManager[None], session: Session[None]
) -> None:
    with pytest.raises(RuntimeError, match="the server has no direct way for the parts of an answer"):
        await Client(http(x_session_id="s")).go(SessionLeaseMiddleware(saying([EVENT]), manager))
