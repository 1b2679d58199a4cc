"""What workers say of themselves is what their clients have counted, also while workers are killed or stopped."""

import contextlib
import http.client
import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from otel_sessions import fingerprint
from tests.exchanges import INITIALIZE
from tests.processes import HOST, free_port
from tests.waiting import until

from .conftest import Origin, Proxy
from .several import LIST, MCP, WORKERS, asked, hint_of, opened, start_workers, workers_of

pytestmark = pytest.mark.processes
_UNDECIDED = 503
"""The answer while the owner is about to end, or stands still."""


@contextlib.contextmanager
def steered(folder: Path, own_origin: Origin, *flags: str) -> Iterator[tuple[Proxy, str]]:
    """Start workers with an admin API, and return its URL, too."""
    port = free_port()
    with start_workers(folder, own_origin.url, "--admin", f"{HOST}:{port}", *flags) as proxy:
        yield proxy, f"http://{HOST}:{port}"


class Clients:
    """Clients without affinity, and what they have counted by worker. `victim` may lose its sessions."""

    def __init__(self, proxy: Proxy, victim: str) -> None:
        self._url = f"{proxy.url}/mcp"
        self._victim = victim
        self._lock = threading.Lock()
        self.stopped = threading.Event()
        self.created = Counter[str]()
        self.ended = Counter[str]()
        self.refused = 0

    def live(self, _: int) -> None:
        """Open sessions, use each, and end every other one, until all is stopped."""
        number = 0
        while not self.stopped.is_set():
            number += 1
            answer, _ = self._ask("POST", INITIALIZE)
            assert answer.status_code == 200, answer.text
            session_id = answer.headers["mcp-session-id"]
            self._note(self.created, session_id)
            is_there = self._use(session_id) and self._use(session_id)
            if is_there and number % 2:
                self._end(session_id)

    def _use(self, session_id: str) -> bool:
        answer, _ = self._ask("POST", LIST, session_id)
        assert answer.status_code == 200 or (answer.status_code == 404 and self._may_be_lost(session_id)), answer.text
        return answer.status_code == 200

    def _end(self, session_id: str) -> None:
        answer, again = self._ask("DELETE", b"", session_id)
        if answer.status_code == 204:
            self._note(self.ended, session_id)
        else:  # it was ended, but the worker in between was killed before it said so
            assert answer.status_code == 404, answer.text
            assert again or self._may_be_lost(session_id)
            if not self._may_be_lost(session_id):
                self._note(self.ended, session_id)

    def _ask(self, method: str, content: bytes, session_id: str | None = None) -> tuple[httpx2.Response, bool]:
        """Ask until there is an answer that decides. Return it, and whether it was asked before."""
        headers = MCP if session_id is None else {**MCP, "mcp-session-id": session_id}
        again = False
        while True:
            with contextlib.suppress(httpx2.TransportError):  # the worker that had the connection was killed
                answer = asked(method, self._url, content=content, headers=headers)
                if answer.status_code != _UNDECIDED:
                    return answer, again
                self.refused += 1
            again = True

    def _may_be_lost(self, session_id: str) -> bool:
        return hint_of(session_id).startswith(self._victim)

    def _note(self, counter: Counter[str], session_id: str) -> None:
        with self._lock:
            counter[hint_of(session_id)] += 1


@pytest.mark.parametrize(
    "how", [signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM], ids=["killed", "stopped", "restarted"]
)
def test_the_books_of_each_worker_are_what_its_clients_have_counted(
    own_origin: Origin, tmp_path: Path, how: signal.Signals
) -> None:
    with steered(tmp_path, own_origin) as (proxy, url), ThreadPoolExecutor(6) as threads:
        victim = workers_of(proxy)[1]
        clients = Clients(proxy, victim="nobody" if how is signal.SIGSTOP else "2-")
        lives = [threads.submit(clients.live, number) for number in range(6)]
        with contextlib.ExitStack() as exits:
            exits.callback(clients.stopped.set)
            exits.callback(_let_go_on, victim)
            until(lambda: len(clients.created), lambda workers: workers == WORKERS)
            os.kill(victim, how)
            if how is signal.SIGSTOP:
                until(lambda: clients.refused, bool)
            else:
                until(lambda: victim in workers_of(proxy), lambda there: not there)
            before = clients.created.total()
            until(clients.created.total, lambda now: now > before + 20)
        for life in lives:
            life.result()
        proxy.until_whole(WORKERS)
        stats = asked("GET", f"{url}/v1/stats").json()
        books = {one["name"]: one["stats"] for one in stats["processes"]}
        assert len(books) == WORKERS
        for name, one in books.items():
            assert one["total_created"] == one["total_cleaned"] + one["currently_active"]
            if name.startswith("2-") and how is not signal.SIGSTOP:  # it counts from its new start
                assert one["total_created"] <= clients.created[name]
            else:
                assert (one["total_created"], one["total_cleaned"]) == (clients.created[name], clients.ended[name])
        for key in ("total_created", "total_cleaned", "currently_active"):
            assert stats[key] == sum(one[key] for one in books.values())
        if how is not signal.SIGKILL:  # nobody tells the upstream of the sessions of a killed worker
            own_origin.until("sessions", stats["currently_active"])


def _let_go_on(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


COUNT = 10_000


def test_each_of_many_sessions_of_all_workers_is_listed_once_while_others_come_and_go(
    own_origin: Origin, tmp_path: Path
) -> None:
    with steered(tmp_path, own_origin, "--max-sessions", "20000") as (proxy, url), ThreadPoolExecutor(8) as threads:
        made = [one for some in threads.map(lambda _: list(many(proxy, COUNT // 8)), range(8)) for one in some]
        assert len(set(map(hint_of, made))) == WORKERS
        going, is_over, gone = iter(made[::7]), threading.Event(), set[str]()

        def come_and_go() -> None:
            while not is_over.is_set() and (session_id := next(going, None)) is not None:
                headers = {"mcp-session-id": session_id}
                assert asked("DELETE", f"{proxy.url}/mcp", headers=headers).status_code == 204
                gone.add(session_id)
                opened(proxy)

        churn = threads.submit(come_and_go)
        until(lambda: len(gone), bool)
        listed: Counter[str] = Counter()
        pages = 0
        after: str | None = ""
        while after is not None:
            page: dict[str, Any] = asked(
                "GET", f"{url}/v1/sessions?limit=200{f'&after={after}' if after else ''}"
            ).json()
            assert all(one["reached"] for one in page["processes"])
            listed.update(one["fingerprint"] for one in page["sessions"])
            pages, after = pages + 1, page["next"]
        is_over.set()
        churn.result()
        survivors = {own(session_id) for session_id in made} - {own(session_id) for session_id in gone}
        assert set(listed.values()) == {1}
        assert survivors <= set(listed)
        assert pages > COUNT / 200 / 2
        assert gone


def own(session_id: str) -> str:
    """Return the fingerprint of the upstream's own id."""
    return fingerprint(session_id.partition(".")[2])


def many(proxy: Proxy, count: int) -> Iterator[str]:
    """Open so many sessions, a hundred over each connection."""
    while count > 0:
        with contextlib.closing(http.client.HTTPConnection(proxy.url.removeprefix("http://"))) as connection:
            for _ in range(min(100, count)):
                connection.request("POST", "/mcp", INITIALIZE, MCP)
                answer = connection.getresponse()
                answer.read()
                yield str(answer.headers["mcp-session-id"])
        count -= 100
