"""Several workers on one port: each of them finds every session, and together they are one proxy."""

import contextlib
import json
import os
import re
import signal
import stat
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest
from websockets.sync.client import connect

from otel_sessions.fleet.signing import HEADER, Passage, Secrets
from tests.exchanges import INITIALIZE
from tests.processes import HOST, clean_environ, free_port, running, until_answers
from tests.waiting import PATIENCE, until

from .conftest import Origin, Proxy, start_origin, start_proxy
from .several import LIST, MCP, WORKERS, asked, hint_of, opened, start_workers, used, workers_of

pytestmark = pytest.mark.processes

SDK = Path(__file__).parent / "sdk"


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Origin]:
    """An origin of these tests' own: what is killed here leaves sessions behind, which other tests would count."""
    with start_origin(tmp_path_factory.mktemp("origin")) as origin:
        yield origin


def books(proxy: Proxy) -> tuple[int, int]:
    said = proxy.said_of_itself()
    return said["created"], said["active"]


def test_every_request_of_every_client_finds_its_session(origin: Origin, tmp_path: Path) -> None:
    before = origin.counts()["sessions"]
    with start_workers(tmp_path, origin.url) as proxy, ThreadPoolExecutor(8) as clients:
        ids = list(clients.map(lambda _: opened(proxy), range(40)))
        assert len(set(map(hint_of, ids))) == WORKERS
        answers = list(clients.map(lambda session_id: used(proxy, session_id), ids * 5))
        assert Counter(answer.status_code for answer in answers) == {200: 200}
        assert books(proxy) == (40, 40)
        assert origin.counts()["sessions"] == before + 40
        for session_id in ids:
            ended = asked("DELETE", f"{proxy.url}/mcp", headers={"mcp-session-id": session_id})
            assert ended.status_code == 204
        assert books(proxy) == (40, 0)
    assert origin.counts()["sessions"] == before


def test_cookies_and_websockets_find_their_session(origin: Origin, tmp_path: Path) -> None:
    with start_workers(tmp_path, origin.url, "--matcher", "cookie") as proxy:
        cookies = [asked("GET", f"{proxy.url}/a").headers["set-cookie"].partition(";")[0] for _ in range(12)]
        for cookie in cookies * 3:
            assert "set-cookie" not in asked("GET", f"{proxy.url}/a", headers={"cookie": cookie}).headers
            url = f"ws{proxy.url.removeprefix('http')}/echo"
            with connect(url, additional_headers={"cookie": cookie}, proxy=None, open_timeout=PATIENCE) as socket:
                socket.send("hello")
                assert socket.recv() == "hello"
        assert books(proxy) == (12, 12)


def test_the_cap_is_divided_so_that_its_parts_add_up(origin: Origin, tmp_path: Path) -> None:
    with start_workers(tmp_path, origin.url, "--max-sessions", "6", count=4) as proxy:
        statuses: Counter[int] = Counter()

        def is_full() -> bool:
            statuses[asked("POST", f"{proxy.url}/mcp", content=INITIALIZE, headers=MCP).status_code] += 1
            return books(proxy) == (6, 6)

        until(is_full, bool)
        for _ in range(8):
            assert asked("POST", f"{proxy.url}/mcp", content=INITIALIZE, headers=MCP).status_code == 503
        assert books(proxy) == (6, 6)
        assert statuses[200] == 6


def test_sessions_of_a_killed_worker_are_404_and_no_other_is_lost(origin: Origin, tmp_path: Path) -> None:
    with start_workers(tmp_path, origin.url) as proxy:
        ids = [opened(proxy) for _ in range(24)]
        victim = workers_of(proxy)[1]
        os.kill(victim, signal.SIGKILL)
        first = {session_id: used(proxy, session_id).status_code for session_id in ids}
        proxy.until_whole(WORKERS)
        assert victim not in workers_of(proxy)
        lost = {hint_of(session_id) for session_id, status in first.items() if status == 404}
        assert len(lost) == 1
        for session_id in ids:
            expected = 404 if hint_of(session_id) in lost else 200
            assert (first[session_id], used(proxy, session_id).status_code) == (expected, expected)
        assert "has ended (signal 9), and its sessions with it" in proxy.process.said()
        assert books(proxy)[1] == sum(hint_of(session_id) not in lost for session_id in ids)


