"""What a client is told by the middleware of a process whose store, or whose way to the owner, is not there."""

import anyio
import pytest

from otel_sessions import SessionManager
from otel_sessions.asgi import Receive, Scope, Send, SessionLeaseMiddleware
from otel_sessions.matchers import McpMatcher
from tests.exchanges import Client, initializing, posting
from tests.fleet.processes import LEASE, books, create, process
from tests.fleet.valkey import Server

pytestmark = pytest.mark.anyio


async def app(_scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"mcp-session-id", b"of-the-app")]})
    await send({"type": "http.response.body", "body": b"done"})


async def answer(manager: SessionManager[None], client: Client) -> tuple[object, bool]:
    """Return the status that a client gets, and whether the answer says when to come back."""
    await client.go(SessionLeaseMiddleware(app, manager, McpMatcher()))
    return client.status, bool(client.headers(b"retry-after"))


async def test_while_the_store_is_away_nobody_is_told_that_a_session_is_gone(server: Server) -> None:
    async with process(server) as one, process(server) as other:
        async with other.manager.reserve() as place:
            place.commit("upstream-1", data=None)
        one.wire.is_cut = True
        await anyio.sleep(LEASE)
        assert await answer(one.manager, Client(posting(mcp_session_id="upstream-1"))) == (503, True)


async def test_closed_and_without_a_store_no_session_is_opened(server: Server) -> None:
    async with process(server, outage="closed") as one:
        one.wire.is_cut = True
        assert await answer(one.manager, initializing()) == (503, True)
        await anyio.sleep(LEASE)
        assert await answer(one.manager, initializing()) == (503, True)


@pytest.mark.parametrize("anyio_backend", ["trio"], indirect=True)
async def test_on_trio_a_session_of_another_process_is_answered_with_503(server: Server) -> None:
    async with process(server) as one, process(server) as other:
        [session] = await create(other, 1)
        assert await answer(one.manager, Client(posting(mcp_session_id=session.id))) == (503, True)
        assert await answer(other.manager, Client(posting(mcp_session_id=session.id))) == (200, False)


async def test_a_session_that_an_app_opens_is_registered_before_its_id_is_told(server: Server) -> None:
    async with process(server) as one:
        assert await answer(one.manager, initializing()) == (200, False)
        assert books(server)["active"] == 1
        assert await answer(one.manager, Client(posting(mcp_session_id="of-the-app"))) == (200, False)
