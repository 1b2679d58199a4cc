"""WebSockets that arrive at another process than the owner of their session, over real sockets."""

import asyncio
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from otel_sessions import Peer
from otel_sessions.asgi import SESSION, ASGIApp, Receive, Send
from otel_sessions.matchers import HeaderMatcher
from tests.waiting import PATIENCE

from .apps import HOST, Process, fleet_of, free_socket, served, url_of

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio"])]


def echoing(name: str) -> ASGIApp:
    """An app that sends messages back, and closes or refuses where it is told to."""

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body", "body": b""})
            return
        await receive()
        if scope["path"] == "/refuse":
            headers = [(b"x-why", b"busy"), (b"content-length", b"4")]
            await send({"type": "websocket.http.response.start", "status": 409, "headers": headers})
            await send({"type": "websocket.http.response.body", "body": b"busy"})
            return
        subprotocol = scope["subprotocols"][-1] if scope["subprotocols"] else None
        said = f"{name} {scope['scheme']} {scope['raw_path'].decode()}"
        headers = [(b"x-said", said.encode())]
        await send({"type": "websocket.accept", "subprotocol": subprotocol, "headers": headers})
        while (message := await receive())["type"] == "websocket.receive":
            if message.get("text") == "close":
                await send({"type": "websocket.close", "code": 4001, "reason": "as told"})
                return
            kind = "text" if message.get("text") is not None else "bytes"
            await send({"type": "websocket.send", kind: message[kind]})
        if scope[SESSION].data is not None:
            scope[SESSION].data.put_nowait((message["code"], message["reason"]))

    return app


async def opened(process: Process) -> str:
    return str((await process.http.get("/")).headers["x-session-id"])


def socket_to(process: Process, session_id: str, path: str = "/", **settings: Any) -> connect:
    headers = {"x-session-id": session_id}
    return connect(
        f"ws{process.url.removeprefix('http')}{path}",
        additional_headers=headers,
        proxy=None,
        **settings,
        open_timeout=PATIENCE,
    )


async def closed(socket: ClientConnection) -> tuple[int | None, str | None]:
    """Return how a socket was closed by the other side."""
    with pytest.raises(ConnectionClosed):
        await socket.recv()
    return socket.close_code, socket.close_reason


async def test_messages_pass_both_ways_and_count_at_the_owner() -> None:
    async with fleet_of(echoing, HeaderMatcher) as fleet:
        session_id = await opened(fleet["w1"])
        async with socket_to(fleet["w2"], session_id, "/a%2Fb", subprotocols=["one", "two"]) as socket:
            assert socket.response is not None
            assert socket.response.headers["x-said"] == "w1 ws /a%2Fb"
            assert "otel-sessions-fleet" not in socket.response.headers
            assert socket.subprotocol == "two"
            for message in ("text", "", b"bytes", b"", "x" * 1_000_000):
                await socket.send(message)
                assert await socket.recv() == message
            session = fleet["w1"].manager.get(session_id)
            assert session is not None
            assert session.metadata.message_count == 1 + 1 + 2 * 5
            assert fleet["w1"].manager.get_metrics().leased == 1


async def test_the_code_and_the_reason_of_a_close_pass_both_ways() -> None:
    async with fleet_of(echoing, HeaderMatcher, data=lambda _: asyncio.Queue()) as fleet:
        session_id = await opened(fleet["w1"])
        async with socket_to(fleet["w2"], session_id) as socket:
            await socket.send("close")
            assert await closed(socket) == (4001, "as told")
        async with socket_to(fleet["w2"], session_id) as socket:
            await socket.close(4002, "by the client")
        session = fleet["w1"].manager.get(session_id)
        assert session is not None
        assert await session.data.get() == (4002, "by the client")


async def test_a_socket_whose_session_ends_is_closed_as_at_the_owner() -> None:
    async with fleet_of(echoing, HeaderMatcher) as fleet:
        session_id = await opened(fleet["w1"])
        async with socket_to(fleet["w2"], session_id) as socket:
            await fleet["w1"].manager.close_session(session_id)
            assert (await closed(socket))[0] == 1001


async def test_a_handshake_that_the_owners_app_refuses_is_refused_with_its_answer() -> None:
    async with fleet_of(echoing, HeaderMatcher) as fleet:
        session_id = await opened(fleet["w1"])
        with pytest.raises(InvalidStatus) as refused:
            await socket_to(fleet["w2"], session_id, "/refuse")
        response = refused.value.response
        assert (response.status_code, response.body, response.headers["x-why"]) == (409, b"busy", "busy")


