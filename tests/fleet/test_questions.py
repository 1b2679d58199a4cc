"""Questions of admin tools between the processes of a fleet, over real sockets."""

import asyncio
import base64
import contextlib
import json
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest

from otel_sessions import ConfigError, Peer, SessionConfig, SessionManager, fingerprint
from otel_sessions._engine.owners import NotAnswered
from otel_sessions.admin import admin_app
from otel_sessions.asgi import SessionLeaseMiddleware
from otel_sessions.fleet import StaticPeers, WorkerPeers
from otel_sessions.fleet.signing import HEADER, Passage, Secrets
from otel_sessions.matchers import HeaderMatcher
from tests.exchanges import Client, http
from tests.fleet.apps import HOST, SECRET, Fleet, fleet_of, free_socket, served, url_of
from tests.waiting import PATIENCE

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio"])]
TOKEN = "the-token"


async def say_nothing(_scope: Any, _receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def make_app(_name: str) -> Any:
    return say_nothing


def admin_of(manager: SessionManager[Any]) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(
        transport=httpx2.ASGITransport(admin_app(manager, token=TOKEN)),
        base_url="http://admin.test",
        headers={"authorization": f"Bearer {TOKEN}"},
        timeout=PATIENCE,
    )


async def errors(manager: SessionManager[Any]) -> dict[str, str | None]:
    """Return why each process is not reached; None stands for a process that is."""
    async with admin_of(manager) as admin:
        stats = (await admin.get("/v1/stats")).json()
    return {one["name"]: one["error"] for one in stats["processes"]}


async def test_any_process_lists_counts_and_ends_the_sessions_of_all() -> None:
    async with fleet_of(make_app, HeaderMatcher, ("w1", "w2", "w3")) as fleet, admin_of(fleet["w2"].manager) as admin:
        made = [await process.manager.create_session(data=None, client="ada") for process in fleet.values()]
        page = (await admin.get("/v1/sessions")).json()
        assert {one["process"]: one["fingerprint"] for one in page["sessions"]} == {
            session.id.partition(".")[0]: fingerprint(session.id) for session in made
        }
        assert (await admin.get("/v1/stats")).json()["total_created"] == 3
        assert (await admin.delete(f"/v1/sessions/{fingerprint(made[0].id)}")).json()["ended"] == 1
        assert (await admin.post("/v1/cleanup?preview=true", json={"max_idle_time": 9.0})).json()["examined"] == 2
        assert (await admin.delete("/v1/sessions?client=ada")).json()["ended"] == 2
        assert (await admin.post("/v1/cleanup/emergency")).json()["outcome"] == "success"


async def test_each_reason_why_a_process_is_not_reached_is_said() -> None:
    silent, other = free_socket(), free_socket()
    silent.listen()  # and nobody accepts
    async with served(say_nothing, other) as other_url:
        addresses = {"w3": url_of(silent), "w4": other_url, "w5": f"http://{HOST}:1"}
        secrets = {"w2": "another secret of a fleet"}
        async with fleet_of(make_app, HeaderMatcher, ("w1", "w2"), addresses=addresses, secrets=secrets) as fleet:
            assert await errors(fleet["w1"].manager) == {
                "w1": None,
                "w2": "it refuses the signature: its secret or its clock differs",
                "w3": "it gives no sign of life",
                "w4": "another service is there",
                "w5": "no process listens there",
            }
    silent.close()


async def test_a_process_at_the_wrong_address_is_not_taken_for_another() -> None:
    async with fleet_of(make_app, HeaderMatcher) as fleet:
        mistaken = Peer(name="w3", address=fleet["w2"].url)
        with pytest.raises(NotAnswered, match="another name"):
            await fleet["w1"].fleet.ask(mistaken, "stats", {})


async def test_a_process_that_hangs_up_is_not_reached() -> None:
    async def hang_up(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(hang_up, HOST, 0)
    port = server.sockets[0].getsockname()[1]
    async with server, fleet_of(make_app, HeaderMatcher, ("w1",), addresses={"w2": f"http://{HOST}:{port}"}) as fleet:
        assert (await errors(fleet["w1"].manager))["w2"] == "it does not answer (HungUp)"


async def test_a_manager_that_has_ended_says_so_and_still_shows_its_books() -> None:
    async with fleet_of(make_app, HeaderMatcher) as fleet, admin_of(fleet["w1"].manager) as admin:
        await fleet["w2"].manager.shutdown()
        assert (await errors(fleet["w1"].manager)) == {"w1": None, "w2": None}
        said = (await admin.delete("/v1/sessions?client=ada")).json()
        assert (said["status"], [one["reached"] for one in said["processes"]]) == (503, [True, False])
        with pytest.raises(NotAnswered, match="left the fleet"):
            await fleet["w2"].fleet.ask(Peer(name="w1", address=fleet["w1"].url), "stats", {})


async def test_a_wrong_keyword_is_wrong_at_the_other_process_too() -> None:
    async with fleet_of(make_app, HeaderMatcher) as fleet:
        with pytest.raises(ConfigError, match="limit"):
            await fleet["w1"].fleet.ask(Peer(name="w2", address=fleet["w2"].url), "sessions", {"limit": -1})


@pytest.mark.parametrize(
    "query",
    [
        b"otel-sessions-question=",
        b"otel-sessions-question=x",
        b"otel-sessions-question=" + base64.urlsafe_b64encode(json.dumps(["forget", {}]).encode()),
        b"otel-sessions-question=" + base64.urlsafe_b64encode(json.dumps(["stats", {"of": "w1"}]).encode()),
        b"x=1",
    ],
)
async def test_a_question_that_is_not_understood_gets_no_answer(query: bytes) -> None:
    async with fleet_of(make_app, HeaderMatcher) as fleet:
        passage = Passage(owner="w2", session_id="", scheme="http", client=None, expires=int(time.time()) + 60)
        signed, _ = Secrets([SECRET.encode()]).sign(passage, "PUT", b"/?" + query)
        url = f"{fleet['w2'].url}/?{query.decode()}"
        answer = await fleet["w1"].http.put(url, headers={HEADER.decode(): signed.decode()})
        assert answer.status_code == 421


async def test_an_answer_that_is_not_understood_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    async def answer_newly(_query: bytes, manager: object) -> bytes:
        return b"new"

    monkeypatch.setattr("otel_sessions.fleet.questions.answer_to", answer_newly)
    async with fleet_of(make_app, HeaderMatcher) as fleet:
        assert "another version" in str((await errors(fleet["w1"].manager))["w2"])


async def test_without_a_signature_a_question_is_refused() -> None:
    manager: SessionManager[None] = SessionManager(
        fleet=StaticPeers({"w1": "http://x", "w2": "http://y"}, name="w1", secret=SECRET)
    )
    app = SessionLeaseMiddleware(say_nothing, manager, HeaderMatcher())
    async with manager:
        scope = http()
        scope["query_string"] = b"otel-sessions-question=WyJzdGF0cyIse31d"
        scope["headers"] = [(HEADER, b"x.y")]
        client = await Client(scope).go(app)
        assert client.status == 403


async def test_the_workers_of_a_folder_answer_for_each_other(tmp_path: Path) -> None:
    folder = tmp_path / "workers"
    one, other = (SessionManager[None](fleet=WorkerPeers(folder)) for _ in range(2))
    SessionLeaseMiddleware(say_nothing, other, HeaderMatcher())
    async with one, other:
        await other.create_session(client="ada")
        async with admin_of(one) as admin:
            assert (await admin.get("/v1/stats")).json()["total_created"] == 1
            assert (await admin.delete("/v1/sessions?client=ada")).json()["ended"] == 1
        assert one.fleet is not None
        async with admin_of(other) as admin:  # nobody has told the first one's fleet of an app
            stats = (await admin.get("/v1/stats")).json()
            assert "takes no questions" in {each["name"]: each for each in stats["processes"]}[one.fleet.name]["error"]


async def test_processes_in_the_dns_are_all_asked_and_a_silent_address_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    listener = free_socket()
    url = url_of(listener)
    peers = StaticPeers(dns=url, name="w1", secret=SECRET)
    manager: SessionManager[None] = SessionManager(fleet=peers)
    app = SessionLeaseMiddleware(say_nothing, manager, HeaderMatcher())
    async with served(app, listener), manager:
        assert await errors(manager) == {"w1": None}

        async def addresses(_self: object) -> list[str]:
            return [url, "http://127.0.0.1:1"]

        monkeypatch.setattr("otel_sessions.fleet.dns.Resolved._addresses", addresses)
        assert await errors(manager) == {"w1": None, "http://127.0.0.1:1": "it does not say its name"}
        monkeypatch.setattr("otel_sessions.fleet.dns._MOST_WAITING", 0)
        assert (await errors(manager))["w1"] is None


async def test_a_list_in_a_file_says_which_processes_there_are(tmp_path: Path) -> None:
    file = tmp_path / "peers"
    file.write_text("w1=http://127.0.0.1:1\n")
    async with SessionManager(fleet=StaticPeers(file, name="w1", secret=SECRET)) as manager:
        assert await errors(manager) == {"w1": None}
        file.write_text("w1=http://127.0.0.1:1\nw2=http://127.0.0.1:1\n")
        assert await errors(manager) == {"w1": None, "w2": "no process listens there"}


async def test_questions_end_when_the_process_leaves_the_fleet() -> None:
    silent = free_socket()
    silent.listen()
    fleet: Fleet
    async with fleet_of(make_app, HeaderMatcher, ("w1",), addresses={"w2": url_of(silent)}) as fleet:
        peers = fleet["w1"].fleet
        asking = asyncio.create_task(peers.ask(Peer(name="w2", address=url_of(silent)), "stats", {}))
        accepted, _ = await asyncio.get_running_loop().run_in_executor(None, silent.accept)
        peers.leave()
        with pytest.raises(NotAnswered, match="leaves the fleet"):
            await asking
    accepted.close()
    silent.close()


async def test_ten_thousand_sessions_of_four_workers_are_listed_once_under_churn(tmp_path: Path) -> None:
    config = SessionConfig(max_sessions=10_000)
    async with contextlib.AsyncExitStack() as exits:
        managers: list[SessionManager[None]] = []
        for _ in range(4):
            manager = SessionManager[None](config, fleet=WorkerPeers(tmp_path / "workers", patience=PATIENCE))
            SessionLeaseMiddleware(say_nothing, manager, HeaderMatcher())
            managers.append(await exits.enter_async_context(manager))
        made = [[(await manager.create_session()).id for _ in range(2500)] for manager in managers]
        survivors = {fingerprint(session_id) for ids in made for session_id in ids[::2]}
        doomed = [(manager, ids[1::2]) for manager, ids in zip(managers, made, strict=True)]
        admins = [await exits.enter_async_context(admin_of(manager)) for manager in managers]
        seen: list[str] = []
        after: str | None = ""
        pages = 0
        while after is not None:
            answer = await admins[pages % 4].get(f"/v1/sessions?limit=200{after and f'&after={after}'}")
            if answer.status_code == 429:
                await asyncio.sleep(0.02)
                continue
            page = answer.json()
            seen += [one["fingerprint"] for one in page["sessions"]]
            after, pages = page["next"], pages + 1
            for manager, ids in doomed:
                for session_id in [ids.pop() for _ in range(min(25, len(ids)))]:
                    await manager.close_session(session_id)
                    await manager.create_session()
        assert len(seen) == len(set(seen))
        assert survivors <= set(seen)
        assert pages >= 50
