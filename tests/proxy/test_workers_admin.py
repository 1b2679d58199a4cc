"""One admin API, one page of metrics and one set of commands for all workers, also while some of them are gone."""

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.processes import HOST, clean_environ, free_port
from tests.waiting import PATIENCE, until

from .conftest import Origin, Proxy, start_origin
from .several import WORKERS, asked, hint_of, opened, start_workers, used, workers_of

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Origin]:
    with start_origin(tmp_path_factory.mktemp("origin")) as origin:
        yield origin


@contextmanager
def steered(folder: Path, origin: Origin, *flags: str) -> Iterator[tuple[Proxy, str]]:
    """Start workers with an admin API, and return its URL, too."""
    port = free_port()
    with start_workers(folder, origin.url, "--admin", f"{HOST}:{port}", *flags) as proxy:
        yield proxy, f"http://{HOST}:{port}"


def said(url: str, path: str, method: str = "GET", **settings: Any) -> dict[str, Any]:
    answer = asked(method, f"{url}{path}", **settings)
    return {"status": answer.status_code, **answer.json()}


def listed(url: str, query: str = "limit=5") -> list[dict[str, Any]]:
    sessions: list[dict[str, Any]] = []
    after: str | None = ""
    while after is not None:
        page = said(url, f"/v1/sessions?{query}{f'&after={after}' if after else ''}")
        sessions += page["sessions"]
        after = page["next"]
    return sessions


def missing(answer: dict[str, Any]) -> list[dict[str, Any]]:
    return [one for one in answer["processes"] if not one["reached"]]


