"""Who may use the admin API, and how much of it."""

from collections.abc import AsyncIterator, Iterable
from itertools import repeat
from typing import Any

import anyio
import pytest
from httpx2 import AsyncClient

import otel_sessions.admin
from otel_sessions import ConfigError, SessionConfig, SessionManager, TooManySessions, fingerprint
from otel_sessions.admin import _gate, admin_app
from otel_sessions.admin._gate import Access, Gate, Rate
from otel_sessions.admin._routes import app_for
from tests.admin.conftest import RIGHT, TOKEN, client_of

pytestmark = pytest.mark.anyio

GOOD = fingerprint("good")
ROUTES: dict[tuple[str, str], int] = {
    ("GET", "/v1/sessions"): 200,
    ("GET", f"/v1/sessions/{GOOD}"): 200,
    ("DELETE", f"/v1/sessions/{GOOD}"): 200,
    ("DELETE", "/v1/sessions?client=ada"): 200,
    ("POST", "/v1/cleanup"): 200,
    ("POST", "/v1/cleanup?preview=true"): 200,
    ("POST", "/v1/cleanup/emergency"): 200,
    ("GET", "/v1/stats"): 200,
    ("GET", "/v1/config"): 200,
    ("PATCH", "/v1/config"): 200,
    ("GET", "/v1/recent"): 200,
    ("GET", "/v1/openapi.json"): 200,
    ("GET", "/v1/unknown"): 404,
}
"""Each route, and the answer to whoever may come in."""
CALLERS: dict[str, tuple[dict[str, str], int | None]] = {
    "no token": ({}, 401),
    "wrong token": ({"authorization": "Bearer wrong"}, 401),
    "no scheme": ({"authorization": TOKEN}, 401),
    "another scheme": ({"authorization": f"Basic {TOKEN}"}, 401),
    "empty token": ({"authorization": "Bearer "}, 401),
    "longer token": ({"authorization": f"Bearer {TOKEN}x"}, 401),
    "no text": ({"authorization": "Bearer \xff\xfe"}, 401),
    "right token": (RIGHT, None),
    "right token, scheme in capitals": ({"authorization": f"BEARER {TOKEN}"}, None),
    "own origin": ({**RIGHT, "origin": "http://admin.test"}, None),
    "foreign origin": ({**RIGHT, "origin": "https://evil.test"}, 403),
    "foreign origin without a token": ({"origin": "https://evil.test"}, 403),
    "null origin": ({**RIGHT, "origin": "null"}, 403),
    "empty origin": ({**RIGHT, "origin": ""}, 403),
    "origin of another port": ({**RIGHT, "origin": "http://admin.test:81"}, 403),
    "foreign host": ({**RIGHT, "host": "evil.test"}, 421),
    "foreign host and origin": ({**RIGHT, "host": "evil.test", "origin": "http://evil.test"}, 421),
    "host with a port": ({**RIGHT, "host": "ADMIN.test:8082"}, None),
    "no host": ({**RIGHT, "host": ""}, 421),
    "malformed host": ({**RIGHT, "host": "[::1"}, 421),
}
"""Who calls, and the answer: None is the route's own."""


def written(headers: dict[str, str]) -> dict[bytes, bytes]:
    return {name.encode("latin-1"): value.encode("latin-1") for name, value in headers.items()}


@pytest.fixture
async def guarded(manager: SessionManager[str]) -> AsyncIterator[AsyncClient]:
    await manager.create_session("good", data="", client="ada")
    async with client_of(admin_app(manager, token=TOKEN, allowed_hosts=["Admin.test"])) as client:
        yield client


@pytest.fixture
async def at_once(manager: SessionManager[str]) -> AsyncIterator[AsyncClient]:
    """A client whose requests all come at the same moment, however long the machine takes for them."""
    app = admin_app(manager, token=TOKEN)
    async with client_of(Gate(app, Access(token=TOKEN, allowed_hosts=None), lambda: 0.0)) as client:
        yield client


