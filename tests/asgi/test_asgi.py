from collections.abc import AsyncIterator

import anyio
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware

from otel_sessions import (
    EndReason,
    ManagerClosed,
    RejectionReason,
    Session,
    SessionConfig,
    SessionManager,
    SessionNotFound,
    TooManySessions,
)
from otel_sessions.asgi import SESSION, Message, Receive, Scope, Send, SessionLeaseMiddleware
from otel_sessions.matchers import HeaderMatcher
from tests.exchanges import Client, http
from tests.virtual import Clock, settle

pytestmark = pytest.mark.anyio

CONFIG = SessionConfig(max_sessions=2, cleanup_interval=5, max_idle_time=20, max_session_age=60, drain_timeout=1)
START: Message = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]}
BODY: Message = {"type": "http.response.body", "body": b"hello"}


@pytest.fixture
async def manager(clock: Clock) -> AsyncIterator[SessionManager[None]]:
    async with SessionManager(CONFIG, clock=clock) as manager:
        yield manager


def asking(session_id: str | None = None, kind: str = "http", says: tuple[Message, ...] = ()) -> Client:
    named = {} if session_id is None else {"x_session_id": session_id}
    return Client({**http(host="here", **named), "type": kind}, list(says))


def session_of(scope: Scope) -> Session[None]:
    session = scope[SESSION]
    assert isinstance(session, Session)
    return session


class App:
    """An app that answers at once and keeps what it found in the scope."""

    def __init__(self, *answer: Message) -> None:
        self._answer = answer
        self.found: list[Session[None]] = []
        self.idle: list[float] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        session = session_of(scope)
        self.found.append(session)
        await anyio.sleep(1)
        self.idle.append(session.idle_for)
        for message in self._answer:
            await send(message)


class Stuck:
    """An app that sends something and then never ends."""

    def __init__(self, *answer: Message) -> None:
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        for message in self._answer:
            await send(message)
        await anyio.sleep_forever()


class Faulty:
    """An app that raises, after it has sent something."""

    def __init__(self, error: Exception, *answer: Message) -> None:
        self._error = error
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        for message in self._answer:
            await send(message)
        raise self._error


class TestOpening:
    """How a request opens a session."""

    async def test_a_request_without_the_header_opens_a_session_and_learns_its_id(
        self, manager: SessionManager[None]
    ) -> None:
        app = App(START, BODY)

        exchange = await asking().go(SessionLeaseMiddleware(app, manager))

        (session,) = app.found
        assert exchange.headers(b"x-session-id") == [session.id.encode()]
        assert exchange.headers(b"content-type") == [b"text/plain"]
        assert exchange.kinds == ["http.response.start", "http.response.body"]
        assert manager.get(session.id) is session

    async def test_the_header_is_found_whatever_its_case_was_in_code(self, manager: SessionManager[None]) -> None:
        exchange = await asking().go(SessionLeaseMiddleware(App(START, BODY), manager, HeaderMatcher("X-Session-ID")))

        assert len(exchange.headers(b"x-session-id")) == 1

    async def test_the_id_replaces_what_the_app_says_under_that_name(self, manager: SessionManager[None]) -> None:
        app = App({**START, "headers": [(b"X-Session-Id", b"of the upstream")]}, BODY)

        exchange = await asking().go(SessionLeaseMiddleware(app, manager))

        assert exchange.headers(b"x-session-id") == [app.found[0].id.encode()]
        assert exchange.headers(b"X-Session-Id") == []

    async def test_a_response_without_headers_of_its_own_gets_the_id(self, manager: SessionManager[None]) -> None:
        app = App({"type": "http.response.start", "status": 204})

        exchange = await asking().go(SessionLeaseMiddleware(app, manager))

        assert exchange.headers(b"x-session-id") == [app.found[0].id.encode()]

    async def test_an_opening_that_raises_before_its_response_leaves_no_session(
        self, manager: SessionManager[None]
    ) -> None:
        with pytest.raises(OSError, match="upstream"):
            await asking().go(SessionLeaseMiddleware(Faulty(OSError("upstream")), manager))

        assert manager.get_metrics().cleaned_by_reason[EndReason.CLOSED] == 1
        assert len(manager) == 0

    async def test_an_opening_that_never_answers_leaves_no_session(self, manager: SessionManager[None]) -> None:
        await asking().go(SessionLeaseMiddleware(App(), manager))

        assert manager.get_metrics().total_created == 1
        assert len(manager) == 0

    async def test_an_opening_that_is_cancelled_before_its_response_leaves_no_session(
        self,
        manager: SessionManager[None],
    ) -> None:
        with anyio.move_on_after(1) as given_up:
            await asking().go(SessionLeaseMiddleware(Stuck(), manager))

        assert given_up.cancelled_caught
        assert manager.get_metrics().total_created == 1
        assert len(manager) == 0

    async def test_an_opening_that_raises_after_its_response_started_keeps_the_session(
        self,
        manager: SessionManager[None],
    ) -> None:
        with pytest.raises(OSError, match="upstream"):
            await asking().go(SessionLeaseMiddleware(Faulty(OSError("upstream"), START), manager))

        assert len(manager) == 1

    async def test_an_opening_that_outlasts_the_manager_raises_the_apps_own_error(self, clock: Clock) -> None:
        manager = SessionManager(CONFIG, clock=clock)

        class LastOne:
            async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
                with anyio.CancelScope(shield=True):
                    await manager.shutdown()
                raise OSError("too late")

        async with manager:
            with pytest.raises(OSError, match="too late"):
                await asking().go(SessionLeaseMiddleware(LastOne(), manager))

        assert manager.get_metrics().cleaned_by_reason[EndReason.SHUTDOWN] == 1


