"""What each request of the admin API does, and what comes back."""

import logging
from typing import Any

import anyio
import pytest
from fastapi import FastAPI
from httpx2 import AsyncClient, Response

from otel_sessions import EndReason, SessionConfig, SessionManager, fingerprint
from otel_sessions.admin import admin_app
from tests.admin.conftest import RIGHT, TOKEN, client_of
from tests.virtual import Clock

pytestmark = pytest.mark.anyio


def problem(answer: Response, status: int) -> str:
    """Return what a problem says, after a look at its form."""
    said = answer.json()
    assert (answer.status_code, said["status"]) == (status, status), said
    assert answer.headers["content-type"] == "application/problem+json"
    assert set(said) == {"type", "title", "status", "detail"}
    return str(said["detail"])


async def test_sessions_are_listed_page_by_page(manager: SessionManager[str], admin: AsyncClient) -> None:
    for name in "abc":
        await manager.create_session(name, data="private", client="ada")
    first = await admin.get("/v1/sessions?limit=2")
    second = await admin.get("/v1/sessions", params={"limit": 2, "after": first.json()["next"]})

    assert first.status_code == second.status_code == 200
    listed = [*first.json()["sessions"], *second.json()["sessions"]]
    assert [one["fingerprint"] for one in listed] == [fingerprint(name) for name in "abc"]
    assert second.json()["next"] is None
    assert "private" not in first.text


async def test_a_list_is_filtered(manager: SessionManager[str], admin: AsyncClient) -> None:
    await manager.create_session("old", data="", client="ada")
    await anyio.sleep(60)
    await manager.create_session("new", data="", client="bob")

    async def listed(query: str) -> list[str]:
        return [one["client"] for one in (await admin.get(f"/v1/sessions?{query}")).json()["sessions"]]

    assert await listed("client=bob") == ["bob"]
    assert await listed("older_than=30") == ["ada"]
    assert await listed("idle_for=60") == ["ada"]
    assert await listed("state=active") == ["ada", "bob"]
    assert await listed("state=closing") == []


async def test_one_session_is_shown_by_its_fingerprint(manager: SessionManager[str], admin: AsyncClient) -> None:
    await manager.create_session("a", data="", client="ada", max_idle_time=None)
    shown = (await admin.get(f"/v1/sessions/{fingerprint('a')}")).json()

    assert shown["client"] == "ada"
    assert shown["limits"] == {"max_idle_time": None, "max_session_age": 86400.0}
    assert "/v1/recent" in problem(await admin.get(f"/v1/sessions/{fingerprint('b')}"), 404)


async def test_one_session_is_ended_by_its_fingerprint(manager: SessionManager[str], admin: AsyncClient) -> None:
    await manager.create_session("a", data="")
    await manager.create_session("b", data="")
    path = f"/v1/sessions/{fingerprint('a')}"

    assert (await admin.delete(path)).json()["ended"] == 1
    assert "/v1/recent" in problem(await admin.delete(path), 404)
    assert "a" not in manager
    assert "b" in manager


async def test_all_sessions_of_a_client_are_ended(manager: SessionManager[str], admin: AsyncClient) -> None:
    for client in ("ada", "bob", "ada"):
        await manager.create_session(data="", client=client)

    assert (await admin.delete("/v1/sessions?client=ada")).json()["ended"] == 2
    assert (await admin.delete("/v1/sessions?client=ada")).json()["ended"] == 0
    assert len(manager) == 1


@pytest.mark.parametrize("query", ["", "?clinet=ada", "?client=ada&state=active"])
async def test_sessions_are_ended_for_a_client_only(
    manager: SessionManager[str], admin: AsyncClient, query: str
) -> None:
    await manager.create_session(data="", client="ada")
    problem(await admin.delete(f"/v1/sessions{query}"), 422)

    assert len(manager) == 1


