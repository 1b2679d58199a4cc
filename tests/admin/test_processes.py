"""The admin API over several processes: its answers are those of all, and say which processes were reached."""

import json
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import anyio
import pytest
from httpx2 import AsyncClient

from otel_sessions import SessionConfig, SessionManager, fingerprint
from otel_sessions.admin import admin_app
from tests.admin.conftest import RIGHT, TOKEN, client_of
from tests.admin.fleets import Fleet
from tests.virtual import Clock

pytestmark = pytest.mark.anyio

CONFIG = SessionConfig(cleanup_interval=600, max_idle_time=100, max_sessions=100)


class Processes:
    """Three processes. `admin` asks the second of them."""

    def __init__(self, managers: dict[str, SessionManager[str]], fleet: Fleet, admin: AsyncClient) -> None:
        self.managers = managers
        self.fleet = fleet
        self.admin = admin

    async def fill(self, **counts: int) -> set[str]:
        made = set()
        for name, count in counts.items():
            for number in range(count):
                session = await self.managers[name].create_session(f"{name}.{number}", data="", client="ada")
                made.add(fingerprint(session.id))
        return made

    async def get(self, path: str, status: int = 200) -> dict[str, Any]:
        return self.said(await self.admin.get(path), status)

    def said(self, answer: Any, status: int = 200) -> dict[str, Any]:
        assert answer.status_code == status, answer.text
        said: dict[str, Any] = answer.json()
        return said

    async def listed(self, query: str) -> list[dict[str, Any]]:
        page = await self.get(f"/v1/sessions?{query}")
        sessions = list(page["sessions"])
        while page["next"] is not None:
            page = await self.get(f"/v1/sessions?{query}&after={page['next']}")
            sessions += page["sessions"]
        return sessions


def reached(said: dict[str, Any]) -> dict[str, bool]:
    return {one["name"]: one["reached"] for one in said["processes"]}


@pytest.fixture
async def processes(clock: Clock) -> AsyncIterator[Processes]:
    fleet = Fleet()
    async with AsyncExitStack() as exits:
        managers = {
            name: SessionManager[str](CONFIG, name="proxy", clock=clock, fleet=fleet if name == "w2" else None)
            for name in ("w1", "w2", "w3")
        }
        for manager in managers.values():
            await exits.enter_async_context(manager)
        fleet.managers = {"w3": managers["w3"], "w1": managers["w1"]}
        admin = await exits.enter_async_context(client_of(admin_app(managers["w2"], token=TOKEN), **RIGHT))
        yield Processes(managers, fleet, admin)


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 7, 100])
async def test_the_list_has_each_session_of_each_process_once(processes: Processes, limit: int) -> None:
    made = await processes.fill(w1=4, w2=3, w3=0)
    listed = await processes.listed(f"limit={limit}")
    assert len(listed) == 7
    assert {one["fingerprint"] for one in listed} == made
    assert [one["process"] for one in listed] == ["w1"] * 4 + ["w2"] * 3


async def test_a_session_that_stays_is_listed_once_while_others_come_and_go(processes: Processes) -> None:
    made = await processes.fill(w1=8, w2=8, w3=8)
    gone, seen, after, turn = set(), [], "", 0
    while True:
        page = await processes.get(f"/v1/sessions?limit=3{after and f'&after={after}'}")
        seen += [one["fingerprint"] for one in page["sessions"]]
        for name, manager in processes.managers.items():
            await manager.create_session(f"{name}.new-{turn}", data="")
            if turn < 8 and turn % 2:
                gone.add(fingerprint(f"{name}.{turn}"))
                await manager.close_session(f"{name}.{turn}")
        turn += 1
        if (after := page["next"]) is None:
            break
    assert len(seen) == len(set(seen))
    assert made - gone <= set(seen)


async def test_a_process_that_starts_anew_between_two_pages_begins_its_list_anew(processes: Processes) -> None:
    await processes.fill(w1=3, w3=1)
    first = await processes.get("/v1/sessions?limit=2")
    await processes.managers["w1"].shutdown()
    async with SessionManager[str](CONFIG) as anew:
        processes.fleet.managers["w1"] = anew
        await anew.create_session("new", data="")
        second = await processes.get(f"/v1/sessions?after={first['next']}")
    assert [one["fingerprint"] for one in second["sessions"]] == [fingerprint("new"), fingerprint("w3.0")]