def command(url: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "otel_sessions", arguments[0], "--admin", url, *arguments[1:]],
        env=clean_environ(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def test_any_worker_lists_counts_and_ends_the_sessions_of_all(origin: Origin, tmp_path: Path) -> None:
    with steered(tmp_path, origin) as (proxy, url):
        ids = [opened(proxy) for _ in range(24)]
        by_process = Counter(map(hint_of, ids))
        for _ in range(8):
            sessions = listed(url)
            assert len({one["fingerprint"] for one in sessions}) == len(sessions) == 24
            assert Counter(one["process"] for one in sessions) == by_process
        stats = said(url, "/v1/stats")
        assert (stats["total_created"], stats["currently_active"]) == (24, 24)
        each = {one["name"]: one["stats"]["total_created"] for one in stats["processes"]}
        assert {name: count for name, count in each.items() if count} == by_process
        assert len(each) == WORKERS
        assert said(url, "/v1/config")["settings"]["max_sessions"] == 1000
        for one in sessions[:4]:
            path = f"/v1/sessions/{one['fingerprint']}"
            assert said(url, path)["process"] == one["process"]
            assert said(url, path, "DELETE")["ended"] == 1
            assert said(url, path)["status"] == 404
        report = said(url, "/v1/cleanup?preview=true", "POST", json={"max_idle_time": 1e-9})
        assert (report["total_cleaned"], report["outcome"]) == (20, "success")
        ended = said(url, "/v1/sessions?client=127.0.0.1", "DELETE")
        assert (ended["status"], ended["ended"], len(ended["processes"])) == (200, 20, WORKERS)
        assert len(said(url, "/v1/recent")["ends"]) == 24
        assert {used(proxy, session_id).status_code for session_id in ids} == {404}
        assert said(url, "/v1/config", "PATCH", json={"max_sessions": 8})["status"] == 409


def test_a_stopped_worker_is_named_and_nobody_waits_for_it_for_ever(origin: Origin, tmp_path: Path) -> None:
    with steered(tmp_path, origin) as (proxy, url):
        ids = [opened(proxy) for _ in range(24)]
        victim = workers_of(proxy)[2]
        os.kill(victim, signal.SIGSTOP)
        stats = said(url, "/v1/stats")
        (silent,) = missing(stats)
        assert "no sign of life" in silent["error"]
        assert silent["stats"] is None
        alive = [session_id for session_id in ids if hint_of(session_id) != silent["name"]]
        assert stats["total_created"] == len(alive)
        assert len(listed(url)) == len(alive)
        unknown = said(url, f"/v1/sessions/{'0' * 16}", "DELETE")
        assert unknown["status"] == 503
        assert silent["name"] in unknown["detail"]
        table = command(url, "sessions")
        assert table.returncode == 1
        assert f"sessions: {len(alive)}" in table.stdout
        assert f"not reached: {silent['name']}" in table.stderr
        books = command(url, "stats")
        assert books.returncode == 1
        assert f"not reached: {silent['name']}" in books.stdout
        ended = said(url, "/v1/sessions?client=127.0.0.1", "DELETE")
        assert (ended["status"], ended["ended"]) == (503, len(alive))
        assert [one["name"] for one in missing(ended)] == [silent["name"]]
        assert said(url, "/v1/cleanup", "POST")["outcome"] == "partial"
        os.kill(victim, signal.SIGCONT)
        ended = until(
            lambda: said(url, "/v1/sessions?client=127.0.0.1", "DELETE"), lambda answer: answer["status"] == 200
        )
        assert listed(url) == []


def test_the_admin_api_answers_while_workers_are_killed_and_start_again(origin: Origin, tmp_path: Path) -> None:
    with steered(tmp_path, origin) as (proxy, url):
        ids = [opened(proxy) for _ in range(24)]
        first = said(url, "/v1/sessions?limit=1")
        victim = workers_of(proxy)[0]
        os.kill(victim, signal.SIGKILL)
        stats = until(lambda: said(url, "/v1/stats"), lambda stats: stats["total_created"] < 24)
        assert all("no process listens there" in one["error"] for one in missing(stats))
        proxy.until_whole(WORKERS)
        assert missing(said(url, "/v1/stats")) == []
        lost = [session_id for session_id in ids if used(proxy, session_id).status_code == 404]
        again = [opened(proxy) for _ in range(8)]
        after = listed(url, f"limit=5&after={first['next']}")
        shown = {one["fingerprint"] for one in after} | {one["fingerprint"] for one in first["sessions"]}
        assert len(after) == len({one["fingerprint"] for one in after})
        assert len({one["fingerprint"] for one in listed(url)}) == 24 - len(lost) + len(again)
        assert {one["fingerprint"] for one in listed(url)} <= shown


def test_prometheus_scrapes_all_workers_at_one_address(origin: Origin, tmp_path: Path) -> None:
    port = free_port()
    environ: dict[str, Any] = {"OTEL_METRICS_EXPORTER": "prometheus", "OTEL_EXPORTER_PROMETHEUS_PORT": str(port)}

    def scraped() -> dict[str, dict[str, float]]:
        answer = asked("GET", f"http://localhost:{port}/metrics")
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        types = [line for line in answer.text.splitlines() if line.startswith(("# HELP", "# TYPE"))]
        assert len(types) == len({" ".join(line.split()[:3]) for line in types})
        found: dict[str, dict[str, float]] = {}
        series = [sample for family in text_string_to_metric_families(answer.text) for sample in family.samples]
        assert len(series) == len({(sample.name, *sorted(sample.labels.items())) for sample in series})
        for sample in series:
            worker = found.setdefault(sample.name, {})
            worker[sample.labels["worker"]] = worker.get(sample.labels["worker"], 0) + sample.value
        return found

    with start_workers(tmp_path, origin.url, **environ) as proxy:
        ids = [opened(proxy) for _ in range(12)]
        numbers = Counter(hint_of(session_id).partition("-")[0] for session_id in ids)
        found = scraped()
        created = found["otel_sessions_session_created_total"]
        assert {worker: count for worker, count in created.items() if count} == numbers
        assert found["otel_sessions_worker_up"] == dict.fromkeys("1234", 1.0)
        assert set(found["target_info"]) == set("1234")
        os.kill(workers_of(proxy)[1], signal.SIGSTOP)
        found = scraped()
        assert sum(found["otel_sessions_worker_up"].values()) == WORKERS - 1
        assert len(found["target_info"]) == WORKERS - 1


@pytest.mark.parametrize("taken", ["--admin", "OTEL_EXPORTER_PROMETHEUS_PORT"])
def test_an_address_for_all_workers_that_others_have_is_an_error(origin: Origin, tmp_path: Path, taken: str) -> None:
    with steered(tmp_path, origin) as (_, url):
        port = url.rpartition(":")[2]
        flags = ["--admin", f"{HOST}:{port}"] if taken == "--admin" else []
        environ = {"OTEL_METRICS_EXPORTER": "prometheus", "OTEL_EXPORTER_PROMETHEUS_PORT": port}
        done = subprocess.run(
            [
                *(sys.executable, "-m", "otel_sessions", "proxy", "--upstream", origin.url),
                *("--listen", f"{HOST}:0", "--workers", "2", *flags),
            ],
            env={**clean_environ(), **({} if flags else environ)},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 2
        assert taken in done.stderr
        assert "in use" in done.stderr
        assert "Traceback" not in done.stderr