async def test_a_preview_ends_nothing_and_a_cleanup_does(manager: SessionManager[str], admin: AsyncClient) -> None:
    await manager.create_session(data="")
    await anyio.sleep(50)
    limits = {"max_idle_time": 20}
    preview = await admin.post("/v1/cleanup?preview=true", json=limits)
    assert preview.json()["cleaned"]["idle_timeout"] == 1
    assert len(manager) == 1
    assert (await admin.post("/v1/cleanup")).json()["cleaned"]["idle_timeout"] == 0
    assert (await admin.post("/v1/cleanup", json={})).json()["cleaned"]["idle_timeout"] == 0
    report = await admin.post("/v1/cleanup", json=limits)

    assert report.json()["cleaned"]["idle_timeout"] == 1
    assert report.json()["trigger"] == "manual"
    assert len(manager) == 0


async def test_null_switches_a_limit_of_a_pass_off(manager: SessionManager[str], admin: AsyncClient) -> None:
    await manager.create_session(data="")
    await anyio.sleep(200)

    assert (await admin.post("/v1/cleanup", json={"max_idle_time": None})).json()["cleaned"]["idle_timeout"] == 0
    assert (await admin.post("/v1/cleanup")).json()["cleaned"]["idle_timeout"] == 1


async def test_an_emergency_pass_is_run(manager: SessionManager[str], admin: AsyncClient) -> None:
    report = await admin.post("/v1/cleanup/emergency")

    assert (report.status_code, report.json()["trigger"]) == (200, "emergency")


async def test_the_books_are_shown(manager: SessionManager[str], admin: AsyncClient) -> None:
    await manager.create_session(data="")
    stats = (await admin.get("/v1/stats")).json()

    assert (stats["total_created"], stats["currently_active"], stats["last_cleanup"]) == (1, 1, None)
    assert stats["cleaned_by_reason"] == {reason.value: 0 for reason in EndReason}


async def test_the_ends_of_late_are_shown(manager: SessionManager[str], admin: AsyncClient) -> None:
    for name in "ab":
        await manager.create_session(name, data="")
        await manager.close_session(name)
    [end] = (await admin.get("/v1/recent?limit=1")).json()["ends"]

    assert (end["fingerprint"], end["reason"]) == (fingerprint("b"), "closed")
    assert len((await admin.get("/v1/recent")).json()["ends"]) == 2


async def test_the_cap_is_changed_until_the_process_restarts(manager: SessionManager[str], admin: AsyncClient) -> None:
    before = (await admin.get("/v1/config")).json()
    changed = (await admin.patch("/v1/config", json={"max_sessions": 20})).json()
    unbounded = (await admin.patch("/v1/config", json={"max_sessions": None})).json()

    assert before["name"] == "proxy"
    assert before["settings"]["max_sessions"] == 10
    assert before["settings"]["max_idle_time"] == 100
    assert changed["settings"] == {**before["settings"], "max_sessions": 20}
    assert unbounded["settings"]["max_sessions"] is None
    assert manager.max_sessions is None
    assert "lost when the process restarts" in changed["note"]


@pytest.mark.parametrize(
    "change",
    [{}, {"max_sessions": 0}, {"max_sessions": True}, {"max_sessions": "7"}, {"max_sessions": 5, "max_idle_time": 7}],
)
async def test_a_wrong_change_of_the_cap_is_refused(
    manager: SessionManager[str], admin: AsyncClient, change: dict[str, Any]
) -> None:
    problem(await admin.patch("/v1/config", json=change), 422)

    assert manager.max_sessions == 10


async def test_the_cap_of_a_fleet_is_not_changed_here(manager: SessionManager[str], admin: AsyncClient) -> None:
    manager.__dict__["fleet"] = object()

    assert "fleet" in problem(await admin.patch("/v1/config", json={"max_sessions": 5}), 409)
    assert manager.max_sessions == 10