def test_clients_of_a_stopped_worker_get_503_and_nobody_else_waits(origin: Origin, tmp_path: Path) -> None:
    with start_workers(tmp_path, origin.url) as proxy, ThreadPoolExecutor(8) as clients:
        ids = [opened(proxy) for _ in range(24)]
        victim = workers_of(proxy)[2]
        os.kill(victim, signal.SIGSTOP)
        answers = dict(zip(ids, clients.map(lambda session_id: used(proxy, session_id), ids), strict=True))
        said = proxy.said_of_itself()
        os.kill(victim, signal.SIGCONT)
        stopped = {hint_of(session_id) for session_id, answer in answers.items() if answer.status_code == 503}
        assert len(stopped) == 1
        for session_id, answer in answers.items():
            assert answer.status_code == (503 if hint_of(session_id) in stopped else 200)
            assert answer.status_code == 200 or int(answer.headers["retry-after"]) > 0
        assert (said["status"], said["workers"]) == ("degraded", WORKERS - 1)
        proxy.until_whole(WORKERS)
        assert {used(proxy, session_id).status_code for session_id in ids} == {200}
        assert books(proxy) == (24, 24)


def test_workers_that_die_under_load_lose_their_own_sessions_only(origin: Origin, tmp_path: Path) -> None:
    with start_workers(tmp_path, origin.url) as proxy, ThreadPoolExecutor(8) as clients:
        killed = threading.Event()

        def live(_: int) -> tuple[str, list[int]]:
            session_id = opened(proxy)
            statuses = []
            while not killed.is_set():
                with contextlib.suppress(httpx2.TransportError):  # the worker that had the connection was killed
                    statuses.append(used(proxy, session_id).status_code)
            return session_id, [*statuses, *(used(proxy, session_id).status_code for _ in range(3))]

        lives = [clients.submit(live, number) for number in range(8)]
        until(lambda: books(proxy)[0], lambda created: created == 8)
        for _ in range(2):
            proxy.until_whole(WORKERS)
            os.kill(workers_of(proxy)[0], signal.SIGKILL)
        proxy.until_whole(WORKERS)
        killed.set()
        survivors = 0
        for life in lives:
            _, said = life.result()
            statuses = [status for status in said if status != 503]  # its owner was killed amid the request
            assert set(statuses) <= {200, 404}
            assert sorted(statuses) == statuses  # once it is gone, it stays gone
            assert said[-3:] == [statuses[-1]] * 3
            survivors += statuses[-1] == 200
        assert books(proxy)[1] == survivors


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_all_workers_in_order(origin: Origin, tmp_path: Path, number: int) -> None:
    before = origin.counts()["sessions"]
    with start_workers(tmp_path, origin.url, "--export", str(tmp_path / "ended-{worker}.jsonl")) as proxy:
        for _ in range(12):
            opened(proxy)
        workers = workers_of(proxy)
        proxy.process.process.send_signal(number)
        assert proxy.process.end() == 0
        assert origin.counts()["sessions"] == before
        assert not any(Path(f"/proc/{worker}").exists() for worker in workers)
        files = sorted(path.name for path in tmp_path.glob("ended-*.jsonl"))
        assert files == [f"ended-{worker}.jsonl" for worker in range(1, WORKERS + 1)]
        assert sum(len((tmp_path / name).read_text().splitlines()) for name in files) == 12
        assert list((tmp_path / "t").iterdir()) == []


def test_a_stopped_worker_ends_in_order_too(origin: Origin, tmp_path: Path) -> None:
    before = origin.counts()["sessions"]
    with start_workers(tmp_path, origin.url) as proxy:
        for _ in range(12):
            opened(proxy)
        os.kill(workers_of(proxy)[0], signal.SIGSTOP)
        assert proxy.process.terminate() == 0
    assert origin.counts()["sessions"] == before


def test_open_streams_are_drained_while_health_says_that_all_shut_down(origin: Origin, tmp_path: Path) -> None:
    flags = ("--drain-timeout", "600", "--shutdown-timeout", "1200")
    with start_workers(tmp_path, origin.url, *flags) as proxy:
        session_id = opened(proxy)
        with ThreadPoolExecutor(1) as clients:
            headers = {**MCP, "mcp-session-id": session_id}
            held = clients.submit(asked, "GET", f"{proxy.url}/held", headers=headers)
            origin.until("held", 1)
            proxy.process.process.terminate()
            proxy.until_it_shuts_down()
            assert not proxy.takes_connections()
            origin.release()
            assert held.result().text == "at last"
        assert proxy.process.end() == 0


