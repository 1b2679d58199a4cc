"""Proxies that choose where their peers reach them, and workers of one proxy, in a fleet with a real store."""

import os
import signal
from pathlib import Path

import httpx2
import pytest

from tests.exchanges import INITIALIZE
from tests.fleet.servers import Program
from tests.processes import HOST, free_port, running_module, until_answers
from tests.waiting import NEVER, PATIENCE

from .conftest import Origin, Proxy, start_proxy
from .several import MCP, asked, hint_of, opened, start_workers, used, workers_of
from .store_fleets import SHORT, said, until_counted, variables_of

pytestmark = pytest.mark.processes

WORKERS = 2


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "own"


def test_workers_serve_each_others_sessions_and_share_the_books_of_the_fleet(
    own_origin: Origin, store: Program, tmp_path: Path
) -> None:
    with start_workers(
        tmp_path, own_origin.url, "--max-sessions=7", count=WORKERS, **variables_of(store, "auto")
    ) as proxy:
        ids = [opened(proxy) for _ in range(6)]
        for session_id in ids:
            assert [used(proxy, session_id).status_code for _ in range(3)] == [200] * 3
        until_counted(store, created=6, active=6)
        assert (proxy.said_of_itself()["active"], proxy.said_of_itself()["workers"]) == (6, WORKERS)
    until_counted(store, created=6, active=0)
    assert own_origin.counts()["sessions"] == 0
    assert list((tmp_path / "t").iterdir()) == []


def test_the_cap_of_the_fleet_holds_over_all_workers(own_origin: Origin, store: Program, tmp_path: Path) -> None:
    flags = ("--fleet-max-sessions=3", "--max-sessions=1000")
    with start_workers(tmp_path, own_origin.url, *flags, count=WORKERS, **variables_of(store, "auto")) as proxy:
        statuses = [opening(proxy) for _ in range(12)]
        assert set(statuses) == {200, 503}
        assert statuses.count(200) <= 3
        until_counted(store, active=statuses.count(200))


def test_the_places_of_a_worker_are_its_own_and_not_a_share(own_origin: Origin, store: Program, tmp_path: Path) -> None:
    flags = ("--max-sessions=1", "--max-connections=1000")
    with start_workers(tmp_path, own_origin.url, *flags, count=WORKERS, **variables_of(store, "auto")) as proxy:
        opened(proxy)


def test_the_sessions_of_a_killed_worker_are_ended_by_the_others_at_the_upstream(
    own_origin: Origin, store: Program, tmp_path: Path
) -> None:
    variables = variables_of(store, "auto", lease=SHORT)
    with start_workers(tmp_path, own_origin.url, "--fleet-farewell", count=WORKERS, **variables) as proxy:
        ids: list[str] = []
        while len(set(map(hint_of, ids))) < WORKERS:
            ids.append(opened(proxy))
        os.kill(workers_of(proxy)[0], signal.SIGKILL)
        lost = [session_id for session_id in ids if used(proxy, session_id).status_code != 200]
        assert len(set(map(hint_of, lost))) == 1
        until_counted(store, orphaned=len(lost), active=len(ids) - len(lost))
        own_origin.until("sessions", len(ids) - len(lost))
        proxy.until_whole(WORKERS)
        assert [used(proxy, session_id).status_code for session_id in lost] == [404] * len(lost)
        assert used(proxy, opened(proxy)).status_code == 200
        assert said(proxy)


def test_workers_of_two_proxies_may_share_a_folder_and_each_other_s_sessions(
    own_origin: Origin, store: Program, tmp_path: Path, folder: Path
) -> None:
    variables = variables_of(store, f"auto:{folder}")
    with (
        start_workers(tmp_path, own_origin.url, count=WORKERS, **variables) as proxy,
        start_proxy(tmp_path, own_origin.url, **variables) as other,
    ):
        assert {path.stat().st_mode & 0o777 for path in (folder, *folder.iterdir())} == {0o700, 0o600}
        assert len(list(folder.iterdir())) == WORKERS + 1
        session_id = opened(proxy)
        assert [used(each, session_id).status_code for each in (other, proxy)] == [200, 200]
        other.process.kill()
        with start_proxy(tmp_path, own_origin.url, **variables):
            assert len(list(folder.iterdir())) == WORKERS + 1
    assert list(folder.iterdir()) == []


def test_a_signal_ends_workers_at_once_that_wait_for_their_store(store: Program, tmp_path: Path) -> None:
    store.pause()
    health = f"{HOST}:{free_port()}"
    flags = ("--upstream", "http://127.0.0.1:1", "--listen", f"{HOST}:0", "--health", health, "--workers", "2")
    variables = {**variables_of(store, "auto", lease=NEVER), "TMPDIR": str(tmp_path)}
    with running_module("cli", tmp_path, "proxy", *flags, **variables) as process:
        until_answers(f"http://{health}/healthz", process, status=503)
        assert httpx2.get(f"http://{health}/healthz", trust_env=False, timeout=PATIENCE).json()["status"] == "starting"
        assert process.terminate() == 0
        assert "listening on" not in process.said()


def opening(proxy: Proxy) -> int:
    return asked("POST", f"{proxy.url}/mcp", content=INITIALIZE, headers=MCP).status_code
