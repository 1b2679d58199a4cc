"""The body of a request that may open a session has one deadline, from the first look at it to its end."""

from collections.abc import AsyncIterator

import anyio
import pytest

from otel_sessions import SessionConfig, SessionManager
from otel_sessions.asgi import Message, Receive, Scope, Send, SessionLeaseMiddleware
from otel_sessions.matchers import McpMatcher
from otel_sessions.proxy.exchange import Stalled
from otel_sessions.proxy.opening import OpeningTime
from tests.exchanges import INITIALIZE, Client, http_body, posting
from tests.virtual import Clock

pytestmark = [
    pytest.mark.no_cover,
    pytest.mark.anyio,
    pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True),  # as the proxy
]

SECONDS = 60.0
UNDECIDED = [b"{", *[b" "] * 9000]
"""Parts from which nobody can tell whether they open a session: one letter each."""
DECIDED = [INITIALIZE[:-1], *[b" "] * 9000]
"""An opening, and blanks before its last letter."""
OTHER = [b'{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{}' + b" " * 256, *[b" "] * 300]
"""A request that opens nothing."""


@pytest.fixture
async def manager(clock: Clock) -> AsyncIterator[SessionManager[None]]:
    async with SessionManager[None](SessionConfig(max_sessions=2), clock=clock) as manager:
        yield manager


class Dripping(Client):
    """A client whose parts of a body are seconds apart. The last part is the end of a JSON object."""

    apart = 1.0

    async def receive(self) -> Message:
        await anyio.sleep(self.apart)
        return await super().receive()


class App:
    """An app that reads all of a body before it answers."""

    def __init__(self, time: OpeningTime) -> None:
        self.time = time
        self.read = b""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        receive = self.time.open(scope, receive)
        more = True
        while more:
            message = await receive()
            self.read += message.get("body", b"")
            more = message.get("more_body", False)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"mcp-session-id", b"made")]})
        await send({"type": "http.response.body", "body": b"done"})


def dripping(parts: list[bytes], apart: float = 1.0, **headers: str) -> Dripping:
    client = Dripping(posting(**headers), [*[http_body(part, more=True) for part in parts], http_body(b"}")])
    client.apart = apart
    return client


def serving(manager: SessionManager[None], seconds: float | None) -> tuple[App, SessionLeaseMiddleware]:
    time = OpeningTime(seconds)
    app = App(time)
    return app, SessionLeaseMiddleware(app, manager, McpMatcher(), looking=time.look)


@pytest.mark.deadline("the whole body of a request that may open a session of the upstream, from the first look at it")
@pytest.mark.parametrize("apart", [0.0625, 1.0, SECONDS - 1])
@pytest.mark.parametrize("parts", [UNDECIDED, DECIDED, [*UNDECIDED[:5], *DECIDED[1:]]], ids=["look", "app", "both"])
async def test_a_body_that_drips_has_the_deadline_of_the_whole(
    manager: SessionManager[None], parts: list[bytes], apart: float
) -> None:
    _, served = serving(manager, SECONDS)
    began = anyio.current_time()

    with pytest.raises(Stalled):
        await dripping(parts, apart).go(served)

    assert anyio.current_time() - began == pytest.approx(SECONDS)
    assert manager.get_metrics().reserved == 0


async def test_a_body_that_comes_in_time_opens_its_session(manager: SessionManager[None]) -> None:
    app, served = serving(manager, SECONDS)

    client = await dripping(DECIDED[:10]).go(served)

    assert (client.status, len(app.read), "made" in manager) == (200, len(INITIALIZE) + 9, True)


async def test_a_body_that_opens_nothing_may_drip_after_the_look(manager: SessionManager[None]) -> None:
    app, served = serving(manager, SECONDS)

    client = await dripping(OTHER).go(served)

    assert (client.status, len(app.read)) == (200, len(b"".join(OTHER)) + 1)


async def test_a_body_in_a_session_may_drip(manager: SessionManager[None]) -> None:
    await manager.create_session("there", data=None)
    app, served = serving(manager, SECONDS)

    client = await dripping(UNDECIDED[:300], mcp_session_id="there").go(served)

    assert (client.status, len(app.read)) == (200, 301)


async def test_without_a_limit_a_body_may_drip_for_ever(manager: SessionManager[None]) -> None:
    _, served = serving(manager, None)

    client = await dripping(DECIDED).go(served)

    assert client.status == 200


async def test_the_answer_to_an_opening_has_no_deadline_of_its_body(manager: SessionManager[None]) -> None:
    time = OpeningTime(SECONDS)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        receive = time.open(scope, receive)
        await receive()
        with anyio.move_on_after(10 * SECONDS) as waited:
            await receive()  # for the client to leave
        assert waited.cancelled_caught
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"done"})

    served = SessionLeaseMiddleware(app, manager, McpMatcher(), looking=time.look)
    client = await Client(posting(), [http_body(INITIALIZE)]).go(served)

    assert client.status == 200
