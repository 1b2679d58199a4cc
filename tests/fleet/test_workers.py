"""Workers that share a port: each of them finds every session, under the servers that start workers."""

import signal
from pathlib import Path

import pytest
from websockets.sync.client import connect

from tests.waiting import PATIENCE

from .several import SERVERS, asked, books, killed_one, opened, sockets_in, workers_under

pytestmark = pytest.mark.processes


@pytest.mark.parametrize("server", list(SERVERS))
def test_every_request_finds_its_session_whichever_worker_takes_it(server: str, tmp_path: Path) -> None:
    with workers_under(server, tmp_path) as (url, _):
        clients = [opened(url) for _ in range(12)]
        for headers, made in clients:
            for _ in range(4):
                answer = asked(f"{url}/items/a", "POST", headers=headers, content=b"x" * 70_000)
                assert answer.json() == {**made, "size": 70_000}
                assert "set-cookie" not in answer.headers
        assert all(made["started_in"] == made["process"] for _, made in clients)
        made_by = [made["process"] for _, made in clients]
        expected = {process: made_by.count(process) for process in books(url)}
        assert {process: (one["created"], one["active"]) for process, one in books(url).items()} == {
            process: (count, count) for process, count in expected.items()
        }


def test_a_websocket_and_a_mounted_app_are_reached_through_every_worker(tmp_path: Path) -> None:
    with workers_under("uvicorn", tmp_path, "mounted") as (url, _):
        headers, made = opened(f"{url}/inside")
        for _ in range(8):
            assert asked(f"{url}/inside/items/a", headers=headers).json() == made
            there = f"ws{url.removeprefix('http')}/inside/echo"
            with connect(there, additional_headers=headers, proxy=None, open_timeout=PATIENCE) as socket:
                assert socket.recv() == f'{{"process":{made["process"]}}}'
                socket.send("hello")
                assert socket.recv() == "hello"


def test_sessions_of_a_killed_worker_are_gone_and_its_socket_goes_with_the_next_start(tmp_path: Path) -> None:
    with workers_under("uvicorn", tmp_path) as (url, _):
        killed_one(url, tmp_path).check_the_others()


def test_workers_that_end_in_order_leave_no_socket(tmp_path: Path) -> None:
    with workers_under("uvicorn", tmp_path) as (url, process):
        opened(url)
        assert process.terminate() in (0, -signal.SIGTERM)
    assert sockets_in(tmp_path / "workers") == []
    assert [path.name for path in (tmp_path / "workers").iterdir()] == ["secret"]