def plainly(app: ASGIApp) -> ASGIApp:
    """The app under a server that cannot refuse a handshake with an answer."""

    async def under(scope: Any, receive: Receive, send: Send) -> None:
        await app({**scope, "extensions": {}}, receive, send)

    return under


def refusing(name: str) -> ASGIApp:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await echoing(name)(scope, receive, send)
        elif scope["path"] == "/raise":
            raise EOFError
        else:
            await receive()
            await send({"type": "websocket.close", "code": 4001})

    return app


@pytest.mark.parametrize(("path", "status"), [("/", 403), ("/raise", 500)])
@pytest.mark.parametrize("plain", [(), ("w1",), ("w2",), ("w1", "w2")], ids=str)
async def test_a_refusal_stays_one_where_a_server_cannot_answer(path: str, status: int, plain: tuple[str, ...]) -> None:
    """Behind `w1`, which has the session, or behind `w2`. A server that cannot answer refuses with 403."""

    def around(name: str, app: ASGIApp) -> ASGIApp:
        return plainly(app) if name in plain else app

    async with fleet_of(refusing, HeaderMatcher, around=around) as fleet:
        session_id = await opened(fleet["w1"])
        with pytest.raises(InvalidStatus) as refused:
            await socket_to(fleet["w2"], session_id, path)
        assert refused.value.response.status_code == (403 if "w2" in plain else status)


async def refusal_of(process: Process, session_id: str) -> int:
    with pytest.raises(InvalidStatus) as refused:
        await socket_to(process, session_id)
    return refused.value.response.status_code


async def test_a_socket_of_a_session_that_nobody_has_is_404() -> None:
    async with fleet_of(echoing, HeaderMatcher) as fleet:
        for unknown in ("w1.x", "w3.x", "x"):
            assert await refusal_of(fleet["w2"], unknown) == 404


async def test_a_socket_whose_owner_is_gone_is_404() -> None:
    with free_socket() as nobody:
        async with fleet_of(echoing, HeaderMatcher, addresses={"w1": url_of(nobody)}) as fleet:
            assert await refusal_of(fleet["w2"], await opened(fleet["w1"])) == 404


async def test_a_socket_whose_owner_is_silent_is_503() -> None:
    with free_socket() as silent:
        silent.listen()
        async with fleet_of(echoing, HeaderMatcher, addresses={"w1": url_of(silent)}, patience=0.05) as fleet:
            assert await refusal_of(fleet["w2"], await opened(fleet["w1"])) == 503


async def test_a_socket_whose_owner_has_another_secret_is_503() -> None:
    secrets = {"w1": "the secret of the process w1", "w2": "the secret of the process w2"}
    async with fleet_of(echoing, HeaderMatcher, secrets=secrets) as fleet:
        assert await refusal_of(fleet["w2"], await opened(fleet["w1"])) == 503


async def test_another_service_that_accepts_the_socket_is_no_owner() -> None:
    other = served(echoing("other"), free_socket())
    async with other as url, fleet_of(echoing, HeaderMatcher, addresses={"w1": url}) as fleet:
        assert await refusal_of(fleet["w2"], await opened(fleet["w1"])) == 404


async def test_an_owner_that_breaks_off_closes_the_socket() -> None:
    async with fleet_of(echoing, HeaderMatcher) as fleet:
        session_id = await opened(fleet["w1"])
        async with socket_to(fleet["w2"], session_id) as socket:
            links = fleet["w2"].fleet._links
            assert links is not None
            links.close()
            assert (await closed(socket))[0] == 1011


async def test_an_owner_behind_a_unix_socket_is_reached(tmp_path: Any) -> None:
    async with fleet_of(echoing, HeaderMatcher) as fleet:
        session_id = await opened(fleet["w1"])
        path = str(tmp_path / "w1.sock")

        async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            host, port = fleet["w1"].url.removeprefix("http://").split(":")
            behind_reader, behind_writer = await asyncio.open_connection(host, int(port))

            async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
                while data := await source.read(65536):
                    sink.write(data)
                sink.close()

            await asyncio.gather(pump(reader, behind_writer), pump(behind_reader, writer))

        async with await asyncio.start_unix_server(relay, path):
            listed = fleet["w2"].fleet._directory._peers  # type: ignore[attr-defined]
            listed["w1"] = Peer(name="w1", address=f"unix:{path}")
            async with socket_to(fleet["w2"], session_id) as socket:
                await socket.send("x")
                assert await socket.recv() == "x"
            got = await fleet["w2"].http.get("/", headers={"x-session-id": session_id})
            assert got.status_code == 200
            assert HOST in fleet["w1"].url
