"""Exchanges in no session, and how a proxy that shuts down ends them."""

from collections.abc import Callable, Coroutine

import anyio
import pytest

from otel_sessions.asgi import SESSION, Message, Receive, Scope, Send
from otel_sessions.matchers import McpMatcher
from otel_sessions.proxy.sessionless import Sessionless
from tests.virtual import settle

pytestmark = [
    pytest.mark.no_cover,
    pytest.mark.anyio,
    pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True),  # as the proxy
]

HTTP: Scope = {"type": "http", "method": "GET", "path": "/", "headers": []}


class App:
    """An app whose answers take as long as their path says, in seconds."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.ended: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.started.append(scope["path"])
        await anyio.sleep(float(scope["path"][1:]))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"done"})
        self.ended.append(scope["path"])


async def nothing() -> Message:
    await anyio.sleep_forever()
    raise AssertionError


def asked(
    sessionless: Sessionless, seconds: float, sent: list[Message], **more: object
) -> Callable[[], Coroutine[object, object, None]]:
    """Return what asks for an answer that takes so many seconds."""

    async def send(message: Message) -> None:
        sent.append(message)

    async def ask() -> None:
        await sessionless({**HTTP, "path": f"/{seconds}", **more}, nothing, send)

    return ask


async def test_where_no_exchange_was_ever_open_the_end_is_at_once() -> None:
    began = anyio.current_time()
    await Sessionless(App(), McpMatcher()).end(60.0)

    assert anyio.current_time() == began


async def test_the_end_comes_as_soon_as_no_exchange_is_open() -> None:
    app, sent = App(), list[Message]()
    sessionless = Sessionless(app, McpMatcher())
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(asked(sessionless, 1.0, sent))
        tasks.start_soon(asked(sessionless, 3.0, sent))
        await settle()
        began = anyio.current_time()
        await sessionless.end(60.0)

    assert anyio.current_time() - began == pytest.approx(3.0)
    assert [message.get("status") for message in sent] == [200, None, 200, None]


async def test_an_exchange_that_outlasts_the_time_is_answered_503() -> None:
    app, sent = App(), list[Message]()
    sessionless = Sessionless(app, McpMatcher())
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(asked(sessionless, 100.0, sent))
        await settle()
        began = anyio.current_time()
        await sessionless.end(5.0)
        took = anyio.current_time() - began

    assert took == pytest.approx(5.0)
    assert app.ended == []
    assert [message.get("status") for message in sent] == [503, None]


async def test_an_exchange_that_begins_as_the_last_one_ends_has_its_time_too() -> None:
    app, sent = App(), list[Message]()
    sessionless = Sessionless(app, McpMatcher())

    async def one_after_the_other() -> None:
        await asked(sessionless, 1.0, sent)()
        await asked(sessionless, 2.0, sent)()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(one_after_the_other)
        await settle()
        await sessionless.end(60.0)

    assert app.ended == ["/1.0", "/2.0"]


async def test_an_exchange_in_a_session_is_left_to_the_middleware() -> None:
    app, sent = App(), list[Message]()
    sessionless = Sessionless(app, McpMatcher())
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(asked(sessionless, 10.0, sent, **{SESSION: object()}))
        await settle()
        began = anyio.current_time()
        await sessionless.end(60.0)
        assert anyio.current_time() == began

    assert app.ended == ["/10.0"]