@pytest.mark.parametrize("caller", CALLERS)
async def test_each_route_answers_each_caller(manager: SessionManager[str], guarded: AsyncClient, caller: str) -> None:
    headers, refused = CALLERS[caller]
    for (method, path), answered in ROUTES.items():
        if "good" not in manager:
            await manager.create_session("good", data="", client="ada")
        body: dict[str, Any] = {"json": {"max_sessions": 7}} if method == "PATCH" else {}
        answer = await guarded.request(method, path, headers=written(headers), **body)

        assert (path, answer.status_code) == (path, refused or answered)
        assert ("www-authenticate" in answer.headers) == (refused == 401)
        assert not [name for name in answer.headers if name.startswith("access-control-") or name == "set-cookie"]
        if refused is not None:
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.headers["cache-control"] == "no-store"
            assert "good" in manager
            assert manager.max_sessions == 10


@pytest.mark.parametrize("caller", CALLERS)
async def test_the_page_needs_a_host_that_is_allowed_and_no_token(guarded: AsyncClient, caller: str) -> None:
    headers, refused = CALLERS[caller]
    for path in ("/", "/page/page.css", "/page/page.js"):
        answer = await guarded.get(path, headers=written(headers))
        assert answer.status_code == (refused if refused in (403, 421) else 200)


async def test_a_flood_for_the_page_without_a_token_slows_nobody_with_the_token(at_once: AsyncClient) -> None:
    statuses = [(await at_once.get("/")).status_code for _ in range(150)]

    assert statuses[0] == 200
    assert statuses[-1] == 429
    assert (await at_once.get("/v1/stats", headers=RIGHT)).status_code == 200


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize("path", ["/livez", "/readyz"])
async def test_probes_need_no_token_and_no_host(guarded: AsyncClient, path: str, caller: str) -> None:
    assert (await guarded.get(path, headers=written(CALLERS[caller][0]))).status_code == 200


async def test_the_browser_of_another_site_gets_no_leave_to_send_a_token(guarded: AsyncClient) -> None:
    asked = {"origin": "https://evil.test", "access-control-request-method": "DELETE"}
    answer = await guarded.options("/v1/sessions", headers={**asked, "access-control-request-headers": "authorization"})

    assert answer.status_code == 403
    assert "access-control-allow-origin" not in answer.headers


async def test_two_tokens_or_two_origins_are_none(guarded: AsyncClient) -> None:
    token = ("authorization", f"Bearer {TOKEN}")
    twice = [token, ("origin", "http://admin.test"), ("origin", "http://admin.test")]

    assert (await guarded.get("/v1/stats", headers=[token, token])).status_code == 401
    assert (await guarded.get("/v1/stats", headers=twice)).status_code == 403


async def test_without_a_token_hosts_and_origins_are_checked_all_the_same(manager: SessionManager[str]) -> None:
    access = Access(token=None, allowed_hosts=frozenset({"localhost"}))
    async with client_of(app_for(manager, access, lambda: True)) as client:
        local = {"host": "localhost:8082"}
        assert (await client.get("/v1/stats", headers=local)).status_code == 200
        assert (await client.get("/v1/stats")).status_code == 421
        assert (await client.post("/v1/cleanup", headers={**local, "origin": "http://evil.test"})).status_code == 403
        assert (
            await client.post("/v1/cleanup", headers={**local, "origin": "http://localhost:8082"})
        ).status_code == 200


async def test_it_is_not_ready_while_its_owner_says_so(manager: SessionManager[str]) -> None:
    access = Access(token=None, allowed_hosts=None)
    async with client_of(app_for(manager, access, lambda: False)) as client:
        assert (await client.get("/readyz")).status_code == 503
        assert (await client.get("/livez")).status_code == 200


@pytest.mark.parametrize("token", ["", " ", "two words", "a\n", "ümlaut", "tab\t", None, 7])
def test_a_token_that_is_none_is_refused_and_not_repeated(token: Any) -> None:
    with pytest.raises(ConfigError, match="token takes a secret") as refused:
        admin_app(SessionManager(), token=token)
    assert not str(token).strip() or str(token) not in str(refused.value)


