"""What the benchmark of the proxy computes from what wrk says and from what the kernel counts."""

import json
import os
from pathlib import Path

import psutil
import pytest

from benchmarks import cpu, handling, proxy, wrk
from benchmarks.handling import Pair
from benchmarks.wrk import Round, Said

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
    [([0.02] * 6, "met"), ([0.04] * 6, "MISSED"), ([0.02, 0.04] * 3, "not decided, more --pairs may")],
)
def test_the_target_is_met_or_missed_only_when_that_is_certain(differences: list[float], verdict: str) -> None:
    cost = handling.cost(pairs(*differences))
    assert cost.verdict == verdict
    assert list(cost.lines())[-1] == f"  at most 3%: {verdict}"


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


def test_every_round_is_kept_as_json_with_the_clock_that_counted(tmp_path: Path) -> None:
    rounds = {"direct": [one(1e-5, 9_000.0), one(2e-5, 8_000.0)]}
    proxy.write(tmp_path / "proxy.json", rounds, pairs(0.01, 0.02, 0.03, 0.02, 0.02, 0.02), 16, cpu.Ticks())
    written = json.loads((tmp_path / "proxy.json").read_text())
    assert [kept["cpu"] for kept in written["rounds"]["direct"]] == [1e-5, 2e-5]
    assert [kept["without"]["cpu"] for kept in written["pairs"]] == [0.99, 0.98, 0.97, 0.98, 0.98, 0.98]
    assert written["sessions"]["share"] == pytest.approx(0.02)
    assert written["cpu"].startswith("psutil")


def test_the_table_shows_medians_and_how_far_the_rounds_lie_apart() -> None:
    rounds = {"direct": [one(1e-5, rate) for rate in (4_000.0, 8_000.0, 9_000.0)], "ours": [one(1e-3, 800.0)] * 3}
    _, _, direct, ours = proxy.table(rounds)
    assert direct.split() == ["direct", "8000", "(4000", "to", "9000)", "1.00", "20.00", "50.00", "10"]
    assert ours.split()[-4:] == ["0.10", "20.00", "50.00", "1000"]


def test_too_few_pairs_to_be_certain_of_anything_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        proxy.main(["--pairs", "5"])
    assert left.value.code == 2
    assert "--pairs: takes a whole number of at least 6, not 5" in capsys.readouterr().err
