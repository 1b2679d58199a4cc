"""What the benchmark of the proxy computes from what wrk says and from what the kernel counts."""

import json
import os
import sys
from pathlib import Path

import psutil
import pytest

from benchmarks import proxy
from benchmarks.proxies import asked, cpu, events, field, handling, memory, peers, picture, results, servers, table, wrk
from benchmarks.proxies.asked import Request, Workload
from benchmarks.proxies.field import DIRECT, NGINX, ON_ASYNCIO, OURS, Field
from benchmarks.proxies.handling import Pair
from benchmarks.proxies.peers import ASGIPROXY, PEERS, Absent
from benchmarks.proxies.results import Measured, Memory
from benchmarks.proxies.wrk import LoadFailed, Round, Said, Target

pytestmark = pytest.mark.no_cover

WRK_SAID = """\
Running 1s test @ http://127.0.0.1:8080
  1 threads and 16 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency    21.36ms    6.12ms  90.01ms   91.20%
  Latency Distribution
     50%  980.00us
     75%   21.55ms
     90%   25.07ms
     99%    1.05s
  731 requests in 1.00s, 121.36KB read
Requests/sec:    729.81
Transfer/sec:    121.16KB
"""


def one(cpu: float, rate: float = 700.0) -> Round:
    return Round(rate=rate, p50=0.02, p99=0.05, cpu=cpu)


def pairs(*differences: float) -> list[Pair]:
    return [Pair(in_session=one(1.0), without=one(1.0 - difference)) for difference in differences]


def test_what_wrk_says_is_read_in_seconds() -> None:
    assert wrk.read(WRK_SAID) == Said(requests=731, rate=729.81, p50=0.00098, p99=1.05)


def test_sessions_cost_the_median_of_the_differences_with_its_quartiles() -> None:
    cost = handling.cost(pairs(0.04, 0.01, 0.5, 0.03, 0.02, 0.06, -0.2, 0.05, 0.0))
    assert (cost.lower_quartile, cost.median, cost.upper_quartile) == pytest.approx((0.01, 0.03, 0.05))


@pytest.mark.parametrize(("count", "outside"), [(6, 1), (8, 1), (9, 2), (40, 14), (100, 40)])
def test_the_median_lies_within_what_the_tables_of_the_sign_test_say(count: int, outside: int) -> None:
    values = [float(number) for number in reversed(range(1, count + 1))]
    assert handling.bounds_of_median(values) == (outside, count + 1 - outside)


def test_a_machine_that_slows_down_from_pair_to_pair_changes_no_difference() -> None:
    slower = [
        Pair(in_session=one(number + 0.02 * number), without=one(float(number))) for number in (1, 1, 1, 1, 2, 3, 4)
    ]
    assert handling.cost(slower).share == pytest.approx(0.02 / 1.02)


@pytest.mark.parametrize(
    ("differences", "verdict"),
    [
        ([5e-6] * 6, "met"),
        ([7e-6] * 6, "MISSED"),
        ([5e-6, 7e-6] * 3, "not decided, more --pairs may"),
        ([-1e-6] * 6, "no verdict, no session costs more"),
    ],
)
def test_what_sessions_cost_is_judged_only_where_that_is_certain(differences: list[float], verdict: str) -> None:
    assert handling.cost(pairs(*differences)).verdict(6e-6) == verdict


def test_each_of_a_pair_goes_first_as_often_as_the_other() -> None:
    turns: list[str] = []

    def took(name: str, seconds: float) -> Round:
        turns.append(name)
        return one(seconds)

    run = handling.in_turns(lambda: took("in session", 2.0), lambda: took("without", 1.0), 2)
    assert turns == ["without", "in session", "in session", "without"]
    assert [pair.difference for pair in run] == [1.0, 1.0]


def test_threads_that_begin_count_in_full_and_those_that_end_not_at_all() -> None:
    assert cpu.spent({1: 100, 2: 5_000}, {1: 300, 3: 1_000}) == pytest.approx(1_200e-9)


def count(proc: Path, nanoseconds: int) -> None:
    for folder in (proc / "self", *(proc / str(os.getpid()) / "task" / thread for thread in ("7", "8"))):
        folder.mkdir(parents=True)
        (folder / "schedstat").write_text(f"{nanoseconds} 17 3\n")


def test_every_thread_is_counted_in_nanoseconds_where_the_kernel_counts(tmp_path: Path) -> None:
    count(tmp_path, 123_456)
    clock = cpu.cpu_clock(tmp_path)
    assert clock.read(psutil.Process()) == {7: 123_456, 8: 123_456}