async def test_the_api_answers_while_the_manager_is_at_its_cap(
    manager: SessionManager[str], admin: AsyncClient
) -> None:
    for _ in range(10):
        await manager.create_session(data="")
    with pytest.raises(TooManySessions):
        await manager.create_session(data="")

    assert (await admin.get("/v1/stats")).json()["currently_active"] == 10
    assert (await admin.get("/readyz")).status_code == 200
    assert (await admin.patch("/v1/config", json={"max_sessions": 11})).status_code == 200
    await manager.create_session(data="")


async def test_a_flood_without_the_token_leaves_room_for_whoever_has_it(at_once: AsyncClient) -> None:
    flood = [await at_once.get("/v1/stats") for _ in range(300)]

    assert {answer.status_code for answer in flood} == {401, 429}
    assert flood[-1].headers["retry-after"] == "1"
    assert (await at_once.get("/v1/stats", headers=RIGHT)).status_code == 200


async def test_requests_with_the_token_are_bounded_too(at_once: AsyncClient) -> None:
    flood = [(await at_once.get("/v1/recent", headers=RIGHT)).status_code for _ in range(300)]

    assert set(flood) == {200, 429}
    assert flood[:100] == [200] * 100


def test_a_rate_recovers_with_time_and_never_holds_more_than_its_burst() -> None:
    now = 0.0
    rate = Rate(lambda: now)
    assert sum(rate.allows() for _ in range(1000)) == 100
    now = 0.5
    assert sum(rate.allows() for _ in range(1000)) == 25
    now = 0.4
    assert not rate.allows()
    now = 1000.0
    assert sum(rate.allows() for _ in range(1000)) == 100


async def status_of(manager: SessionManager[str], parts: Iterable[bytes], pause: float = 0.0) -> int:
    """Return the answer to a cleanup whose body comes in parts, with a pause after each."""
    coming, sent = iter(parts), list[Any]()

    async def receive() -> Any:
        part = next(coming, None)
        await anyio.sleep(pause)
        return {"type": "http.request", "body": part or b"", "more_body": part is not None}

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"authorization", RIGHT["authorization"].encode()), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/v1/cleanup", "headers": headers, "query_string": b""}
    await admin_app(manager, token=TOKEN)(scope, receive, send)
    return int(sent[0]["status"])


async def test_a_body_is_bounded_however_it_comes(manager: SessionManager[str]) -> None:
    assert await status_of(manager, [b"{}".rjust(16384)]) == 200
    assert await status_of(manager, [b"{}".rjust(16385)]) == 413
    assert await status_of(manager, [b" " * 1000] * 16 + [b"{}"]) == 200
    assert await status_of(manager, repeat(b" " * 1000)) == 413


async def test_a_body_that_does_not_come_is_not_waited_for(manager: SessionManager[str]) -> None:
    assert await status_of(manager, [b"{", b"}"], pause=3) == 200
    assert await status_of(manager, [b"{", b"}"], pause=4) == 408
    assert await status_of(manager, repeat(b""), pause=1) == 408


async def test_requests_under_way_are_bounded(manager: SessionManager[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_gate, "MOST_AT_ONCE", 2)
    hang = anyio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await hang.wait()
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})
        assert (await receive())["type"] == "http.disconnect"

    gate = Gate(app, Access(token=None, allowed_hosts=None))
    async with client_of(gate) as client, anyio.create_task_group() as tasks:
        for _ in range(2):
            tasks.start_soon(client.get, "/v1/stats")
        await anyio.wait_all_tasks_blocked()
        refused = await client.get("/v1/stats")
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        hang.set()
    async with client_of(gate) as client:
        assert (await client.get("/v1/stats")).status_code == 204


async def test_what_is_no_request_of_http_passes_to_the_app(manager: SessionManager[str]) -> None:
    app = admin_app(manager, token=TOKEN)
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message["type"])

    await app({"type": "websocket", "path": "/v1/sessions", "headers": [], "subprotocols": []}, receive, send)

    assert sent == ["websocket.close"]


def test_a_default_config_is_shown_as_it_is() -> None:
    assert SessionManager().max_sessions == SessionConfig().max_sessions


def test_a_name_that_the_admin_package_has_not_is_an_attribute_error() -> None:
    assert not hasattr(otel_sessions.admin, "admin")
