"""Apps that fail where their session is: a client gets the same from every process, and its session stays."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import httpx2
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from otel_sessions.asgi import ASGIApp, Receive, Send
from otel_sessions.matchers import HeaderMatcher
from tests.waiting import PATIENCE

from .apps import Process, fleet_of, free_socket, served

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio"])]


class Broken(Exception):
    """What the apps here raise."""


async def begin(send: Send, status: int = 200, length: int = 0) -> None:
    headers = [(b"content-length", b"%d" % length)]
    await send({"type": "http.response.start", "status": status, "headers": headers})


async def answer(send: Send, status: int = 200) -> None:
    await begin(send, status)
    await send({"type": "http.response.body", "body": b""})


async def fail(send: Send) -> None:
    raise Broken


async def say_nothing(send: Send) -> None:
    pass


async def be_cancelled(send: Send) -> None:
    raise asyncio.CancelledError


async def fail_amid_the_answer(send: Send) -> None:
    await begin(send, length=100)
    await send({"type": "http.response.body", "body": b"a part", "more_body": True})
    raise Broken


async def fail_after_the_answer(send: Send) -> None:
    await answer(send)
    raise Broken


async def misdirect(send: Send) -> None:
    await answer(send, 421)


async def close(send: Send) -> None:
    await send({"type": "websocket.close", "code": 4001})


async def deny(send: Send) -> None:
    await send({"type": "websocket.http.response.start", "status": 429, "headers": []})
    await send({"type": "websocket.http.response.body", "body": b""})


ENDINGS: dict[str, Callable[[Send], Awaitable[None]]] = {
    "/raise": fail,
    "/nothing": say_nothing,
    "/cancel": be_cancelled,
    "/partly": fail_amid_the_answer,
    "/after": fail_after_the_answer,
    "/421": misdirect,
    "/close": close,
    "/deny": deny,
}


def failing(_: str) -> ASGIApp:
    """An app that ends as its path says."""

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await receive()
        await ENDINGS.get(scope["path"], answer)(send)

    return app


async def opened(process: Process) -> dict[str, str]:
    return {"x-session-id": (await process.http.get("/")).headers["x-session-id"]}


@pytest.mark.parametrize(("path", "status"), [("/raise", 500), ("/nothing", 500), ("/421", 421), ("/after", 200)])
async def test_an_app_that_fails_gives_the_same_answer_through_any_process(path: str, status: int) -> None:
    async with fleet_of(failing, HeaderMatcher) as fleet:
        session = await opened(fleet["w1"])
        for process in fleet.values():
            assert (await process.http.get(path, headers=session)).status_code == status
            assert (await process.http.get("/", headers=session)).status_code == 200
        assert len(fleet["w1"].manager) == 1
        assert len(fleet["w2"].manager) == 0


@pytest.mark.parametrize("path", ["/raise", "/nothing"])
async def test_the_error_of_an_app_reaches_the_log_of_its_server(path: str, caplog: pytest.LogCaptureFixture) -> None:
    async with fleet_of(failing, HeaderMatcher) as fleet:
        await fleet["w2"].http.get(path, headers=await opened(fleet["w1"]))
    (record,) = [record for record in caplog.records if record.name == "uvicorn.error" and record.exc_info]
    assert record.exc_info is not None
    assert record.exc_info[0] is (Broken if path == "/raise" else RuntimeError)


async def test_an_app_that_raises_amid_its_answer_leaves_the_answer_incomplete() -> None:
    async with fleet_of(failing, HeaderMatcher) as fleet:
        session = await opened(fleet["w1"])
        for process in fleet.values():
            with pytest.raises(httpx2.RemoteProtocolError):
                await process.http.get("/partly", headers=session)
            assert (await process.http.get("/", headers=session)).status_code == 200


async def test_an_app_that_is_cancelled_does_not_lose_its_session() -> None:
    async with fleet_of(failing, HeaderMatcher) as fleet:
        session = await opened(fleet["w1"])
        got = await fleet["w2"].http.get("/cancel", headers=session)
        assert (got.status_code, "retry-after" in got.headers) == (503, True)
        assert (await fleet["w2"].http.get("/", headers=session)).status_code == 200


async def refused(process: Process, path: str, session: dict[str, str]) -> int:
    with pytest.raises(InvalidStatus) as refusal:
        await connect(f"ws{process.url[4:]}{path}", additional_headers=session, proxy=None, open_timeout=PATIENCE)
    return refusal.value.response.status_code


@pytest.mark.parametrize(("path", "status"), [("/raise", 500), ("/nothing", 500), ("/close", 403), ("/deny", 429)])
async def test_a_socket_that_is_not_accepted_is_refused_the_same_through_any_process(path: str, status: int) -> None:
    async with fleet_of(failing, HeaderMatcher) as fleet:
        session = await opened(fleet["w1"])
        for process in fleet.values():
            assert await refused(process, path, session) == status
        assert (await fleet["w2"].http.get("/", headers=session)).status_code == 200


@pytest.mark.parametrize(
    ("status", "expected"), [(500, 503), (502, 503), (429, 503), (408, 503), (404, 404), (200, 404)]
)
async def test_a_server_in_trouble_before_the_owner_does_not_say_that_a_session_is_gone(
    status: int, expected: int, caplog: pytest.LogCaptureFixture
) -> None:
    async def gateway(scope: Any, receive: Receive, send: Send) -> None:
        await answer(send, status)

    async with served(gateway, free_socket()) as url, fleet_of(failing, HeaderMatcher, addresses={"w1": url}) as fleet:
        got = await fleet["w2"].http.get("/", headers=await opened(fleet["w1"]))
        assert (got.status_code, "retry-after" in got.headers) == (expected, expected == 503)
        (said,) = [record.getMessage() for record in caplog.records if record.name == "otel_sessions"]
        assert str(status) in said if expected == 503 else "no process of the fleet" in said


async def test_a_client_that_leaves_an_app_without_an_answer_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    waits, has_left = asyncio.Event(), asyncio.Event()

    def waiting(name: str) -> ASGIApp:
        async def app(scope: Any, receive: Receive, send: Send) -> None:
            if scope["path"] != "/wait":
                await answer(send)
                return
            while (await receive())["type"] != "http.disconnect":
                waits.set()
            has_left.set()

        return app

    async with fleet_of(waiting, HeaderMatcher) as fleet:
        session = await opened(fleet["w1"])
        asking = asyncio.create_task(fleet["w2"].http.get("/wait", headers=session))
        await waits.wait()
        asking.cancel()
        await has_left.wait()
        await fleet["w1"].fleet.wait_quiet()
    assert not [record for record in caplog.records if record.exc_info]
