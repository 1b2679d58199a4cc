"""Requests that arrive at another process than the owner of their session, over real sockets."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest

from otel_sessions import Here, Peer, SessionConfig, SessionManager
from otel_sessions.asgi import SESSION, ASGIApp, Receive, Send
from otel_sessions.asgi._leaving import LEAVING
from otel_sessions.asgi._repeated import REPEATED, Repeated
from otel_sessions.matchers import CookieMatcher, HeaderMatcher, McpMatcher
from tests.exchanges import INITIALIZE, Client, http, http_body
from tests.waiting import PATIENCE, until_succeeds

from .apps import HOST, Process, fleet_of, free_socket, replace, served, url_of

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio"])]


async def body_of(receive: Receive) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        body += message["body"]
        more = message.get("more_body", False)
    return body


async def answer(send: Send, body: bytes, status: int = 200, *headers: tuple[bytes, bytes]) -> None:
    named = [(b"content-length", b"%d" % len(body)), *headers]
    await send({"type": "http.response.start", "status": status, "headers": named})
    await send({"type": "http.response.body", "body": body})


def telling(name: str) -> ASGIApp:
    """An app that says all that it sees of a request."""

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        session = scope[SESSION]
        said = {
            "process": name,
            "count": None if session is None else session.metadata.message_count,
            "method": scope["method"],
            "target": (scope["raw_path"] + b"?" + scope["query_string"]).decode("latin-1"),
            "headers": [[key.decode("latin-1"), value.decode("latin-1")] for key, value in scope["headers"]],
            "client": list(scope["client"]),
            "scheme": scope["scheme"],
            "body": (await body_of(receive)).decode("latin-1"),
        }
        await answer(send, json.dumps(said).encode(), 200, (b"x-app", b"yes"), (b"otel-sessions-fleet", b"owner x"))

    return app


async def opened(process: Process) -> str:
    """Open a session in a process, and return its id."""
    return str((await process.http.get("/")).headers["x-session-id"])


async def asked(process: Process, session_id: str, **settings: Any) -> httpx2.Response:
    headers = {"x-session-id": session_id, **settings.pop("headers", {})}
    return await process.http.request(
        settings.pop("method", "GET"), settings.pop("path", "/"), headers=headers, **settings
    )


async def test_a_request_at_the_wrong_process_is_answered_by_the_owner_of_its_session() -> None:
    async with fleet_of(telling, HeaderMatcher) as fleet:
        session_id = await opened(fleet["w1"])
        assert session_id.startswith("w1.")
        got = await asked(fleet["w2"], session_id)
        assert (got.json()["process"], got.json()["count"]) == ("w1", 2)
        assert len(fleet["w2"].manager) == 0
        assert await fleet["w1"].manager.locate(session_id) == Here()
        assert await fleet["w2"].manager.locate(session_id) == Peer(name="w1", address=fleet["w1"].url)


async def test_a_body_that_comes_slowly_and_in_parts_reaches_the_owner_whole() -> None:
    async def slowly() -> AsyncIterator[bytes]:
        yield b"one "
        await asyncio.sleep(0.3)  # longer than an exchange is left without a watch
        yield b"and two"

    async with fleet_of(telling, HeaderMatcher) as fleet:
        got = await asked(fleet["w2"], await opened(fleet["w1"]), method="POST", content=slowly())
        assert (got.json()["process"], got.json()["body"]) == ("w1", "one and two")


async def test_the_owner_sees_the_request_as_its_client_sent_it() -> None:
    async with fleet_of(telling, HeaderMatcher) as fleet:
        session_id = await opened(fleet["w1"])
        headers = {"x-one": "1", "connection": "x-hop", "x-hop": "2", "host": "example.com", "te": "trailers"}
        got = await asked(
            fleet["w2"], session_id, method="PUT", path="/a%2Fb/%7e?q=1&q=%20", headers=headers, content=b"body"
        )
        direct = await asked(
            fleet["w1"], session_id, method="PUT", path="/a%2Fb/%7e?q=1&q=%20", headers=headers, content=b"body"
        )
        theirs, own = got.json(), direct.json()
        assert (theirs["method"], theirs["target"], theirs["body"]) == ("PUT", "/a%2Fb/%7e?q=1&q=%20", "body")
        assert theirs["client"][0] == HOST
        assert theirs["client"][1] != own["client"][1]
        hop = ("connection", "x-hop", "te")
        assert theirs["headers"] == [pair for pair in own["headers"] if pair[0] not in hop]
        assert got.headers["x-app"] == "yes"
        assert "otel-sessions-fleet" not in got.headers


@pytest.mark.parametrize("size", [0, 1, 100_000, 3_000_000])
@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_of_any_size_reaches_the_owner_whole(size: int, chunked: bool) -> None:
    async def parts() -> AsyncIterator[bytes]:
        for start in range(0, size, 50_000):
            yield b"x" * min(50_000, size - start)

    async with fleet_of(telling, HeaderMatcher) as fleet:
        session_id = await opened(fleet["w1"])
        content = parts() if chunked else b"x" * size
        got = await asked(fleet["w2"], session_id, method="POST", content=content)
        assert got.json()["body"] == "x" * size


@pytest.mark.parametrize("method", ["GET", "POST", "HEAD", "DELETE", "OPTIONS", "PATCH"])
async def test_every_method_is_passed_on(method: str) -> None:
    async with fleet_of(telling, HeaderMatcher) as fleet:
        session_id = await opened(fleet["w1"])
        got = await asked(fleet["w2"], session_id, method=method)
        assert got.status_code == 200
        assert got.headers["x-app"] == "yes"


async def test_an_event_stream_comes_part_by_part_and_holds_its_session_at_the_owner() -> None:
    go_on = asyncio.Event()

    def streaming(name: str) -> ASGIApp:
        async def app(scope: Any, receive: Receive, send: Send) -> None:
            await send(
                {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]}
            )
            await send({"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True})
            if scope["path"] == "/stream":
                await go_on.wait()
            await send({"type": "http.response.body", "body": b"data: 2\n\n"})

        return app

    async with fleet_of(streaming, HeaderMatcher) as fleet:
        session_id = await opened(fleet["w1"])
        async with fleet["w2"].http.stream("GET", "/stream", headers={"x-session-id": session_id}) as got:
            parts = got.aiter_raw()
            assert await anext(parts) == b"data: 1\n\n"
            assert fleet["w1"].manager.get_metrics().leased == 1
            go_on.set()
            assert await anext(parts) == b"data: 2\n\n"
            assert [part async for part in parts] == []


def waiting_for_its_client(reached: asyncio.Event, left: asyncio.Event, name: str) -> ASGIApp:  # a fleet names it
    """Return an app that waits on one path until its client has left."""

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        if scope["path"] == "/wait":
            reached.set()
            await body_of(receive)
            while (await receive())["type"] != "http.disconnect":
                pass
            left.set()
        await answer(send, b"")

    return app


async def test_a_client_that_leaves_takes_its_request_at_the_owner_with_it() -> None:
    reached, left = asyncio.Event(), asyncio.Event()

    async with fleet_of(partial(waiting_for_its_client, reached, left), HeaderMatcher) as fleet:
        session_id = await opened(fleet["w1"])
        for content in (None, b"x"):
            reached.clear()
            left.clear()
            asking = asyncio.create_task(asked(fleet["w2"], session_id, path="/wait", method="POST", content=content))
            await reached.wait()
            asking.cancel()
            await left.wait()


async def test_cookies_are_hinted_and_forwarded() -> None:
    async with fleet_of(telling, CookieMatcher) as fleet:
        cookie = (await fleet["w1"].http.get("/")).headers["set-cookie"].partition(";")[0]
        assert cookie.startswith("otel-session=w1.")
        got = await fleet["w2"].http.get("/", headers={"cookie": cookie})
        assert (got.json()["process"], got.json()["count"]) == ("w1", 2)
        assert "set-cookie" not in got.headers


@pytest.mark.parametrize("size", [10, 1_000_000])
async def test_a_cookie_that_its_owner_does_not_know_is_replaced_where_it_came(size: int) -> None:
    """A body that is too large to be given again makes the request a 404."""
    async with fleet_of(telling, CookieMatcher) as fleet:
        got = await fleet["w2"].http.post("/", headers={"cookie": "otel-session=w1.forged"}, content=b"x" * size)
        if got.status_code == 200:
            assert (got.json()["process"], got.json()["count"]) == ("w2", 1)
            assert got.json()["body"] == "x" * size
            assert got.headers["set-cookie"].startswith("otel-session=w2.")
        else:
            assert size > 65536
            assert got.status_code == 404


async def test_of_several_cookies_one_that_another_process_knows_wins() -> None:
    async with fleet_of(telling, CookieMatcher, ("w1", "w2", "w3")) as fleet:
        cookie = (await fleet["w3"].http.get("/")).headers["set-cookie"].partition(";")[0]
        both = f"otel-session=w1.forged; {cookie}"
        assert (await fleet["w2"].http.get("/", headers={"cookie": both})).json()["process"] == "w3"


@pytest.mark.parametrize("forged", ["w1.x", "w3.x", "w2.x", "x", ".x", "w1.", "W1.x"])
async def test_a_forged_hint_leads_to_nothing(forged: str) -> None:
    async with fleet_of(telling, HeaderMatcher) as fleet:
        assert (await asked(fleet["w2"], forged)).status_code == 404
        assert len(fleet["w1"].manager) == len(fleet["w2"].manager) == 0


async def test_a_session_that_has_ended_at_its_owner_is_404_elsewhere() -> None:
    async with fleet_of(telling, HeaderMatcher) as fleet:
        session_id = await opened(fleet["w1"])
        await fleet["w1"].manager.close_session(session_id)
        assert (await asked(fleet["w2"], session_id)).status_code == 404


async def test_an_owner_that_is_gone_is_404() -> None:
    with free_socket() as nobody:
        async with fleet_of(telling, HeaderMatcher, addresses={"w1": url_of(nobody)}) as fleet:
            session_id = await opened(fleet["w1"])
            assert (await asked(fleet["w2"], session_id)).status_code == 404


@pytest.mark.parametrize("address", ["http://localhost:{port}", "unix:{folder}/absent"])
async def test_an_owner_whose_every_address_refuses_is_404(address: str, tmp_path: Path) -> None:
    with free_socket() as nobody:
        named = address.format(port=nobody.getsockname()[1], folder=tmp_path)
        async with fleet_of(telling, HeaderMatcher, addresses={"w1": named}) as fleet:
            assert (await asked(fleet["w2"], await opened(fleet["w1"]))).status_code == 404


async def test_an_owner_that_takes_connections_but_says_nothing_is_503() -> None:
    with free_socket() as silent:
        silent.listen()
        async with fleet_of(telling, HeaderMatcher, addresses={"w1": url_of(silent)}, patience=0.05) as fleet:
            got = await asked(fleet["w2"], await opened(fleet["w1"]))
            assert (got.status_code, got.headers["retry-after"]) == (503, "1")


async def test_an_owner_that_gives_a_sign_of_life_may_take_its_time() -> None:
    asked_again = asyncio.Event()

    def slow(name: str) -> ASGIApp:
        async def app(scope: Any, receive: Receive, send: Send) -> None:
            if scope["path"] == "/slow":
                await asked_again.wait()
            await answer(send, name.encode())

        return app

    async with fleet_of(slow, HeaderMatcher, patience=1.0) as fleet:
        session_id = await opened(fleet["w1"])

        async def takes_its_time() -> bool:
            asked_again.clear()
            asking = asyncio.create_task(asked(fleet["w2"], session_id, path="/slow"))
            await asyncio.wait([asking], timeout=2.5)  # two signs of life
            asked_again.set()
            return (await asking).text == "w1"

        await until_succeeds(takes_its_time)


async def test_a_sign_of_life_may_be_anything_that_is_said() -> None:
    said = asyncio.Queue[None]()

    async def mutter(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if b"/slow" in head:
            await reader.read()
        else:
            writer.write(b"no HTTP at all\r\n\r\n")
            said.put_nowait(None)
        writer.close()

    server = await asyncio.start_server(mutter, HOST, 0)
    async with server:
        url = f"http://{HOST}:{server.sockets[0].getsockname()[1]}"
        async with fleet_of(telling, HeaderMatcher, addresses={"w1": url}, patience=1.0) as fleet:
            session_id = await opened(fleet["w1"])

            async def is_believed() -> bool:
                asking = asyncio.create_task(asked(fleet["w2"], session_id, path="/slow"))
                first, second = (asyncio.create_task(said.get()) for _ in range(2))
                await asyncio.wait([asking, second], return_when=asyncio.FIRST_COMPLETED)
                was_asked_once_more = second.done() and not asking.done()
                for task in (asking, first, second):
                    task.cancel()
                await asyncio.gather(asking, first, second, return_exceptions=True)
                return was_asked_once_more

            await until_succeeds(is_believed)


async def test_an_owner_that_breaks_off_before_it_answers_is_503() -> None:
    async def break_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(break_off, HOST, 0)
    async with server:
        url = f"http://{HOST}:{server.sockets[0].getsockname()[1]}"
        async with fleet_of(telling, HeaderMatcher, addresses={"w1": url}) as fleet:
            got = await asked(fleet["w2"], await opened(fleet["w1"]), method="POST", content=b"x")
            assert got.status_code == 503


async def test_an_owner_that_breaks_off_amid_its_answer_leaves_the_answer_incomplete() -> None:
    def breaking(name: str) -> ASGIApp:
        async def app(scope: Any, receive: Receive, send: Send) -> None:
            length = [(b"content-length", b"10")] if scope["path"] == "/break" else []
            await send({"type": "http.response.start", "status": 200, "headers": length})
            await send({"type": "http.response.body", "body": b"half", "more_body": scope["path"] == "/break"})

        return app

    async with fleet_of(breaking, HeaderMatcher) as fleet:
        session_id = await opened(fleet["w1"])
        with pytest.raises(httpx2.RemoteProtocolError):
            await asked(fleet["w2"], session_id, path="/break")


async def test_another_service_at_the_address_of_the_owner_is_no_owner(caplog: pytest.LogCaptureFixture) -> None:
    async def other(scope: Any, receive: Receive, send: Send) -> None:
        headers = ((b"otel-sessions-fleet", b"owner "),) if scope["path"] == "/lie" else ()
        await answer(send, b"something else", 200, *headers)

    async with served(other, free_socket()) as url, fleet_of(telling, HeaderMatcher, addresses={"w1": url}) as fleet:
        session_id = await opened(fleet["w1"])
        for path in ("/", "/lie"):
            assert (await asked(fleet["w2"], session_id, path=path)).status_code == 404
        said = [record.getMessage() for record in caplog.records if record.name == "otel_sessions"]
        assert said == [f"the process w1 at {url} is no process of the fleet"]


async def test_an_owner_under_another_name_is_no_owner() -> None:
    async with fleet_of(telling, HeaderMatcher, ("w1", "w2", "w3")) as fleet:
        session_id = await opened(fleet["w1"])
        listed = fleet["w2"].fleet._directory._peers  # type: ignore[attr-defined]
        listed["w1"] = Peer(name="w1", address=fleet["w3"].url)
        assert (await asked(fleet["w2"], session_id)).status_code == 404


async def test_an_owner_that_has_moved_is_found_by_a_fresh_look(tmp_path: Path) -> None:
    """The list in the file changes after it was read; the body is sent again."""

    file = tmp_path / "peers"
    async with fleet_of(telling, HeaderMatcher) as fleet:
        session_id = await opened(fleet["w1"])
        with free_socket() as nobody:
            file.write_text(f"w1={url_of(nobody)}\nw9=http://{HOST}\n")
            from otel_sessions.asgi import SessionLeaseMiddleware
            from otel_sessions.fleet import StaticPeers

            peers = StaticPeers(file, name="w9", secret="a secret of the whole fleet")
            manager: SessionManager[Any] = SessionManager(fleet=peers)
            app = SessionLeaseMiddleware(telling("w9"), manager, HeaderMatcher())
            async with manager, served(app, free_socket()) as url:
                await peers.locate("w1.x")
                replace(file, f"w1={fleet['w1'].url}\nw9=http://{HOST}\n")
                async with httpx2.AsyncClient(base_url=url, trust_env=False, timeout=PATIENCE) as http:
                    got = await http.post("/", headers={"x-session-id": session_id}, content=b"body")
                assert (got.json()["process"], got.json()["body"]) == ("w1", "body")


@pytest.mark.parametrize("asks", ["w1", "w2"])
async def test_another_secret_is_503_and_a_warning(asks: str, caplog: pytest.LogCaptureFixture) -> None:
    secrets = {"w1": "the secret of the process w1", "w2": "the secret of the process w2"}
    async with fleet_of(telling, HeaderMatcher, secrets=secrets) as fleet:
        owner = "w2" if asks == "w1" else "w1"
        session_id = await opened(fleet[owner])
        for _ in range(2):
            got = await asked(fleet[asks], session_id)
            assert got.status_code == 503
            assert int(got.headers["retry-after"]) > 0
        warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        assert len(warnings) == 1
        assert "its secret or its clock differs" in warnings[0]


async def test_secrets_are_replaced_step_by_step_without_a_lost_request(tmp_path: Path) -> None:

    old, new = "the old secret of the fleet", "the new secret of the fleet"
    files = {name: tmp_path / name for name in ("w1", "w2")}
    for file in files.values():
        file.write_text(old)
    async with fleet_of(telling, HeaderMatcher, secrets=files) as fleet:
        session_id = await opened(fleet["w1"])
        for step in (f"{old}\n{new}\n", f"{new}\n\n{old}", new):
            for name in ("w2", "w1"):
                replace(files[name], step)
                fleet[name].fleet._secrets.latest()  # type: ignore[union-attr]
                assert (await asked(fleet["w2"], session_id)).json()["process"] == "w1"


async def test_the_answer_of_an_app_that_is_421_passes_as_it_is() -> None:
    def misdirecting(name: str) -> ASGIApp:
        async def app(scope: Any, receive: Receive, send: Send) -> None:
            status = 421 if scope["path"] == "/421" else 200
            await answer(send, name.encode(), status, (b"otel-sessions-fleet", b"not-owner"))

        return app

    async with fleet_of(misdirecting, HeaderMatcher) as fleet:
        got = await asked(fleet["w2"], await opened(fleet["w1"]), path="/421")
        assert (got.status_code, got.text) == (421, "w1")


def mcp(name: str) -> ASGIApp:
    """An app that makes ids, the same ones in each process."""
    made: list[str] = []

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        named = [value.decode() for key, value in scope["headers"] if key == b"mcp-session-id"]
        body = await body_of(receive)
        if not named:
            made.append(f"id-{len(made)}")
        await answer(
            send, f"{name} {named} {len(body)}".encode(), 200, (b"mcp-session-id", (named or made[-1:])[0].encode())
        )

    return app


async def test_an_mcp_client_finds_its_session_from_any_process() -> None:
    async with fleet_of(mcp, lambda: McpMatcher(hint=True), ("w1", "w2", "w3")) as fleet:
        headers = {"content-type": "application/json", "accept": "application/json, text/event-stream"}
        ids = {}
        for name, process in fleet.items():
            first = await process.http.post("/mcp", content=INITIALIZE, headers=headers)
            ids[name] = first.headers["mcp-session-id"]
            assert ids[name] == f"{name}.id-0"
        for owner, session_id in ids.items():
            for process in fleet.values():
                sent = {**headers, "mcp-session-id": session_id}
                got = await process.http.post("/mcp", content=b'{"method":"tools/call"}', headers=sent)
                assert got.text == f"{owner} ['id-0'] 23"
                assert got.headers["mcp-session-id"] == session_id
        ended = await fleet["w2"].http.delete("/mcp", headers={"mcp-session-id": ids["w1"]})
        assert ended.status_code == 200
        assert len(fleet["w1"].manager) == 0


async def test_an_initialize_with_an_id_that_its_owner_has_lost_opens_where_it_came() -> None:
    async with fleet_of(mcp, lambda: McpMatcher(hint=True)) as fleet:
        headers = {"content-type": "application/json", "mcp-session-id": "w1.lost"}
        got = await fleet["w2"].http.post("/mcp", content=INITIALIZE, headers=headers)
        assert got.headers["mcp-session-id"] == "w2.id-0"
        assert got.text == f"w2 [] {len(INITIALIZE)}"


async def test_the_owner_says_whose_session_it_is() -> None:
    def client(scope: Any) -> str | None:
        named = [value.decode() for key, value in scope["headers"] if key == b"x-user"]
        return named[0] if named else None

    async with fleet_of(telling, HeaderMatcher, client=client, private=True) as fleet:
        opening = await fleet["w1"].http.get("/", headers={"x-user": "ada"})
        session_id = opening.headers["x-session-id"]
        assert (await asked(fleet["w2"], session_id, headers={"x-user": "ada"})).status_code == 200
        assert (await asked(fleet["w2"], session_id, headers={"x-user": "bob"})).status_code == 404


async def test_a_shutdown_waits_for_requests_that_are_being_forwarded_then_ends_them() -> None:
    reached = asyncio.Event()

    def waiting(name: str) -> ASGIApp:
        async def app(scope: Any, receive: Receive, send: Send) -> None:
            if scope["path"] == "/wait":
                reached.set()
                await asyncio.Event().wait()
            await answer(send, b"")

        return app

    async with fleet_of(waiting, HeaderMatcher) as fleet:
        session_id = await opened(fleet["w1"])
        asking = asyncio.create_task(asked(fleet["w2"], session_id, path="/wait"))
        await reached.wait()
        shutting_down = asyncio.create_task(fleet["w2"].manager.shutdown())
        await asyncio.sleep(0.05)
        assert not shutting_down.done()
        await fleet["w1"].manager.close_session(session_id)  # the owner's app is cancelled, and answers 404
        assert (await asking).status_code == 404
        await shutting_down


async def test_a_long_initialize_that_is_given_again_reaches_the_app_whole() -> None:
    async def parts() -> AsyncIterator[bytes]:
        yield INITIALIZE[:20]
        yield INITIALIZE[20:]
        yield b" " * 20_000

    async with fleet_of(mcp, lambda: McpMatcher(hint=True)) as fleet:
        headers = {"content-type": "application/json", "mcp-session-id": "w1.lost"}
        got = await fleet["w2"].http.post("/mcp", content=parts(), headers=headers)
        assert got.text == f"w2 [] {len(INITIALIZE) + 20_000}"


async def test_a_client_that_leaves_amid_its_body_takes_its_request_at_the_owner_with_it() -> None:
    reached, left = asyncio.Event(), asyncio.Event()

    def reading(name: str) -> ASGIApp:
        async def app(scope: Any, receive: Receive, send: Send) -> None:
            if scope["method"] == "GET":
                await answer(send, b"")
                return
            while (await receive())["type"] == "http.request":
                reached.set()
            left.set()

        return app

    async def parts() -> AsyncIterator[bytes]:
        yield b"some"
        await asyncio.Event().wait()

    async with fleet_of(reading, HeaderMatcher) as fleet:
        asking = asyncio.create_task(asked(fleet["w2"], await opened(fleet["w1"]), method="POST", content=parts()))
        await reached.wait()
        asking.cancel()
        await left.wait()


@pytest.mark.parametrize("last_words", [b"", b"no HTTP\r\n\r\n"])
async def test_any_word_of_an_owner_is_a_sign_of_life(last_words: bytes) -> None:
    go_on, questions = asyncio.Event(), 0

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal questions
        if b"x-session-id" in await reader.readuntil(b"\r\n\r\n"):
            await go_on.wait()
        questions += 1
        if questions == 3:
            go_on.set()
        writer.write(last_words)
        writer.close()

    server = await asyncio.start_server(speak, HOST, 0)
    async with server:
        url = f"http://{HOST}:{server.sockets[0].getsockname()[1]}"
        async with fleet_of(telling, HeaderMatcher, addresses={"w1": url}, patience=0.05) as fleet:
            session_id = await opened(fleet["w1"])

            async def is_asked_until_it_ends() -> bool:
                nonlocal questions
                questions = 0
                go_on.clear()
                assert (await asked(fleet["w2"], session_id)).status_code == 503
                return questions >= 3

            await until_succeeds(is_asked_until_it_ends)


async def test_the_ways_to_peers_and_the_warnings_are_bounded(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from otel_sessions.fleet import links

    monkeypatch.setattr(links, "_MOST_LINKS", 1)

    async def another(scope: Any, receive: Receive, send: Send) -> None:
        await answer(send, b"something else")

    other = served(another, free_socket())
    async with other as url:
        elsewhere = {"w1": url, "w9": url.replace(HOST, "localhost")}
        async with fleet_of(telling, HeaderMatcher, ("w1", "w2", "w3"), addresses=elsewhere) as fleet:
            for session_id, status in (("w1.x", 404), (await opened(fleet["w3"]), 200), ("w9.x", 404), ("w1.x", 404)):
                assert (await asked(fleet["w2"], session_id)).status_code == status
            ways = fleet["w2"].fleet._links
            assert ways is not None
            assert list(ways._links) == [url]
            assert len(ways._warned) == 1
            with ways._link(url).crossings.begin():
                ways._link(elsewhere["w9"])
                assert list(ways._links) == list(elsewhere.values())
    assert len([record for record in caplog.records if record.levelname == "WARNING"]) == 3


@pytest.mark.parametrize(
    ("error", "absent"),
    [
        (ConnectionRefusedError(111, "refused"), True),
        (FileNotFoundError(2, "no such socket"), True),
        (ConnectionResetError(104, "reset"), False),
        (OSError(113, "no route"), False),
        (OSError("Multiple exceptions: [Errno 111] Connect call failed, [Errno 111] Connect call failed"), True),
        (OSError("Multiple exceptions: [Errno 111] Connect call failed, [Errno 101] no network"), False),
        (OSError("something else"), False),
        (ValueError("no OSError"), False),
    ],
)
async def test_only_a_refusal_by_every_address_says_that_nobody_is_there(error: Exception, absent: bool) -> None:
    from otel_sessions._http.client import CannotConnect
    from otel_sessions.fleet.links import _is_absent

    connecting = CannotConnect("the upstream cannot be connected")
    connecting.__cause__ = error
    assert _is_absent(connecting) is absent
    assert _is_absent(error) is absent


async def test_a_request_of_http_2_may_have_a_body_without_a_length() -> None:
    from otel_sessions.fleet.requests import _has_body

    assert _has_body({"headers": [], "http_version": "2"})
    assert not _has_body({"headers": [], "http_version": "1.1"})
    assert not _has_body({"headers": [(b"content-length", b"0")]})


async def test_the_trace_of_a_request_goes_on_at_the_owner() -> None:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import format_span_id, format_trace_id

    tracer = TracerProvider().get_tracer("test")
    theirs = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

    async with fleet_of(telling, HeaderMatcher) as fleet:
        session_id = await opened(fleet["w1"])
        got = await asked(fleet["w2"], session_id, headers={"traceparent": theirs})
        assert ["traceparent", theirs] in got.json()["headers"]

        from otel_sessions.fleet.requests import towards_peer

        with tracer.start_as_current_span("server") as span:
            context = span.get_span_context()
            passed = dict(towards_peer([(b"traceparent", theirs.encode()), (b"x-a", b"1")]))
        assert set(passed) == {b"traceparent", b"x-a"}
        named = f"00-{format_trace_id(context.trace_id)}-{format_span_id(context.span_id)}-"
        assert passed[b"traceparent"].startswith(named.encode())


async def test_a_forwarded_request_that_outlasts_the_drain_is_503() -> None:
    reached = asyncio.Event()

    def waiting(name: str) -> ASGIApp:
        async def app(scope: Any, receive: Receive, send: Send) -> None:
            if scope["path"] == "/wait":
                reached.set()
                await asyncio.Event().wait()
            await answer(send, b"")

        return app

    async with fleet_of(waiting, HeaderMatcher, config=SessionConfig(drain_timeout=0.05)) as fleet:
        asking = asyncio.create_task(asked(fleet["w2"], await opened(fleet["w1"]), path="/wait"))
        await reached.wait()
        await fleet["w2"].manager.shutdown()
        assert (await asking).status_code == 503


async def test_a_head_that_is_repeated_is_passed_on_alike_but_for_its_trace() -> None:
    from opentelemetry import context, trace

    async with fleet_of(telling, HeaderMatcher) as fleet:
        session_id = await opened(fleet["w1"])
        scope = {**http(x_session_id=session_id), "client": (HOST, 1)}
        repeated, seen = Repeated(), []
        span = trace.NonRecordingSpan(trace.SpanContext(1, 1, is_remote=False))
        peer = Peer(name="w1", address=fleet["w1"].url)
        for current in (None, None, span, None):
            token = context.attach(trace.set_span_in_context(current) if current else context.Context())
            client = Client({**scope, REPEATED: repeated})
            assert await fleet["w2"].fleet.forward(peer, session_id, client.scope, client.receive, client.send)
            context.detach(token)
            seen.append([name for name, _ in json.loads(client.body)["headers"]])
    assert seen[0] == seen[1] == seen[3]
    assert set(seen[2]) - set(seen[0]) == {"traceparent"}


class Leaver:
    """A client of a server that says by itself when the client leaves."""

    is_gone = False

    def __init__(self) -> None:
        self.leave: Callable[[], None] = lambda: None

    def when_gone(self, on_gone: Callable[[], None]) -> None:
        self.leave = on_gone


@pytest.mark.parametrize("parts", [[b"xy"], [b"x", b"y"]])
async def test_a_client_whose_server_says_that_it_leaves_takes_its_request_with_it(parts: list[bytes]) -> None:
    reached, left = asyncio.Event(), asyncio.Event()

    async with fleet_of(partial(waiting_for_its_client, reached, left), HeaderMatcher) as fleet:
        session_id = await opened(fleet["w1"])
        peer, leaver = Peer(name="w1", address=fleet["w1"].url), Leaver()
        scope = {**http("POST", x_session_id=session_id, content_length="2"), "path": "/wait", LEAVING: leaver}
        client = Client(scope, [http_body(part, more=part == b"x") for part in parts])
        forward = fleet["w2"].fleet.forward(peer, session_id, client.scope, client.receive, client.send)
        passing = asyncio.ensure_future(forward)
        await reached.wait()
        leaver.leave()
        assert await passing
        await left.wait()
        assert not client.sent