def test_a_kernel_that_was_told_not_to_count_is_not_believed(tmp_path: Path) -> None:
    count(tmp_path, 0)
    assert isinstance(cpu.cpu_clock(tmp_path), cpu.Ticks)


def test_without_the_kernels_count_it_is_said_that_time_comes_in_ticks(tmp_path: Path) -> None:
    clock = cpu.cpu_clock(tmp_path)
    assert "psutil" in clock.name
    assert clock.read(psutil.Process())[os.getpid()] > 0


MIB = results.MIB


def measured(absent: dict[str, str] | None = None) -> Measured:
    """Return a run of two rounds in which nginx takes 10 and 20 us, and everybody a multiple of that."""
    multiples = {DIRECT: 0.5, NGINX: 1.0, OURS: 5.0, ON_ASYNCIO: 10.0, ASGIPROXY: 15.0}
    rounds: results.Rounds = {
        workload: {
            name: [one(multiple * micros / 1e6) for micros in (10, 20)]
            for name, multiple in multiples.items()
            if name not in (absent or {})
        }
        for workload in Workload
    }
    return Measured(
        rounds=rounds,
        pairs=pairs(*[5e-6] * 6),
        u=2e-7,
        memory={OURS: Memory(at_start=37 * MIB, after=40 * MIB)},
        abandoned={1_000: 40 * MIB, 10_000: 44 * MIB},
        absent=absent or {},
    )


def verdicts(run: Measured) -> dict[str, str]:
    return {f"{target.what}, {target.wanted}": target.verdict for target in results.targets(run)}


def test_each_target_stands_with_met_or_missed() -> None:
    assert verdicts(measured()) == {
        "POST of 200 bytes in a session, at most 6 times nginx": "met",
        "GET of 16 KiB in a session, at most 3 times nginx": "MISSED",
        "event of a stream, at most 2.5 times nginx": "MISSED",
        "POST in a session, on asyncio's loop, at most 9 times nginx": "MISSED",
        "asgiproxy's POST, at least 2.5 times ours": "met",
        "the session of a POST, at most 6 us": "met",
        "the session of a POST, at most 33 u": "met",
        "resident at start, at most 38 MiB": "met",
        "resident after 10,000 abandoned sessions, at most 1.05 times after 1,000": "MISSED",
    }


def test_a_ratio_compares_contestants_within_a_round_only() -> None:
    ratio = measured().ratio(Workload.POST, OURS, NGINX)
    assert ratio is not None
    assert (ratio.lowest, ratio.median, ratio.highest) == pytest.approx((5.0, 5.0, 5.0))


def test_a_peer_that_left_is_compared_in_the_rounds_that_it_had() -> None:
    run = measured()
    run.rounds[Workload.POST][ASGIPROXY].pop()
    ratio = run.ratio(Workload.POST, ASGIPROXY, NGINX)
    assert ratio is not None
    assert ratio.highest == pytest.approx(15.0)


def test_an_absent_peer_is_named_with_its_reason_and_its_target_is_not_measured() -> None:
    run = measured({ASGIPROXY: "not installed"})
    assert verdicts(run)["asgiproxy's POST, at least 2.5 times ours"] == "not measured"
    assert "asgiproxy took no part: not installed" in list(table.tables(run))


def test_the_table_shows_medians_and_how_far_the_rounds_lie_apart() -> None:
    line = next(line for line in table.tables(measured()) if line.startswith(f"  {OURS}"))
    assert line.removeprefix(f"  {OURS}").split() == ["700", "20.00", "50.00", "75.0", "(50.0-100)", "5.0", "(5.0-5.0)"]


def test_every_round_is_kept_as_json_with_targets_and_absentees(tmp_path: Path) -> None:
    table.write_json(tmp_path / "proxy.json", measured({"mcp-proxy": "why"}), {"cores": 2}, {"cpu": cpu.Ticks().name})
    written = json.loads((tmp_path / "proxy.json").read_text())
    assert [kept["cpu"] for kept in written["rounds"]["POST of 200 bytes"]["nginx"]] == [1e-5, 2e-5]
    assert written["targets"][0]["verdict"] == "met"
    assert written["absent"] == {"mcp-proxy": "why"}
    assert len(written["pairs"]) == 6
    assert written["cpu"].startswith("psutil")


def test_the_picture_has_a_row_for_each_contestant(tmp_path: Path) -> None:
    picture.draw(tmp_path / "proxy.svg", measured())
    drawn = (tmp_path / "proxy.svg").read_text()
    assert all(f"<!-- {name} -->" in drawn for name in (NGINX, OURS, ASGIPROXY))