def test_a_second_signal_ends_all_at_once(origin: Origin, tmp_path: Path) -> None:
    flags = ("--drain-timeout", "600", "--shutdown-timeout", "1200")
    with start_workers(tmp_path, origin.url, *flags) as proxy, ThreadPoolExecutor(1) as clients:
        headers = {**MCP, "mcp-session-id": opened(proxy)}
        held = clients.submit(asked, "GET", f"{proxy.url}/held", headers=headers)
        origin.until("held", 1)
        workers = workers_of(proxy)
        proxy.process.process.terminate()
        proxy.until_it_shuts_down()
        proxy.process.process.terminate()
        assert proxy.process.end() == 128 + signal.SIGTERM
        assert not any(Path(f"/proc/{worker}").exists() for worker in workers)
        with pytest.raises(httpx2.HTTPError):
            held.result()
        origin.release()


def test_workers_end_when_their_parent_is_killed(origin: Origin, tmp_path: Path) -> None:
    before = origin.counts()["sessions"]
    with start_workers(tmp_path, origin.url) as proxy:
        opened(proxy)
        workers = workers_of(proxy)
        proxy.process.kill()
        until(lambda: [worker for worker in workers if is_alive(worker)], lambda alive: not alive)
    assert origin.counts()["sessions"] == before


def is_alive(pid: int) -> bool:
    """Return whether a process runs. Nobody may wait for it where no init process does."""
    with contextlib.suppress(OSError):
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    return False


def test_what_the_workers_share_is_open_to_this_user_only(origin: Origin, tmp_path: Path) -> None:
    with start_workers(tmp_path, origin.url):
        (folder,) = (tmp_path / "t").iterdir()
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.iterdir())}
        assert modes.pop(folder.name) == 0o700
        assert set(modes) == {"secret", *(f"{worker}.sock" for worker in range(1, WORKERS + 1))}
        assert set(modes.values()) == {0o600}


def test_workers_share_a_unix_socket_which_goes_with_the_last(origin: Origin, tmp_path: Path) -> None:
    path = tmp_path / "front.sock"
    with start_workers(tmp_path, origin.url, "--listen", f"unix:{path}", count=2) as proxy:
        os.kill(workers_of(proxy)[0], signal.SIGKILL)
        proxy.until_whole(2)
        transport = httpx2.HTTPTransport(uds=str(path))
        with httpx2.Client(transport=transport, timeout=PATIENCE) as http:
            assert http.get("http://x/a").status_code == 200
        assert proxy.process.terminate() == 0
    assert not path.exists()


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--max-sessions", "3"], "--max-sessions 3 is too few for --workers 4"),
        (["--max-connections", "3"], "--max-connections 3 is too few for --workers 4"),
        (["--export", "ended.jsonl"], "--export needs {worker} in its name"),
        (["--export", "/nowhere/{worker}.jsonl"], "--export /nowhere/1.jsonl: No such file"),
        (["--tls-cert", "/nowhere/cert", "--tls-key", "/nowhere/key"], "--tls-cert"),
        (["--admin", "0.0.0.0:0"], "--admin needs a token"),
        (["--workers", "0"], "argument --workers: takes"),
        (
            ["--peers", "w1=http://x", "--peer-name", "w1", "--peer-listen", "127.0.0.1:0", "--peer-secret-file", "x"],
            "--workers and --peers exclude each other",
        ),
    ],
)
def test_what_workers_cannot_do_is_an_error_that_says_so(flags: list[str], complaint: str) -> None:
    done = complained(["--workers", "4", *flags])
    assert done.returncode == 2
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_file_of_one_worker_that_cannot_be_written_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "ended-3.jsonl").mkdir()
    done = complained(["--workers", "4", "--export", str(tmp_path / "ended-{worker}.jsonl")])
    assert done.returncode == 2
    assert done.stderr == f"otel-sessions: --export {tmp_path}/ended-3.jsonl: Is a directory\n"