async def test_a_list_goes_on_behind_a_process_that_has_left_the_fleet(processes: Processes) -> None:
    await processes.fill(w1=3, w2=1, w3=1)
    first = await processes.get("/v1/sessions?limit=2")
    del processes.fleet.managers["w1"]
    second = await processes.get(f"/v1/sessions?after={first['next']}")
    assert [one["process"] for one in second["sessions"]] == ["w2", "w3"]
    last = await processes.get(f"/v1/sessions?limit=1&after={second['processes'][-1]['name']}.")
    del processes.fleet.managers["w3"]
    assert (await processes.get("/v1/sessions?after=w3."))["sessions"] == []
    assert last["next"] is None


@pytest.mark.parametrize("after", ["x", "w1", "w1.xyz", "%20.1", f"{'w' * 256}.1"])
async def test_a_cursor_that_no_page_has_given_is_refused(processes: Processes, after: str) -> None:
    assert "list again" in (await processes.get(f"/v1/sessions?after={after}", 422))["detail"]


async def test_a_page_ends_at_a_process_that_is_not_reached_and_the_next_goes_on(processes: Processes) -> None:
    await processes.fill(w1=1, w2=1, w3=1)
    processes.fleet.silent = {"w1"}
    first = await processes.get("/v1/sessions")
    assert (first["sessions"], reached(first)) == ([], {"w1": False})
    second = await processes.get(f"/v1/sessions?after={first['next']}")
    assert [one["process"] for one in second["sessions"]] == ["w2", "w3"]
    processes.fleet.silent = {"w3"}
    last = await processes.get("/v1/sessions")
    assert (len(last["sessions"]), last["next"]) == (2, None)
    assert reached(last) == {"w1": True, "w2": True, "w3": False}


async def test_the_books_of_all_processes_are_added_up_and_shown_for_each(processes: Processes) -> None:
    await processes.fill(w1=3, w2=2, w3=1)
    await processes.managers["w1"].close_session("w1.0")
    stats = await processes.get("/v1/stats")
    assert (stats["total_created"], stats["total_cleaned"], stats["currently_active"]) == (6, 1, 5)
    assert stats["cleaned_by_reason"]["closed"] == 1
    each = {one["name"]: one["stats"]["total_created"] for one in stats["processes"]}
    assert each == {"w2": 2, "w1": 3, "w3": 1}
    assert (await processes.get("/v1/config"))["settings"]["max_sessions"] == 300
    processes.fleet.silent = {"w1"}
    processes.fleet.managers["w4"] = None
    stats = await processes.get("/v1/stats")
    assert stats["total_created"] == 3
    assert reached(stats) == {"w2": True, "w1": False, "w3": True, "w4": False}
    assert [one["stats"] for one in stats["processes"] if not one["reached"]] == [None, None]
    config = await processes.get("/v1/config")
    assert config["settings"]["max_sessions"] == 200
    assert [one["max_sessions"] for one in config["processes"]] == [100, None, 100, None]


async def test_without_a_cap_in_one_process_there_is_no_cap(processes: Processes) -> None:
    processes.managers["w3"].set_max_sessions(None)
    assert (await processes.get("/v1/config"))["settings"]["max_sessions"] is None


async def test_a_session_is_found_and_ended_wherever_it_is(processes: Processes) -> None:
    await processes.fill(w1=1, w2=1, w3=1)
    for name in ("w1", "w2", "w3"):
        path = f"/v1/sessions/{fingerprint(f'{name}.0')}"
        assert (await processes.get(path))["process"] == name
        assert processes.said(await processes.admin.delete(path))["ended"] == 1
        assert len(processes.managers[name]) == 0
        assert "it may have ended" in (await processes.get(path, 404))["detail"]
    ends = (await processes.get("/v1/recent?limit=2"))["ends"]
    assert len(ends) == 2
    assert {one["process"] for one in (await processes.get("/v1/recent"))["ends"]} == {"w1", "w2", "w3"}


