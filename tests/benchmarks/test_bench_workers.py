"""What the benchmark of several workers computes, and what its clients do."""

import json
import shutil
from pathlib import Path

import psutil
import pytest

from benchmarks import workers
from benchmarks.proxies import crowds, wrk
from benchmarks.proxies.cpu import cpu_clock
from benchmarks.proxies.crowds import Crowd, NoSession
from benchmarks.proxies.servers import NotStarted
from benchmarks.proxies.wrk import Load, LoadFailed, Round
from tests.processes import HOST, free_port, running_module, until_answers
from tests.proxy.several import hint_of, start_workers
from tests.steering.conftest import answering

pytestmark = pytest.mark.no_cover
CLIENTS = 4


def measured(*seconds: float) -> list[Round]:
    return [Round(rate=1 / one, cpu=one) for one in seconds]


@pytest.fixture
def rounds() -> workers.Rounds:
    """Rounds in which the machine slows down by half."""
    one, two, four = measured(0.9, 1.8), measured(1.0, 2.0), measured(3.0, 6.0)
    return {crowd: {1: one, 2: two, 4: four} for crowd in Crowd}


def test_workers_are_compared_with_one_worker_in_the_same_round(rounds: workers.Rounds) -> None:
    assert workers.ratio(rounds, Crowd.KEPT, 2).median == pytest.approx(0.9)
    assert workers.ratio(rounds, Crowd.SPREAD, 4).lowest == pytest.approx(0.3)
    verdicts = {(target.what, target.verdict) for target in workers.targets(rounds)}
    assert ("2 workers, clients that keep their connection", "met") in verdicts
    assert ("4 workers, connections that lead anywhere", "MISSED") in verdicts
    assert len(verdicts) == 2 * len(Crowd)


def test_the_table_and_the_json_have_every_crowd_and_number_of_workers(rounds: workers.Rounds) -> None:
    table = "\n".join(workers.lines(rounds))
    assert table.count("--workers 4") == len(Crowd)
    written = json.loads(json.dumps(workers.described(rounds)))
    assert list(written["rounds"]) == [str(crowd) for crowd in Crowd]
    assert list(written["rounds"][Crowd.KEPT]) == ["1", "2", "4"]
    assert len(written["targets"]) == 2 * len(Crowd)


@pytest.mark.parametrize(
    "error", [LoadFailed("an answer failed"), NoSession("/mcp is answered 503"), NotStarted("it said nothing")]
)
def test_a_run_that_goes_wrong_says_why_and_measures_nothing(
    error: Exception, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(workers, "run", fail)
    monkeypatch.setattr("shutil.which", lambda name: name)
    assert workers.main(["--results", str(tmp_path / "workers.json")]) == 1
    assert str(error) in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.processes
@pytest.mark.skipif(shutil.which("wrk") is None, reason="needs wrk: apt-get install wrk")
def test_each_crowd_uses_its_sessions_and_no_others(tmp_path: Path) -> None:
    port = free_port()
    with running_module("proxy.origin", tmp_path, str(port)) as origin:
        until_answers(f"http://{HOST}:{port}/counts", origin)
        with start_workers(tmp_path, f"http://{HOST}:{port}", count=2) as proxy:
            ids = list(crowds.opened(proxy.url, 16))
            assert len(set(map(hint_of, ids))) == 2
            for script in (crowds.spread(ids), crowds.anywhere(ids)):
                assert load(script, proxy.url).cpu > 0
                assert proxy.said_of_itself()["created"] == 16
            assert load(crowds.kept(), proxy.url).rate > 0
            assert proxy.said_of_itself()["created"] == 16 + CLIENTS


def load(script: str, url: str) -> Round:
    return wrk.load_with(
        script.replace("/mcp/in-session", "/mcp"), url, psutil.Process(), Load(CLIENTS, CLIENTS, 1), cpu_clock()
    )


def test_a_proxy_that_opens_no_session_fails_the_run(tmp_path: Path) -> None:
    with answering((503, {"content-length": "4"}, b"full")) as other, pytest.raises(NoSession, match="503: full"):
        list(crowds.opened(other.url, 1))