def test_a_file_that_another_proxy_writes_is_an_error_that_is_said_once(origin: Origin, tmp_path: Path) -> None:
    export = ("--export", str(tmp_path / "ended-{worker}.jsonl"))
    with start_workers(tmp_path, origin.url, *export, count=2):
        done = complained(["--workers", "3", *export])
    assert done.returncode == 2
    assert done.stderr == f"otel-sessions: --export {tmp_path}/ended-1.jsonl: Another sink writes to this file\n"


def test_a_port_that_others_have_is_an_error_also_if_they_would_share_it(origin: Origin, tmp_path: Path) -> None:
    with start_workers(tmp_path, origin.url, count=2) as proxy:
        done = complained(["--workers", "2", "--listen", proxy.url.removeprefix("http://")])
        assert done.returncode == 2
        assert "in use" in done.stderr


def complained(flags: list[str], **environ: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "otel_sessions", "proxy", "--upstream", "http://127.0.0.1:1"]
    command += ["--listen", f"{HOST}:0", *flags]
    return subprocess.run(
        command, env={**clean_environ(), **environ}, capture_output=True, text=True, timeout=PATIENCE, check=False
    )


def test_the_number_of_workers_may_stand_in_the_environment_and_in_a_file(origin: Origin, tmp_path: Path) -> None:
    with start_proxy(tmp_path, origin.url, OTEL_SESSIONS_PROXY_WORKERS="2") as proxy:
        proxy.until_whole(2)
    file = tmp_path / "settings.toml"
    file.write_text("[proxy]\nworkers = 2\n")
    with start_proxy(tmp_path, origin.url, "--config", str(file)) as proxy:
        proxy.until_whole(2)


def test_mcp_clients_of_both_kinds_need_no_affinity(tmp_path: Path) -> None:
    """CLIENTS=200 is a minute of a busy machine."""
    count, calls = int(os.environ.get("CLIENTS", "24")), 5
    port = free_port()
    server = [sys.executable, str(SDK / "server.py"), str(port)]
    with running("mcp-server", server, tmp_path) as process:
        until_answers(f"http://{HOST}:{port}/sessions", process)
        with start_workers(tmp_path, f"http://{HOST}:{port}") as proxy:
            crowd = [sys.executable, str(SDK / "crowd.py"), f"{proxy.url}/mcp", str(count), str(calls)]
            done = subprocess.run(crowd, env=clean_environ(), capture_output=True, text=True, timeout=600, check=False)
            expected = {"clients": count, "right": count * calls, "wrong": 0, "errors": []}
            assert done.returncode == 0, done.stderr
            assert json.loads(done.stdout) == expected, f"{done.stderr}\n{proxy.process.said()}"
            assert books(proxy) == (count, 0)
            assert asked("GET", f"http://{HOST}:{port}/sessions").json() == {"sessions": 0}


@pytest.mark.parametrize("forged", ["{hint}.forged", "nobody.forged", "forged", ".forged", "{hint}"])
def test_a_forged_hint_is_404_at_every_worker(origin: Origin, tmp_path: Path, forged: str) -> None:
    with start_workers(tmp_path, origin.url, count=2) as proxy:
        hint = hint_of(opened(proxy))
        answers = {used(proxy, forged.format(hint=hint)).status_code for _ in range(8)}
        assert answers == {404}


def test_a_client_cannot_send_what_only_workers_send(origin: Origin, tmp_path: Path) -> None:
    with start_workers(tmp_path, origin.url, count=2) as proxy:
        session_id = opened(proxy)
        for _ in range(6):
            headers = {**MCP, "mcp-session-id": session_id, "otel-sessions-fleet": "x.y"}
            assert asked("POST", f"{proxy.url}/mcp", content=LIST, headers=headers).status_code == 200


def test_each_worker_has_an_instance_of_its_own(origin: Origin, tmp_path: Path) -> None:
    environ = {"OTEL_METRICS_EXPORTER": "console", "OTEL_RESOURCE_ATTRIBUTES": "service.instance.id=gateway"}
    with start_workers(tmp_path, origin.url, count=2, **environ) as proxy:
        assert proxy.process.terminate() == 0
        said = proxy.process.said()
    assert set(re.findall(r'"service.instance.id": "(.*?)"', said)) == {"gateway-1", "gateway-2"}


