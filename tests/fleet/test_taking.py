"""What a process does with an exchange that says that another process has passed it on."""

import contextlib
import time
from typing import Any

import pytest

from otel_sessions import SessionManager
from otel_sessions.asgi import SESSION, Receive, Send, SessionLeaseMiddleware
from otel_sessions.asgi._leaving import LEAVING
from otel_sessions.asgi._repeated import REPEATED, Repeated, RepeatedAnswer
from otel_sessions.fleet import StaticPeers, taking
from otel_sessions.fleet.signing import HEADER, Passage, Proof, Secrets, Word
from otel_sessions.fleet.targets import target_of
from otel_sessions.matchers import HeaderMatcher
from tests.exchanges import Client, http
from tests.signals import Signals

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio"])]
SECRET = b"a secret of the whole fleet"


class Process:
    """A process `w1`, whose app notes the scopes that it sees."""

    def __init__(self, **settings: Any) -> None:
        self.seen: list[Any] = []
        peers = {"w1": "http://127.0.0.1:1", "w2": "http://127.0.0.1:2"}
        self.manager: SessionManager[Any] = SessionManager(
            fleet=StaticPeers(peers, name="w1", secret=SECRET), **settings
        )
        self.app = SessionLeaseMiddleware(self._serve, self.manager, HeaderMatcher(), skip=["/skipped"])

    async def _serve(self, scope: Any, receive: Receive, send: Send) -> None:
        self.seen.append(scope)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"Otel-Sessions-Fleet", b"a lie")]})
        await send({"type": "http.response.body", "body": b""})

    async def opened(self) -> str:
        client = await Client(http()).go(self.app)
        self.seen.clear()
        return client.headers(b"x-session-id")[0].decode()


def passed_on(session_id: str, *, secret: bytes = SECRET, **said: Any) -> tuple[Client, Proof]:
    """Return an exchange as another process passes it on, and the proof that its answer must have."""
    passage = Passage(
        **{
            "owner": "w1",
            "session_id": session_id,
            "scheme": "https",
            "client": ("192.0.2.7", 4711),
            "expires": int(time.time()) + 60,
            **said,
        }
    )
    scope = http(x_session_id=session_id)
    scope["client"] = ["10.0.0.2", 1]
    value, proof = Secrets([secret]).sign(passage, "GET", target_of(scope))
    scope["headers"] = [*scope["headers"], (HEADER, value)]
    return Client(scope), proof


async def test_the_app_sees_the_exchange_as_it_came_from_the_client() -> None:
    process = Process()
    async with process.manager:
        session_id = await process.opened()
        client, proof = passed_on(session_id)
        await client.go(process.app)
        (seen,) = process.seen
        assert seen[SESSION].id == session_id
        assert (seen["client"], seen["scheme"]) == (("192.0.2.7", 4711), "https")
        assert [name for name, _ in seen["headers"]] == [b"x-session-id"]
        assert proof.said_in(client.sent[0]["headers"]) == (Word.OWNER, "")


async def test_a_client_without_an_address_stays_without_one() -> None:
    process = Process()
    async with process.manager:
        client, _ = passed_on(await process.opened(), client=None)
        await client.go(process.app)
        assert process.seen[0]["client"] is None


@pytest.mark.parametrize(
    "said",
    [
        {"secret": b"the secret of another fleet"},
        {"expires": int(time.time()) - 1},
        {"hop": 2},
        {"hop": 0},
    ],
)
async def test_an_exchange_that_no_peer_has_signed_now_is_403(said: dict[str, Any]) -> None:
    process = Process()
    async with process.manager:
        client, _ = passed_on(await process.opened(), **said)
        await client.go(process.app)
        assert client.status == 403
        assert client.headers(HEADER) == [b"refused"]
        assert not process.seen


@pytest.mark.parametrize("values", [[b""], [b"x"], [b"x.y"], [b"a.b.c"]])
@pytest.mark.parametrize("path", ["/mcp", "/skipped"])
async def test_a_client_that_sends_the_header_itself_is_403_on_every_path(values: list[bytes], path: str) -> None:
    process = Process()
    async with process.manager:
        session_id = await process.opened()
        scope = {**http(x_session_id=session_id), "path": path}
        scope["headers"] = [*scope["headers"], *((HEADER, value) for value in values)]
        assert (await Client(scope).go(process.app)).status == 403
        assert not process.seen


async def test_a_signed_header_that_is_repeated_is_403() -> None:
    process = Process()
    async with process.manager:
        client, _ = passed_on(await process.opened())
        client.scope["headers"].append(client.scope["headers"][-1])
        assert (await client.go(process.app)).status == 403


