"""Workers that share a port, one cap and a real store: each has a listener of its own, under every server."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.processes import Running
from tests.waiting import until

from .real import books as stored
from .servers import Program
from .several import SERVERS, asked, books, killed_one, opened, sockets_in, workers_under

pytestmark = pytest.mark.processes

AT_A_SOCKET = "auto:{folder}"
AT_A_PORT = "http://127.0.0.1:0"
LONG = "60"
"""Seconds; a lease that no test outlasts."""
SHORT = "8"
"""Seconds; the lease where a test waits for the death of a worker."""


@contextmanager
def members_under(
    server: str, folder: Path, store: Program, address: str = AT_A_SOCKET, lease: str = LONG
) -> Iterator[tuple[str, Running]]:
    environ = {"STORE": store.url, "ADDRESS": address, "LEASE": lease, "ORPHANS": str(folder / "orphans")}
    with workers_under(server, folder, **environ) as (url, process):
        yield url, process


@pytest.mark.parametrize(("server", "address"), [*((each, AT_A_SOCKET) for each in SERVERS), ("uvicorn", AT_A_PORT)])
def test_a_request_at_any_worker_is_served_by_the_worker_that_has_its_session(
    server: str, address: str, valkey: Program, tmp_path: Path
) -> None:
    with members_under(server, tmp_path, valkey, address) as (url, _):
        clients = [opened(url) for _ in range(9)]
        for headers, made in clients:
            for _ in range(4):
                answer = asked(f"{url}/items/a", "POST", headers=headers, content=b"x" * 70_000)
                assert answer.json() == {**made, "size": 70_000}
                assert "set-cookie" not in answer.headers
        assert sum(one["created"] for one in books(url).values()) == len(clients)
        assert stored(valkey) == {"created": 9, "active": 9}
    assert sockets_in(tmp_path / "workers") == []
    assert stored(valkey) == {"created": 9, "shutdown": 9, "active": 0}


def test_sessions_of_a_killed_worker_are_ended_by_others_and_its_socket_goes(valkey: Program, tmp_path: Path) -> None:
    with members_under("uvicorn", tmp_path, valkey, lease=SHORT) as (url, _):
        killed = killed_one(url, tmp_path)
        lost = [made["hint"] for made in killed.lost]
        assert {path.stem for path in killed.before} - {path.stem for path in killed.after} == set(lost)
        until(lambda: stored(valkey), lambda found: found["orphaned"] == len(lost))
        ended = [line.split() for line in (tmp_path / "orphans").read_text().splitlines()]
        assert sorted({session_id.partition(".")[0] for _, session_id in ended}) == sorted(set(lost))
        assert len({session_id for _, session_id in ended}) == len(lost)
        assert str(killed.victim) not in {process for process, _ in ended}
        killed.check_the_others()