async def test_unless_all_were_reached_a_session_that_is_not_found_is_503(processes: Processes) -> None:
    await processes.fill(w1=1, w3=1)
    processes.fleet.silent = {"w1"}
    there, elsewhere = (f"/v1/sessions/{fingerprint(f'{name}.0')}" for name in ("w1", "w3"))
    for answer in (await processes.admin.get(there), await processes.admin.delete(there)):
        said = processes.said(answer, 503)
        assert answer.headers["content-type"] == "application/problem+json"
        assert "w1 (it gives no sign of life)" in said["detail"]
        assert (said["ended"], reached(said)) == (0, {"w2": True, "w1": False, "w3": True})
    assert reached(await processes.get(elsewhere)) == {"w2": True, "w1": False, "w3": True}
    assert processes.said(await processes.admin.delete(elsewhere))["ended"] == 1


async def test_ending_a_client_where_not_all_are_reached_is_503_and_ends_the_rest(
    processes: Processes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    await processes.fill(w1=1, w2=2, w3=3)
    processes.fleet.silent = {"w1"}
    said = processes.said(await processes.admin.delete("/v1/sessions?client=ada"), 503)
    assert (said["ended"], said["title"]) == (5, "Service Unavailable")
    assert "5 ended; not reached: w1" in said["detail"]
    assert "5 ended; not reached: w1" in caplog.text
    processes.fleet.silent = set()
    assert processes.said(await processes.admin.delete("/v1/sessions?client=ada"))["ended"] == 1


async def test_a_pass_runs_in_all_processes_and_is_partial_where_one_is_missing(processes: Processes) -> None:
    await processes.fill(w1=1, w2=2, w3=3)
    await anyio.sleep(50)
    limits = {"max_idle_time": 20}
    preview = processes.said(await processes.admin.post("/v1/cleanup?preview=true", json=limits))
    assert (preview["total_cleaned"], preview["examined"], preview["outcome"]) == (6, 6, "success")
    processes.fleet.silent = {"w3"}
    report = processes.said(await processes.admin.post("/v1/cleanup", json=limits))
    assert (report["total_cleaned"], report["cleaned"]["idle_timeout"], report["outcome"]) == (3, 3, "partial")
    assert reached(report) == {"w2": True, "w1": True, "w3": False}
    emergency = processes.said(await processes.admin.post("/v1/cleanup/emergency"))
    assert (emergency["trigger"], emergency["outcome"]) == ("emergency", "partial")


async def test_a_process_that_has_shut_down_counts_as_not_reached(processes: Processes) -> None:
    await processes.fill(w1=1)
    await processes.managers["w2"].shutdown()
    said = processes.said(await processes.admin.delete("/v1/sessions?client=ada"), 503)
    assert said["ended"] == 1
    assert reached(said) == {"w2": False, "w1": True, "w3": True}
    processes.fleet.silent = {"w1", "w3"}
    assert "/readyz" in processes.said(await processes.admin.post("/v1/cleanup"), 503)["detail"]


async def test_a_process_that_refuses_a_question_counts_as_not_reached(processes: Processes) -> None:
    processes.fleet.older = {"w1"}
    recent = await processes.get("/v1/recent")
    assert {one["name"]: one["error"] for one in recent["processes"]} == {
        "w2": None,
        "w1": "limit is not known here",
        "w3": None,
    }


async def test_the_cap_of_a_fleet_is_not_changed_by_hand(processes: Processes) -> None:
    refused = processes.said(await processes.admin.patch("/v1/config", json={"max_sessions": 7}), 409)
    assert "cap of its own" in refused["detail"]
    assert [manager.max_sessions for manager in processes.managers.values()] == [100, 100, 100]


async def test_a_lone_manager_is_one_process_of_its_own_name(manager: SessionManager[str], admin: AsyncClient) -> None:
    await manager.create_session("a", data="")
    page = (await admin.get("/v1/sessions")).json()
    assert page["processes"] == [{"name": "proxy", "reached": True, "error": None}]
    assert page["sessions"][0]["process"] == "proxy"
    assert (await admin.get("/v1/stats")).json()["processes"][0]["stats"]["total_created"] == 1


async def test_every_number_of_the_reports_is_in_the_answers(manager: SessionManager[str], admin: AsyncClient) -> None:
    report = await manager.cleanup_stale_sessions()
    stats = (await admin.get("/v1/stats")).json()
    assert set(stats) == {*json.loads(json.dumps(manager.get_metrics().as_dict())), "processes"}
    assert set(stats["last_cleanup"]) == set(report.as_dict())
    assert set((await admin.post("/v1/cleanup")).json()) == {*report.as_dict(), "processes"}