async def test_a_signature_does_not_serve_another_method_or_target() -> None:
    process = Process()
    async with process.manager:
        session_id = await process.opened()
        for changed in ({"method": "POST"}, {"path": "/other"}, {"query_string": b"a=1"}, {"raw_path": b"/mc%70"}):
            client, _ = passed_on(session_id)
            client.scope.update(changed)
            assert (await client.go(process.app)).status == 403


@pytest.mark.parametrize(
    ("session_id", "owner"), [("w1.x", "w1"), ("x", "w1"), (None, "w2"), (None, "w9"), ("w2.x", "w2")]
)
async def test_who_is_not_the_owner_says_so_and_passes_nothing_on(session_id: str | None, owner: str) -> None:
    process = Process()
    async with process.manager:
        live = await process.opened()
        client, proof = passed_on(live if session_id is None else session_id, owner=owner)
        await client.go(process.app)
        assert client.status == 421
        assert proof.said_in(client.sent[0]["headers"]) == (Word.NOT_OWNER, "")
        assert not process.seen


async def test_only_the_signed_id_counts_not_another_one_in_the_request() -> None:
    process = Process()
    async with process.manager:
        live = await process.opened()
        client, _ = passed_on("w1.x")
        client.scope["headers"].insert(0, (b"x-session-id", live.encode()))
        assert (await client.go(process.app)).status == 421


async def test_the_question_for_the_name_is_answered_with_the_name() -> None:
    process = Process()
    async with process.manager:
        client, proof = passed_on("", owner="")
        await client.go(process.app)
        assert client.status == 200
        assert proof.said_in(client.sent[0]["headers"]) == (Word.PEER, "w1")
        assert not process.seen


@pytest.mark.parametrize("extensions", [{}, {"websocket.http.response": {}}, None])
async def test_a_socket_is_refused_as_well_as_its_server_can(extensions: dict[str, Any] | None) -> None:
    process = Process()
    async with process.manager:
        scope = {"type": "websocket", "path": "/", "headers": [(HEADER, b"x")], "extensions": extensions}
        client = await Client(scope).go(process.app)
        assert client.kinds[0] == ("websocket.http.response.start" if extensions else "websocket.close")


@pytest.mark.parametrize("ending", ["close", "raise"])
async def test_a_server_that_can_only_close_a_socket_tells_the_peer_in_an_accepted_one(ending: str) -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await Process()._serve(scope, receive, send)
        elif ending == "close":
            await send({"type": "websocket.close", "code": 4001})
        else:
            raise EOFError

    process = Process()
    process.app = SessionLeaseMiddleware(app, process.manager, HeaderMatcher())
    async with process.manager:
        client, proof = passed_on(await process.opened())
        client.scope.update({"type": "websocket", "extensions": {}})
        with contextlib.suppress(EOFError):
            await client.go(process.app)
        accepted, closed = client.sent
        status, code = ("403", 4001) if ending == "close" else ("500", 1011)
        assert proof.said_in(accepted["headers"]) == (Word.OWNER, status)
        assert closed == {"type": "websocket.close", "code": code}


async def test_a_message_before_the_answer_passes_as_it_is() -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.debug", "info": {}})
        await Process()._serve(scope, receive, send)

    process = Process()
    process.app = SessionLeaseMiddleware(app, process.manager, HeaderMatcher())
    async with process.manager:
        client, proof = passed_on((await process.manager.create_session()).id)
        await client.go(process.app)
        assert client.sent[0] == {"type": "http.response.debug", "info": {}}
        assert proof.said_in(client.sent[1]["headers"]) == (Word.OWNER, "")


@pytest.mark.parametrize("has_header", [True, False])
def test_a_request_of_a_client_is_never_a_forwarded_one(anyio_backend: str, has_header: bool) -> None:
    scope = http(x_session_id="x")
    scope["headers"] += [(HEADER, b"forged")] * has_header
    taking.as_of_client(scope, has_header=has_header)
    assert not taking.is_forwarded(scope)
    assert [name for name, _ in scope["headers"]] == [b"x-session-id"]


@pytest.mark.parametrize(
    ("scope", "target"),
    [
        ({"path": "/a b"}, b"/a%20b"),
        ({"path": "/a b", "raw_path": b"/a%20b", "query_string": b"x=1"}, b"/a%20b?x=1"),
        ({"path": "/mcp/x", "raw_path": b"/mcp/x", "root_path": "/mcp", "app_root_path": ""}, b"/mcp/x"),
        ({"path": "/api/x", "raw_path": b"/api/x", "root_path": "/api"}, b"/x"),
        ({"path": "/x", "raw_path": b"/x", "root_path": "/api"}, b"/x"),
        ({"path": "/apix", "raw_path": b"/apix", "root_path": "/api/"}, b"/apix"),
        ({"path": "/x", "otel_sessions.proxy.target": b"/x?"}, b"/x?"),
    ],
)
def test_the_target_is_what_the_client_wrote(anyio_backend: str, scope: dict[str, Any], target: bytes) -> None:
    assert target_of(scope) == target