class TestUse:
    """How a request uses the session that it names."""

    async def test_a_request_with_the_header_runs_under_a_lease_for_its_whole_time(
        self, manager: SessionManager[None]
    ) -> None:
        session = await manager.create_session()
        app = App(START, BODY)

        exchange = await asking(session.id).go(SessionLeaseMiddleware(app, manager))

        assert app.found == [session]
        assert app.idle == [0.0]
        assert exchange.headers(b"x-session-id") == []
        assert SESSION not in exchange.scope
        assert session.metadata.message_count == 1
        assert manager.get_metrics().leased == 0

    async def test_an_unknown_id_is_answered_404_without_showing_it(self, manager: SessionManager[None]) -> None:
        app = App(START, BODY)

        exchange = await asking("made-up").go(SessionLeaseMiddleware(app, manager))

        assert exchange.status == 404
        assert "made-up" not in str(exchange.sent)
        assert exchange.kinds == ["http.response.start", "http.response.body"]
        assert app.found == []

    async def test_an_ended_id_is_answered_404(self, manager: SessionManager[None]) -> None:
        session = await manager.create_session()
        await manager.close_session(session.id)

        exchange = await asking(session.id).go(SessionLeaseMiddleware(App(START, BODY), manager))

        assert exchange.status == 404

    async def test_an_app_may_close_the_session_of_its_own_request(self, manager: SessionManager[None]) -> None:
        class Goodbye:
            async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
                assert await manager.close_session(session_of(scope).id)
                await send(START)
                await send(BODY)

        session = await manager.create_session()

        exchange = await asking(session.id).go(SessionLeaseMiddleware(Goodbye(), manager))

        assert exchange.sent[1] == BODY
        assert session.end_reason is EndReason.CLOSED