def test_too_few_pairs_to_be_certain_of_anything_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        proxy.main(["--pairs", "5"])
    assert left.value.code == 2
    assert "--pairs: takes a whole number of at least 6, not 5" in capsys.readouterr().err


def test_the_post_has_200_bytes_and_two_paths_that_differ_in_nothing_else() -> None:
    assert len(asked.post().body) == 200
    assert len(asked.IN_SESSION) == len(asked.NO_SESSION)


def test_wrk_gets_the_whole_request_as_a_script() -> None:
    request = Request(method="POST", path="/a", headers={"x-quoted": 'say "so"'}, body='{"a": "\\n"}')
    assert wrk.script(request).splitlines() == [
        'wrk.method = "POST"',
        'wrk.path = "/a"',
        r'wrk.body = "{\"a\": \"\\n\"}"',
        r'wrk.headers["x-quoted"] = "say \"so\""',
    ]


@pytest.mark.parametrize("body", ["caf\xe9", "two\nlines"])
def test_what_a_script_for_wrk_would_change_is_refused(body: str) -> None:
    with pytest.raises(ValueError, match="printable ASCII only"):
        wrk.script(Request(method="POST", path="/", body=body))


def target(port: int, name: str = "peer") -> Target:
    return Target(name=name, url=f"http://{servers.HOST}:{port}", request=asked.events(), process=psutil.Process())


@pytest.mark.processes
def test_the_events_of_all_streams_are_counted(tmp_path: Path) -> None:
    port = servers.free_port()
    command = [sys.executable, "-m", "benchmarks.proxies.streaming", str(port)]
    with servers.running("events", command, port, tmp_path):
        for _ in range(2):
            counted = events.load(target(port), 3, 0.5, cpu.cpu_clock())
            events.end_all(target(port).url)
    assert counted.rate > 0
    assert counted.cpu > 0


def test_a_stream_that_does_not_begin_fails_its_round(tmp_path: Path) -> None:
    with pytest.raises(LoadFailed, match="a stream broke"):
        events.load(target(servers.free_port()), 1, 0.1, cpu.cpu_clock())


def test_a_server_that_ends_at_once_says_why(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "raise SystemExit('no such database')"]
    with (
        pytest.raises(servers.NotStarted, match="no such database"),
        servers.running("broken", command, servers.free_port(), tmp_path),
    ):
        pass


def test_a_peer_that_was_not_installed_is_absent_with_the_reason(tmp_path: Path) -> None:
    peer = PEERS[0]
    peer.home(tmp_path).with_name("asgiproxy.failed").write_text("no matching distribution")
    with (
        pytest.raises(Absent, match="not installed: no matching distribution"),
        peers.started(peer, tmp_path, "http://127.0.0.1:9", tmp_path),
    ):
        pass


def test_a_peer_that_cannot_be_installed_leaves_the_reason_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no-python"))
    assert peers.install(PEERS[0], tmp_path) is not None
    assert "no-python" in (tmp_path / "asgiproxy.failed").read_text()


def test_a_peer_that_fails_in_a_round_leaves_its_workload_and_one_of_ours_ends_the_run() -> None:
    entered = Field(origin="")
    port = servers.free_port()
    for name in (OURS, "peer"):
        entered.targets[Workload.EVENT][name] = target(port, name)
    plan, clock = proxy.Plan(streams=1), cpu.cpu_clock()
    assert proxy.tried(entered, Workload.EVENT, "peer", plan, clock) is None
    assert "a stream broke" in entered.absent["peer, event of a stream"]
    assert "peer" not in entered.targets[Workload.EVENT]
    with pytest.raises(LoadFailed, match=OURS):
        proxy.tried(entered, Workload.EVENT, OURS, plan, clock)


def test_a_contestant_that_does_not_answer_as_it_should_does_not_enter() -> None:
    server = servers.Server(url=f"http://{servers.HOST}:{servers.free_port()}", process=psutil.Process(), at_start=1)
    entered = Field(origin="")
    with pytest.raises(Absent, match="is not answered"):
        entered.enter("peer", server, {Workload.POST: asked.post()})
    assert not entered.targets[Workload.POST]
    assert not entered.servers


def test_memory_is_read_after_whole_batches_of_sessions() -> None:
    assert [mark % memory.BATCH for mark in memory.MARKS] == [0] * len(memory.MARKS)


def test_every_peer_is_pinned_and_has_a_home_of_its_own() -> None:
    assert all("==" in package for peer in PEERS for package in peer.packages)
    assert len({peer.home(peers.HOMES) for peer in PEERS}) == len({peer.name for peer in PEERS}) == len(PEERS)
    assert field.PROCESS_OF[field.WITHOUT] == OURS
