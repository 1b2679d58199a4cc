"""No client is told the id of a session that the fleet's store does not know yet."""

from typing import Any

import anyio
import pytest

from otel_sessions import EndReason, Peer, Session, SessionConfig, SessionExists, SessionManager, StoreUnavailable
from otel_sessions.asgi import Message, Receive, Scope, Send, SessionLeaseMiddleware, session_of
from otel_sessions.matchers import CookieMatcher, Match, McpMatcher, Opens, SessionMatcher
from tests.doubles import Ends, StoreFleet
from tests.exchanges import Client, http, initializing
from tests.virtual import Clock, settle

pytestmark = pytest.mark.anyio

CONFIG = SessionConfig(max_idle_time=20, max_session_age=60)
MCP = McpMatcher()
COOKIE = CookieMatcher()
MADE = ((b"mcp-session-id", b"of-the-app"), (b"content-type", b"text/event-stream"))


class ForwardingFleet(StoreFleet):
    """A fleet that a middleware takes. No exchange ever leads elsewhere. What the store does not know is hidden."""

    needs_hints = False

    def register(self, session: Session[Any]) -> None:
        super().register(session)
        self.hidden.add(session)

    async def registered(self, session: Session[Any]) -> None:
        await super().registered(session)
        self.hidden.discard(session)

    def is_forwarded(self, scope: Scope) -> bool:
        return False

    async def locate_again(self, session_id: str, wrong: Peer) -> Peer | None:
        raise NotImplementedError

    async def forward(self, peer: Peer, session_id: str, scope: Scope, receive: Receive, send: Send) -> bool:
        raise NotImplementedError

    async def take(self, scope: Scope, receive: Receive, send: Send, serve: object) -> None:
        raise NotImplementedError


class App:
    """An app that announces an id, in an answer or in the acceptance of a WebSocket."""

    def __init__(self) -> None:
        self.done = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        start: Message = {"type": "http.response.start", "status": 200, "headers": list(MADE)}
        if scope["type"] == "websocket":
            start = {"type": "websocket.accept", "headers": list(MADE)}
        await send(start)
        if scope["type"] == "http":
            await send({"type": "http.response.body", "body": b"done"})
        self.done = True


@pytest.fixture
def fleet() -> ForwardingFleet:
    return ForwardingFleet()


def client_of(matcher: SessionMatcher) -> Client:
    return initializing() if matcher is MCP else Client(http())


class OpenedByWebSockets(McpMatcher):
    """A matcher by which the acceptance of a WebSocket opens a session."""

    def match(self, scope: Scope) -> Match:
        return Match(opens=Opens.YES)

    def establishes(self, status: int) -> bool:
        return status == 101


def connecting() -> Client:
    return Client({**http(), "type": "websocket"}, [{"type": "websocket.connect"}])


@pytest.mark.parametrize("matcher", [MCP, COOKIE])
async def test_an_answer_waits_until_the_store_knows_the_session(
    clock: Clock, fleet: ForwardingFleet, matcher: SessionMatcher
) -> None:
    fleet.silent = True
    async with SessionManager[Any](CONFIG, clock=clock, fleet=fleet) as manager:
        app = SessionLeaseMiddleware(App(), manager, matcher)
        client = client_of(matcher)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.go, app)
            await anyio.sleep(2)
            assert client.sent == []
            fleet.answer()
        assert (client.status, client.body) == (200, b"done")
        assert len(manager) == len(fleet.standing) == 1


@pytest.mark.parametrize("matcher", [MCP, COOKIE])
async def test_a_session_that_the_store_does_not_take_is_refused_with_the_time_to_come_back(
    clock: Clock, fleet: ForwardingFleet, ends: Ends, matcher: SessionMatcher
) -> None:
    fleet.refusal = StoreUnavailable(retry_after=2.5)
    async with SessionManager[Any](CONFIG, clock=clock, fleet=fleet, on_close=ends) as manager:
        app = App()
        client = await client_of(matcher).go(SessionLeaseMiddleware(app, manager, matcher))
        await settle()

        assert (client.status, client.headers(b"retry-after")) == (503, [b"3"])
        assert client.headers(b"mcp-session-id") == []
        assert not app.done
        assert [reason for _, reason in ends.seen] == [EndReason.FAILED]
        assert len(manager) == 0


async def test_an_id_that_another_process_has_is_told_to_nobody_and_ends_here_as_fenced(
    clock: Clock, fleet: ForwardingFleet, ends: Ends
) -> None:
    fleet.refusal = SessionExists("of-the-app")
    strays: list[str] = []

    async def note(session_id: str, scope: Scope) -> None:
        strays.append(session_id)

    async with SessionManager[Any](CONFIG, clock=clock, fleet=fleet, on_close=ends) as manager:
        middleware = SessionLeaseMiddleware(App(), manager, MCP, on_stray=note)
        client = await initializing().go(middleware)
        await settle()

        assert client.status == 503
        assert ends.seen == [("of-the-app", EndReason.FENCED)]
        assert strays == []