class TestRefusals:
    """What a client gets that has no place."""

    async def test_the_cap_is_answered_503_with_the_seconds_to_wait(self, manager: SessionManager[None]) -> None:
        for _ in range(2):
            await manager.create_session()
        app = App(START, BODY)

        exchange = await asking().go(SessionLeaseMiddleware(app, manager))

        assert exchange.status == 503
        assert exchange.headers(b"retry-after") == [b"5"]
        assert app.found == []
        assert manager.get_metrics().rejected[RejectionReason.MAX_SESSIONS] == 1

    async def test_a_wait_of_less_than_a_second_is_rounded_up_to_one(self, clock: Clock) -> None:
        config = SessionConfig(max_sessions=1, max_idle_time=1.25)
        async with SessionManager(config, clock=clock) as manager:
            await manager.create_session()
            await anyio.sleep(1)

            exchange = await asking().go(SessionLeaseMiddleware(App(START, BODY), manager))

        assert exchange.headers(b"retry-after") == [b"1"]

    async def test_an_unknown_wait_is_left_out(self, manager: SessionManager[None]) -> None:
        sessions = [await manager.create_session() for _ in range(2)]

        with manager.pin(sessions[0].id), manager.pin(sessions[1].id):
            exchange = await asking().go(SessionLeaseMiddleware(App(START, BODY), manager))

        assert exchange.status == 503
        assert exchange.headers(b"retry-after") == []

    async def test_a_manager_that_does_not_run_answers_503(self, manager: SessionManager[None]) -> None:
        session = await manager.create_session()
        app = SessionLeaseMiddleware(App(START, BODY), manager)
        await manager.shutdown()

        assert (await asking().go(app)).status == 503
        assert (await asking(session.id).go(app)).status == 503

    @pytest.mark.parametrize(
        "error", [TooManySessions(1), ManagerClosed("another manager"), SessionNotFound("another session")]
    )
    async def test_the_apps_own_errors_of_these_kinds_stay_its_own(
        self, manager: SessionManager[None], error: Exception
    ) -> None:
        exchange = asking((await manager.create_session()).id)

        with pytest.raises(type(error)) as caught:
            await exchange.go(SessionLeaseMiddleware(Faulty(error), manager))

        assert caught.value is error
        assert exchange.sent == []


class TestEndedByForce:
    """A session that is ended while a request uses it."""

    async def test_a_session_closed_under_a_request_ends_it_with_404(self, manager: SessionManager[None]) -> None:
        session = await manager.create_session()
        exchange = asking(session.id)

        async with anyio.create_task_group() as requests:
            requests.start_soon(exchange.go, SessionLeaseMiddleware(Stuck(), manager))
            await settle()
            await manager.close_session(session.id)

        assert exchange.status == 404

    async def test_a_session_closed_under_a_response_ends_it_without_a_second_start(
        self,
        manager: SessionManager[None],
    ) -> None:
        session = await manager.create_session()
        exchange = asking(session.id)

        async with anyio.create_task_group() as requests:
            requests.start_soon(exchange.go, SessionLeaseMiddleware(Stuck(START), manager))
            await settle()
            await manager.close_session(session.id)

        assert exchange.kinds == ["http.response.start"]

    async def test_a_new_session_that_reaches_its_age_under_its_request_ends_it_with_404(
        self,
        manager: SessionManager[None],
    ) -> None:
        exchange = await asking().go(SessionLeaseMiddleware(Stuck(), manager))

        assert exchange.status == 404
        assert exchange.headers(b"x-session-id") == []
        assert manager.get_metrics().cleaned_by_reason[EndReason.MAX_AGE] == 1


ACCEPT: Message = {"type": "websocket.accept"}
CLOSE: Message = {"type": "websocket.close", "code": 1000}