def test_the_proxy_keeps_the_target_where_it_is_looked_for(anyio_backend: str) -> None:
    from otel_sessions.fleet import targets
    from otel_sessions.proxy.rules import TARGET

    assert targets._AS_WRITTEN == TARGET


@pytest.mark.parametrize("kind", [iter, tuple])
async def test_headers_of_any_kind_are_read_as_a_list_is(anyio_backend: str, kind: Any) -> None:
    """ASGI allows any iterable."""
    process = Process()
    async with process.manager:
        session = await process.manager.create_session(data=None)
        scope = http("GET", x_session_id=session.id)
        scope["headers"] = kind(scope["headers"])
        await Client(scope).go(process.app)
    assert process.seen[0][SESSION] is session


@pytest.mark.parametrize(("later", "status"), [(0.0, 200), (60.0, 200), (61.0, 403)])
async def test_a_head_that_is_repeated_is_read_once_and_expires_as_any_other(later: float, status: int) -> None:
    repeated, secrets, now = Repeated(), Secrets([SECRET]), time.time()
    statuses = []

    async def serve(session_id: str, _scope: Any, _receive: Receive, send: Send) -> bool:
        assert session_id == "x"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})
        return True

    for at in (now, now + later):
        client, _ = passed_on("x", expires=int(now) + 60)
        client.scope[REPEATED] = repeated
        await taking.take("w1", secrets, int(at), client.scope, client.receive, client.send, serve)
        statuses.append(client.status)
    assert statuses == [200, status]


async def test_other_secrets_read_a_repeated_head_anew() -> None:
    repeated, statuses = Repeated(), []

    async def serve(*_: Any) -> bool:
        return False

    for secret in (SECRET, b"the secret of another fleet", SECRET):
        client, _ = passed_on("x")
        client.scope[REPEATED] = repeated
        await taking.take("w1", Secrets([secret]), time.time(), client.scope, client.receive, client.send, serve)
        statuses.append(client.status)
    assert statuses == [421, 403, 421]


async def test_headers_that_an_app_gives_again_are_signed_once() -> None:
    repeated, secrets, said = Repeated(), Secrets([SECRET]), RepeatedAnswer([(b"server", b"x")])
    others: list[tuple[bytes, bytes]] = [(b"server", b"y")]
    seen = []

    async def serve(_session_id: str, _scope: Any, _receive: Receive, send: Send) -> bool:
        await send({"type": "http.response.start", "status": 200, "headers": given})
        await send({"type": "http.response.body", "body": b""})
        return True

    for given in (said, said, others, RepeatedAnswer(others)):
        client, proof = passed_on("x", expires=2_000_000_000)
        client.scope[REPEATED] = repeated
        await taking.take("w1", secrets, 1_999_999_999, client.scope, client.receive, client.send, serve)
        seen.append(client.sent[0]["headers"])
        assert seen[-1] == [*given, (HEADER, proof.answer(Word.OWNER))]
    assert seen[0] is seen[1]


async def test_a_head_that_is_repeated_goes_on_under_a_span_of_its_own_each_time(signals: Signals) -> None:
    process, repeated, expires = Process(tracer_provider=signals.tracer_provider), Repeated(), int(time.time()) + 60
    async with process.manager:
        session_id = await process.opened()
        for _ in range(3):
            client, _ = passed_on(session_id, expires=expires)
            client.scope[REPEATED] = repeated
            await client.go(process.app)
            assert client.status == 200
    assert len({dict(scope["headers"])[b"traceparent"] for scope in process.seen}) == 3


class Server:
    """A server that says by itself whether its client has left."""

    def __init__(self, *, is_gone: bool) -> None:
        self.is_gone = is_gone

    def when_gone(self, on_gone: Any) -> None:
        raise AssertionError("never called")


async def test_an_app_without_an_answer_is_wrong_only_while_its_client_is_there() -> None:
    async def serve(*_: Any) -> bool:
        return True

    for is_gone in (True, False):
        client, _ = passed_on("x")
        client.scope[LEAVING] = Server(is_gone=is_gone)
        taken = taking.take("w1", Secrets([SECRET]), time.time(), client.scope, client.receive, client.send, serve)
        with contextlib.nullcontext() if is_gone else pytest.raises(RuntimeError, match="without an answer"):
            await taken
        assert [message.get("status") for message in client.sent[:1]] == ([] if is_gone else [500])


async def test_a_whole_app_that_returns_without_an_answer_is_500() -> None:
    async def app(*_: Any) -> None:
        pass

    client, proof = passed_on("x")
    with pytest.raises(RuntimeError, match="without an answer"):
        await taking.serve_whole(Secrets([SECRET]), time.time(), client.scope, client.receive, client.send, app)
    assert client.status == 500
    assert proof.said_in(client.sent[0]["headers"]) is not None