def test_the_demos_proxy_has_workers_too(origin: Origin, tmp_path: Path) -> None:
    front, health = free_port(), free_port()
    flags = ["--listen", f"{HOST}:{front}", "--health", f"{HOST}:{health}", "--upstream", origin.url, "--workers", "2"]
    command = [sys.executable, "-m", "otel_sessions.demo.processes.proxy", *flags]
    with running("demo-proxy", command, tmp_path) as process:
        until_answers(f"http://{HOST}:{health}/healthz", process)
        proxy = Proxy(url=f"http://{HOST}:{front}", health=f"http://{HOST}:{health}", process=process)
        proxy.until_whole(2)
        session_id = opened(proxy)
        assert {used(proxy, session_id).status_code for _ in range(6)} == {200}
        assert process.terminate() == 0


def secret_of(folder: Path) -> Path:
    (secret,) = (folder / "t").glob("otel-sessions-*/secret")
    return secret


def test_the_secret_of_workers_can_be_replaced_and_lost_without_a_lost_request(origin: Origin, tmp_path: Path) -> None:
    with start_workers(tmp_path, origin.url, count=2) as proxy:
        ids = [opened(proxy) for _ in range(8)]
        secret = secret_of(tmp_path)
        old, new = secret.read_text(), "another secret of these workers\n"
        for number, text in enumerate([old + new, new + old, new], 1):
            (tmp_path / "new").write_text(text)
            (tmp_path / "new").replace(secret)
            read = f"{secret} has changed and was read again"

            def are_told(said: int = 2 * number, read: str = read) -> bool:
                answers = [used(proxy, session_id).status_code for session_id in ids]
                assert set(answers) == {200}
                return proxy.process.said().count(read) == said

            until(are_told, bool)
        secret.unlink()
        until(lambda: (used(proxy, ids[0]), "the last good content stays in use" in proxy.process.said())[1], bool)
        assert {used(proxy, session_id).status_code for session_id in ids} == {200}


@pytest.mark.parametrize("gone", ["the file", "the folder"])
def test_a_worker_starts_again_though_the_secret_was_deleted(origin: Origin, tmp_path: Path, gone: str) -> None:
    with start_workers(tmp_path, origin.url, count=2) as proxy:
        folder = secret_of(tmp_path).parent
        if gone == "the file":
            (folder / "secret").unlink()
        else:
            for path in folder.iterdir():
                path.unlink()
            folder.rmdir()
        for victim in workers_of(proxy):
            os.kill(victim, signal.SIGKILL)
            until(lambda victim=victim: victim in workers_of(proxy), lambda there: not there)  # type: ignore[misc]
            until(lambda: len(workers_of(proxy)), lambda count: count == 2)
        proxy.until_whole(2)
        ids: list[str] = []
        until(lambda: ids.append(opened(proxy)), lambda _: len(set(map(hint_of, ids))) == 2)
        assert {used(proxy, session_id).status_code for session_id in ids * 4} == {200}
        assert stat.S_IMODE((folder / "secret").stat().st_mode) == 0o600
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert "the secret of the workers was gone" in proxy.process.said()
    assert list((tmp_path / "t").iterdir()) == []


@pytest.mark.parametrize("wrong", ["another secret", "an old signature", "a second hop"])
def test_the_socket_of_a_worker_refuses_what_no_worker_signs_now(origin: Origin, tmp_path: Path, wrong: str) -> None:
    with start_workers(tmp_path, origin.url, count=2) as proxy:
        session_id = opened(proxy)
        secret = b"x" * 32 if wrong == "another secret" else secret_of(tmp_path).read_bytes().strip()
        expires = int(time.time()) + (-1 if wrong == "an old signature" else 60)
        passage = Passage(
            owner=hint_of(session_id),
            session_id=session_id,
            scheme="http",
            client=None,
            expires=expires,
            hop=2 if wrong == "a second hop" else 1,
        )
        signed, _ = Secrets([secret]).sign(passage, "POST", b"/mcp")
        headers = {**MCP, "mcp-session-id": session_id, HEADER.decode(): signed.decode()}
        for path in sorted(secret_of(tmp_path).parent.glob("*.sock")):
            with httpx2.Client(transport=httpx2.HTTPTransport(uds=str(path)), timeout=PATIENCE) as http:
                assert http.post("http://localhost/mcp", content=LIST, headers=headers).status_code == 403
        assert used(proxy, session_id).status_code == 200