@pytest.mark.parametrize(
    ("method", "path", "wrong", "says"),
    [
        ("GET", "/v1/sessions?limit=0", {}, "limit"),
        ("GET", "/v1/sessions?limit=201", {}, "limit"),
        ("GET", "/v1/sessions?state=dead", {}, "state"),
        ("GET", "/v1/sessions?idle_for=nan", {}, "idle_for"),
        ("GET", "/v1/sessions?idle_for=5m", {}, "idle_for"),
        ("GET", "/v1/sessions?after=rubbish", {}, "list again from the start"),
        ("GET", "/v1/sessions?secret=1", {}, "/v1/openapi.json"),
        ("GET", "/v1/sessions/a-session-id", {}, "fingerprint"),
        ("DELETE", "/v1/sessions/a-session-id", {}, "fingerprint"),
        ("GET", "/v1/recent?limit=101", {}, "limit"),
        ("POST", "/v1/cleanup", {"json": {"max_idle_time": -1}}, "max_idle_time"),
        ("POST", "/v1/cleanup", {"json": {"max_idle_time": "60"}}, "max_idle_time"),
        ("POST", "/v1/cleanup", {"json": {"idle": 60}}, "/v1/openapi.json"),
        ("POST", "/v1/cleanup", {"content": b'{"max_idle_time": NaN}'}, "max_idle_time"),
        ("POST", "/v1/cleanup", {"content": b'{"max_idle_time": 1e999}'}, "max_idle_time"),
        ("POST", "/v1/cleanup", {"content": b"{"}, "not JSON"),
        ("POST", "/v1/cleanup?preview=perhaps", {}, "preview"),
    ],
)
async def test_a_wrong_request_is_named_and_not_repeated(
    admin: AsyncClient, method: str, path: str, wrong: dict[str, Any], says: str
) -> None:
    answer = await admin.request(method, path, headers={"content-type": "application/json"}, **wrong)

    assert says in problem(answer, 422)
    assert not {"rubbish", "secret", "a-session-id", "dead"} & set(
        answer.text.replace('"', " ").replace(":", " ").split()
    )


async def test_a_body_that_is_no_text_is_refused(admin: AsyncClient) -> None:
    answer = await admin.post("/v1/cleanup", content=b"\xff", headers={"content-type": "application/json"})

    assert "UTF-8" in problem(answer, 400)


async def test_an_unknown_path_and_method_say_where_to_look(admin: AsyncClient) -> None:
    assert "/v1/openapi.json" in problem(await admin.get("/v2/sessions"), 404)
    answer = await admin.put("/v1/sessions")
    assert "Allow" in problem(answer, 405)
    assert set(answer.headers["allow"].split(", ")) & {"GET", "DELETE"}


async def test_the_description_of_the_api_needs_the_token_and_no_other_host(admin: AsyncClient) -> None:
    description = await admin.get("/v1/openapi.json")

    assert set(description.json()["paths"]) == {
        "/livez",
        "/readyz",
        "/v1/sessions",
        "/v1/sessions/{fingerprint}",
        "/v1/cleanup",
        "/v1/cleanup/emergency",
        "/v1/stats",
        "/v1/config",
        "/v1/recent",
    }
    assert (await admin.get("/docs")).status_code == 404


async def test_it_is_ready_while_the_manager_takes_sessions_and_live_always(clock: Clock) -> None:
    manager = SessionManager(SessionConfig(drain_timeout=5, max_sessions=1), clock=clock)
    async with client_of(admin_app(manager, token=TOKEN)) as client:

        async def ready() -> int:
            assert (await client.get("/livez")).json() == {"status": "ok"}
            return (await client.get("/readyz")).status_code

        assert "not entered" in problem(await client.get("/readyz"), 503)
        async with manager, anyio.create_task_group() as tasks:
            await manager.create_session("a")
            assert await ready() == 200
            with manager.pin("a"):
                tasks.start_soon(manager.shutdown)
                await anyio.sleep(1)
                assert await ready() == 503
        assert await ready() == 503
        async with manager:
            assert await ready() == 200