class TestWebSockets:
    """A WebSocket holds its session for as long as it lasts."""

    async def test_a_websocket_opens_a_session_and_learns_its_id_when_it_is_accepted(
        self,
        manager: SessionManager[None],
    ) -> None:
        app = App(ACCEPT, CLOSE)

        exchange = await asking(kind="websocket").go(SessionLeaseMiddleware(app, manager))

        assert exchange.headers(b"x-session-id") == [app.found[0].id.encode()]
        assert exchange.sent[1] == CLOSE
        assert len(manager) == 1

    @pytest.mark.parametrize("denial", ["websocket.close", "websocket.http.response.start"])
    async def test_a_websocket_that_the_app_denies_leaves_no_session(
        self, manager: SessionManager[None], denial: str
    ) -> None:
        exchange = await asking(kind="websocket").go(SessionLeaseMiddleware(App({"type": denial}), manager))

        assert exchange.sent == [{"type": denial}]
        assert len(manager) == 0

    async def test_a_websocket_of_an_unknown_session_is_refused_before_it_is_accepted(
        self,
        manager: SessionManager[None],
    ) -> None:
        exchange = await asking("made-up", "websocket").go(SessionLeaseMiddleware(App(ACCEPT), manager))

        assert exchange.sent == [{"type": "websocket.close", "code": 1008}]

    async def test_a_websocket_at_the_cap_is_refused_before_it_is_accepted(self, manager: SessionManager[None]) -> None:
        for _ in range(2):
            await manager.create_session()

        exchange = await asking(kind="websocket").go(SessionLeaseMiddleware(App(ACCEPT), manager))

        assert exchange.sent == [{"type": "websocket.close", "code": 1013}]

    async def test_a_websocket_is_closed_when_its_session_is_ended_by_force(
        self, manager: SessionManager[None]
    ) -> None:
        exchange = await asking(kind="websocket").go(SessionLeaseMiddleware(Stuck(ACCEPT), manager))

        assert exchange.kinds == ["websocket.accept", "websocket.close"]
        assert exchange.sent[1]["code"] == 1001

    async def test_a_websocket_that_is_closed_already_is_not_closed_again(self, manager: SessionManager[None]) -> None:
        exchange = await asking(kind="websocket").go(SessionLeaseMiddleware(Stuck(ACCEPT, CLOSE), manager))

        assert exchange.kinds == ["websocket.accept", "websocket.close"]
        assert exchange.sent[1] == CLOSE

    async def test_a_websocket_whose_client_has_left_is_not_closed_again(self, manager: SessionManager[None]) -> None:
        class Tidying:
            async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
                assert (await receive())["type"] == "websocket.connect"
                await send(ACCEPT)
                assert (await receive())["type"] == "websocket.disconnect"
                await anyio.sleep_forever()

        session = await manager.create_session()
        exchange = asking(session.id, "websocket", ({"type": "websocket.connect"}, {"type": "websocket.disconnect"}))

        await exchange.go(SessionLeaseMiddleware(Tidying(), manager))

        assert exchange.kinds == ["websocket.accept"]
        assert session.end_reason is EndReason.MAX_AGE


class TestEverythingElse:
    """What is no request of a client."""

    async def test_other_scopes_pass_untouched(self, manager: SessionManager[None]) -> None:
        class Lifespan:
            async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
                assert SESSION not in scope
                await send({"type": (await receive())["type"]})

        exchange = asking("made-up", "lifespan", ({"type": "lifespan.startup"},))

        await exchange.go(SessionLeaseMiddleware(Lifespan(), manager))

        assert exchange.kinds == ["lifespan.startup"]
        assert len(manager) == 0

    async def test_it_is_a_middleware_of_a_starlette_app(self, manager: SessionManager[None]) -> None:
        app = Starlette(middleware=[Middleware(SessionLeaseMiddleware, manager=manager)])
        exchange = asking()
        exchange.scope.update({"method": "GET", "path": "/", "query_string": b"", "root_path": ""})

        await app(exchange.scope, exchange.receive, exchange.send)

        assert exchange.status == 404  # the app's own: it has no routes
        assert exchange.headers(b"x-session-id") == []

    async def test_an_app_may_give_a_new_session_its_data(self, clock: Clock) -> None:
        async with SessionManager[bytearray | None](CONFIG, clock=clock) as manager:

            class Buffering:
                async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
                    session = manager.get(session_of(scope).id)
                    assert session is not None
                    assert session.data is None
                    session.data = bytearray(8)
                    await send(START)

            exchange = await asking().go(SessionLeaseMiddleware(Buffering(), manager))

            (session_id,) = exchange.headers(b"x-session-id")
            session = manager.get(session_id.decode())
            assert session is not None
            assert session.data == bytearray(8)