@pytest.mark.parametrize("matcher", [MCP, COOKIE])
async def test_a_session_that_is_ended_while_it_is_registered_is_not_announced(
    clock: Clock, fleet: ForwardingFleet, matcher: SessionMatcher
) -> None:
    fleet.silent = True
    async with SessionManager[Any](CONFIG, clock=clock, fleet=fleet) as manager:
        client = client_of(matcher)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.go, SessionLeaseMiddleware(App(), manager, matcher))
            await settle()
            [session] = fleet.standing
            await manager.close_session(session.id)

        assert client.status == 404
        assert client.headers(b"mcp-session-id") == client.headers(b"set-cookie") == []


async def test_an_app_that_is_shielded_cannot_send_the_id_of_a_session_that_was_ended(
    clock: Clock, fleet: ForwardingFleet
) -> None:
    fleet.silent = True
    app = App()

    async def shielded(scope: Scope, receive: Receive, send: Send) -> None:
        with anyio.CancelScope(shield=True):
            await app(scope, receive, send)

    async with SessionManager[Any](CONFIG, clock=clock, fleet=fleet) as manager:
        client = initializing()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.go, SessionLeaseMiddleware(shielded, manager, MCP))
            await settle()
            await manager.close_session("of-the-app")

        assert client.status == 404
        assert not app.done


async def test_an_app_that_ends_its_session_while_it_is_registered_goes_on(
    clock: Clock, fleet: ForwardingFleet
) -> None:
    fleet.silent = True
    async with SessionManager[Any](CONFIG, clock=clock, fleet=fleet) as manager:
        app = App()

        async def ending(scope: Scope, receive: Receive, send: Send) -> None:
            async with anyio.create_task_group() as tasks:

                async def end() -> None:
                    await settle()
                    assert session_of(scope) is not None
                    await manager.close_session("of-the-app")

                tasks.start_soon(end)
                await app(scope, receive, send)

        client = await initializing().go(SessionLeaseMiddleware(ending, manager, MCP))

        assert (client.status, app.done) == (200, True)


async def test_a_websocket_is_accepted_when_the_store_knows_its_session(clock: Clock, fleet: ForwardingFleet) -> None:
    fleet.silent = True
    async with SessionManager[Any](CONFIG, clock=clock, fleet=fleet) as manager:
        client = connecting()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.go, SessionLeaseMiddleware(App(), manager, OpenedByWebSockets()))
            await anyio.sleep(2)
            assert client.kinds == []
            fleet.answer()
        assert client.kinds == ["websocket.accept"]


async def test_a_websocket_whose_session_the_store_does_not_take_is_closed(
    clock: Clock, fleet: ForwardingFleet
) -> None:
    fleet.refusal = StoreUnavailable()
    async with SessionManager[Any](CONFIG, clock=clock, fleet=fleet) as manager:
        client = await connecting().go(SessionLeaseMiddleware(App(), manager, OpenedByWebSockets()))

        assert client.sent == [{"type": "websocket.close", "code": 1013}]


async def test_a_websocket_that_the_app_closes_at_once_waits_for_no_store(clock: Clock, fleet: ForwardingFleet) -> None:
    fleet.silent = True

    async def close(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.close"})

    async with SessionManager[Any](CONFIG, clock=clock, fleet=fleet) as manager:
        client = await connecting().go(SessionLeaseMiddleware(close, manager, OpenedByWebSockets()))

        assert client.kinds == ["websocket.close"]


async def test_a_client_that_leaves_while_its_session_is_registered_leaves_no_session(
    clock: Clock, fleet: ForwardingFleet, ends: Ends
) -> None:
    fleet.silent = True
    async with SessionManager[Any](CONFIG, clock=clock, fleet=fleet, on_close=ends) as manager:
        with anyio.move_on_after(1):
            await initializing().go(SessionLeaseMiddleware(App(), manager, MCP))
        await settle()

        assert ends.seen == [("of-the-app", EndReason.CLOSED)]
        assert len(manager) == 0


async def test_a_stream_that_is_silent_while_its_session_is_registered_ends_without_a_part(
    clock: Clock, fleet: ForwardingFleet
) -> None:
    fleet.silent = True
    async with SessionManager[Any](CONFIG, clock=clock, fleet=fleet) as manager:
        client = initializing()
        await client.go(SessionLeaseMiddleware(App(), manager, MCP, stream_idle_timeout=2))
        await settle()

        assert client.sent == []
        assert len(manager) == 0


async def test_what_opens_no_session_waits_for_no_store(clock: Clock, fleet: ForwardingFleet) -> None:
    fleet.silent = True

    async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 400, "headers": list(MADE)})
        await send({"type": "http.response.body", "body": b"no"})

    async with SessionManager[Any](CONFIG, clock=clock, fleet=fleet) as manager:
        client = await initializing().go(SessionLeaseMiddleware(refuse, manager, MCP))

        assert (client.status, client.body) == (400, b"no")
        assert not fleet.standing


async def test_a_full_fleet_is_a_503_that_says_when_to_come_back(clock: Clock, fleet: ForwardingFleet) -> None:
    fleet.grant = 0
    async with SessionManager[Any](CONFIG, clock=clock, fleet=fleet) as manager:
        client = await initializing().go(SessionLeaseMiddleware(App(), manager, MCP))

        assert (client.status, client.headers(b"retry-after")) == (503, [b"5"])