async def test_the_list_is_shown_while_the_manager_drains_and_the_books_after(clock: Clock) -> None:
    manager = SessionManager(SessionConfig(drain_timeout=5), clock=clock)
    async with client_of(admin_app(manager, token=TOKEN), **RIGHT) as client:
        async with manager, anyio.create_task_group() as tasks:
            await manager.create_session("a")
            with manager.pin("a"):
                tasks.start_soon(manager.shutdown)
                await anyio.sleep(1)
                assert len((await client.get("/v1/sessions")).json()["sessions"]) == 1

        assert (await client.get("/v1/stats")).json()["total_cleaned"] == 1
        assert (await client.get("/v1/recent")).json()["ends"][0]["reason"] == "shutdown"
        for path in ("/v1/sessions", f"/v1/sessions/{fingerprint('a')}"):
            assert "/readyz" in problem(await client.get(path), 503)
        assert "/readyz" in problem(await client.post("/v1/cleanup"), 503)


async def test_every_change_is_logged_with_its_address_and_outcome(
    manager: SessionManager[str], admin: AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="otel_sessions.admin")
    await manager.create_session("a", data="", client="ada")
    await manager.create_session("b", data="")
    await admin.delete(f"/v1/sessions/{fingerprint('b')}")
    await admin.delete(f"/v1/sessions/{fingerprint('b')}")
    await admin.delete("/v1/sessions", params={"client": "ada\nadmin at 6.6.6.6: nothing"})
    await admin.delete("/v1/sessions?client=ada")
    await admin.post("/v1/cleanup")
    await admin.post("/v1/cleanup/emergency")
    await admin.patch("/v1/config", json={"max_sessions": 7})
    await admin.get("/v1/sessions")
    await admin.post("/v1/cleanup?preview=true")

    unknown = "no session has this fingerprint; it may have ended: see /v1/recent"
    assert [record.getMessage() for record in caplog.records if record.name == "otel_sessions.admin"] == [
        f"admin at 127.0.0.1: end session {fingerprint('b')}: ended",
        f"admin at 127.0.0.1: end session {fingerprint('b')}: refused: {unknown}",
        r"admin at 127.0.0.1: end the sessions of client 'ada\nadmin at 6.6.6.6: nothing': 0 ended",
        "admin at 127.0.0.1: end the sessions of client 'ada': 1 ended",
        "admin at 127.0.0.1: clean up: 0 ended, success",
        "admin at 127.0.0.1: emergency cleanup: 0 ended, success",
        "admin at 127.0.0.1: set max_sessions to 7: set",
    ]


async def test_a_change_that_fails_is_logged_too(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, manager: SessionManager[str], admin: AsyncClient
) -> None:
    async def fail() -> None:
        raise OSError("no disk")

    caplog.set_level(logging.INFO, logger="otel_sessions.admin")
    monkeypatch.setattr(manager, "emergency_cleanup", fail)
    answer = await admin.post("/v1/cleanup/emergency")

    assert "no disk" not in problem(answer, 500)
    assert "admin at 127.0.0.1: emergency cleanup: refused: OSError: no disk" in caplog.text


async def test_no_answer_has_an_id_or_data_in_it(manager: SessionManager[str], admin: AsyncClient) -> None:
    session = await manager.create_session(data="private")
    answers = [
        await admin.get("/v1/sessions"),
        await admin.get(f"/v1/sessions/{session.id}"),
        await admin.get(f"/v1/sessions/{fingerprint(session.id)}"),
        await admin.get("/v1/sessions", params={"after": session.id}),
        await admin.delete(f"/v1/sessions/{session.id}"),
        await admin.delete(f"/v1/sessions/{fingerprint(session.id)}"),
        await admin.get("/v1/recent"),
    ]

    for answer in answers:
        assert session.id not in answer.text
        assert "private" not in answer.text
        assert TOKEN not in answer.text


async def test_the_api_works_where_it_is_mounted(manager: SessionManager[str]) -> None:
    app = FastAPI()
    app.mount("/admin", admin_app(manager, token=TOKEN))
    async with client_of(app) as client:
        assert (await client.get("/admin/livez")).status_code == 200
        assert (await client.get("/admin/v1/stats")).status_code == 401
        assert (await client.get("/admin/v1/stats", headers=RIGHT)).status_code == 200
