"""Each contestant of the benchmarks does what its row says, and a run says what it measured."""

import json
import random
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TypeVar

import pytest

from benchmarks import core, measure, proxy, report, results, timing
from benchmarks.by_hand import BareDict, FullScan
from benchmarks.caches import CacheboxTTL, CacheboxVTTL, Cachetools, Moka
from benchmarks.clocks import Clock, RealClock, SettableClock
from benchmarks.contestant import Contestant
from benchmarks.contestants import ALL
from benchmarks.ours import Ours, OursWithSdk
from benchmarks.requests import Server, bare_app, request_of
from benchmarks.unit import Unit
from otel_sessions import RejectionReason
from otel_sessions.asgi import SessionLeaseMiddleware
from otel_sessions.matchers import HeaderMatcher

pytestmark = [pytest.mark.anyio, pytest.mark.no_cover]

IDLE = 0.4
"""Seconds, which those with a clock of their own take to forget."""

Seen = TypeVar("Seen")

CACHES = [
    *(pytest.param(kind, marks=pytest.mark.processes) for kind in (CacheboxVTTL, CacheboxTTL, Moka)),
    pytest.param(Cachetools),
]
OURS_ONLY = {"pin", "hold", "lease", "middleware", "bare app", "refusal"}
"""What only ours is measured by."""
EXPIRING = [pytest.param(kind) for kind in (Ours, OursWithSdk, FullScan)] + CACHES


@pytest.fixture
def anyio_backend() -> str:
    """Benchmarks run on asyncio, in real time."""
    return "asyncio"


def start(kind: type[Contestant], places: int = 10) -> tuple[Contestant, Clock]:
    clock: Clock = RealClock() if kind.own_clock else SettableClock()
    return kind(places, IDLE, clock.read), clock


async def undisturbed(attempt: Callable[[], Awaitable[Seen | None]]) -> Seen:
    """Return what an attempt saw. None from it says that the machine stalled meanwhile, and it is made again."""
    for _ in range(10):
        seen = await attempt()
        if seen is not None:
            return seen
    pytest.fail("the machine stalled in each of ten attempts")


async def use_often(store: Contestant, clock: Clock) -> bool:
    """Use a session until one that was not used must be due; return False if the machine stalled too long for that."""
    started = last = clock.read()
    while clock.read() < started + 1.5 * IDLE:
        await clock.pass_time(IDLE / 20)
        if clock.read() - last > IDLE / 2:
            return False
        last = clock.read()
        await store.use(["used"])
    return True


def test_every_contestant_is_held_to_its_row() -> None:
    assert {kind for kind in ALL if kind.expires} == {param.values[0] for param in EXPIRING}
    assert len({kind.name for kind in ALL}) == len(ALL)


async def left(kind: type[Contestant]) -> tuple[int, list[str]] | None:
    """Return how many sessions are left of three, and which are found, after all but one were idle for too long."""
    store, clock = start(kind)
    async with store:
        await store.create(["idle", "used", "idle too"])
        in_time = await use_often(store, clock)
        await store.expire()
        found = [session_id for session_id in ("idle", "used", "idle too") if store.holds(session_id)]
        return (len(store), found) if in_time else None


@pytest.mark.parametrize("kind", [param for param in EXPIRING if param.values[0] is not CacheboxTTL])
async def test_what_is_idle_expires_and_what_is_used_stays(kind: type[Contestant]) -> None:
    assert await undisturbed(partial(left, kind)) == (1, ["used"])


@pytest.mark.processes
async def test_what_is_due_behind_one_in_use_is_hidden_by_cacheboxs_ttl_cache_and_never_removed() -> None:
    assert await undisturbed(partial(left, CacheboxTTL)) == (2, ["used"])


@pytest.mark.parametrize("kind", EXPIRING)
async def test_what_was_made_and_ended_is_gone(kind: type[Contestant]) -> None:
    store, _ = start(kind)
    async with store:
        await store.churn(["one", "another"])
        await store.expire()
        assert (len(store), store.holds("one")) == (0, False)


@pytest.mark.parametrize("kind", [param for param in EXPIRING if param.values[0] not in (FullScan, Moka)])
async def test_what_is_due_is_hidden_before_any_pass_and_a_look_renews_nothing(kind: type[Contestant]) -> None:
    store, clock = start(kind)
    async with store:
        await store.create(["looked at"])
        await clock.pass_time(0.6 * IDLE)
        store.holds("looked at")
        await clock.pass_time(0.6 * IDLE)
        assert not store.holds("looked at")


async def test_the_full_scan_hands_out_what_is_due_until_its_pass() -> None:
    store, clock = start(FullScan)
    await store.create(["due"])
    await clock.pass_time(2 * IDLE)
    assert store.holds("due")
    await store.expire()
    assert not store.holds("due")


@pytest.mark.processes
async def test_a_mere_look_renews_with_moka() -> None:
    async def found() -> list[bool] | None:
        store, clock = start(Moka)
        await store.create(["looked at"])
        started = clock.read()
        held = []
        for _ in range(3):
            await clock.pass_time(0.6 * IDLE)
            held.append(store.holds("looked at"))
        return held if clock.read() - started <= 2.4 * IDLE else None

    assert await undisturbed(found) == [True, True, True]


async def test_the_bare_dict_forgets_nothing() -> None:
    store, clock = start(BareDict)
    await store.create(["one"])
    await clock.pass_time(100 * IDLE)
    await store.expire()
    assert store.holds("one")


@pytest.mark.parametrize("kind", CACHES)
async def test_a_full_cache_drops_somebodys_session_and_refuses_nobody(kind: type[Contestant]) -> None:
    store, _ = start(kind)
    await store.create([str(number) for number in range(100)])
    await store.expire()
    assert 0 < len(store) < 100


async def test_ours_refuses_when_it_is_full_and_drops_nobody() -> None:
    store, _ = start(Ours, places=2)
    assert isinstance(store, Ours)
    async with store:
        await store.create(["one", "two"])
        await store.refuse(3)
        assert store.manager.get_metrics().rejected[RejectionReason.MAX_SESSIONS] == 3
        assert store.holds("one")
        assert store.holds("two")


async def test_with_the_sdk_every_ended_session_is_recorded() -> None:
    store, clock = start(OursWithSdk)
    assert isinstance(store, OursWithSdk)
    async with store:
        await store.create(["one", "two"])
        await clock.pass_time(2 * IDLE)
        await store.expire()
        data = json.loads((await store.collect()).to_json())
    metrics = {metric["name"]: metric["data"] for metric in data["resource_metrics"][0]["scope_metrics"][0]["metrics"]}
    [point] = metrics["otel_sessions.session.duration"]["data_points"]
    assert point["count"] == 2


async def test_a_contestant_that_keeps_too_much_ends_the_measurement() -> None:
    class Forgetful(FullScan):
        async def expire(self) -> None:
            return None

    with pytest.raises(RuntimeError, match="10 sessions are left where 5 have to be"):
        await measure.expiring(Forgetful, [str(number) for number in range(10)], random.Random(1), await Unit.ready())  # noqa: S311 - seeded, not secret


async def test_a_contestant_that_loses_what_is_used_ends_the_measurement() -> None:
    class Losing(FullScan):
        async def use(self, ids: Sequence[str]) -> None:
            self._sessions.pop(ids[0], None)

    with pytest.raises(RuntimeError, match="sessions are left where 10 have to be"):
        await measure.standing(Losing, [str(number) for number in range(10)], random.Random(1), await Unit.ready())  # noqa: S311 - seeded, not secret


@pytest.mark.processes
@pytest.mark.parametrize(("kind", "lacks"), [(Ours, {"export"}), (OursWithSdk, set()), (Moka, OURS_ONLY | {"export"})])
def test_a_process_measures_all_that_the_table_shows(kind: type[Contestant], lacks: set[str]) -> None:
    numbers = core.measure(kind.name, 100, seed=1)
    assert numbers is not None
    measured = {key for key, value in numbers.items() if value is not None}
    assert measured == set(report.ROWS) - lacks - {"bytes", "create of M"}


async def test_memory_and_creation_are_measured_where_there_are_enough_sessions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(measure, "COARSE", 400)
    assert await measure.creating(Ours, [str(number) for number in range(399)]) == {"create of M": None}
    ratio = (await measure.creating(Ours, [str(number) for number in range(400)]))["create of M"]
    assert ratio is not None
    assert ratio > 0


async def test_u_is_measured_in_turns_with_what_is_given_in_u() -> None:
    turns = []

    async def work(batch: Sequence[str]) -> None:
        turns.append(len(batch))

    unit = await Unit.ready()
    assert await unit.of(work, [["a", "b"], ["c"]]) >= 0
    assert turns == [2, 1]


async def test_every_request_of_the_middleware_is_answered_in_its_session() -> None:
    store = Ours(10, IDLE)
    async with store:
        await store.create(["a", "b"])
        server = Server(SessionLeaseMiddleware(bare_app, store.manager, HeaderMatcher()))
        await server.serve([request_of("a"), request_of("a"), request_of("unknown")])
        session = store.manager.get("a")
        assert session is not None
        assert (server.answered, session.metadata.message_count) == (2, 2)


@pytest.mark.parametrize("how", ["use", "touch", "pin", "hold", "lease"])
async def test_every_way_of_ours_uses_each_session_once(how: str) -> None:
    store = Ours(10, IDLE)
    async with store:
        await store.create(["a", "b"])
        await getattr(store, how)(["a", "b", "a"])
        sessions = [store.manager.get("a"), store.manager.get("b")]
        assert [session and session.metadata.message_count for session in sessions] == [2, 1]


@pytest.mark.processes
def test_a_contestant_that_fails_ends_the_run(capfd: pytest.CaptureFixture[str]) -> None:
    assert core.run((-1,), 1, random.Random(1)) is None  # noqa: S311 - seeded, not secret
    assert "failed at -1 sessions" in capfd.readouterr().err


def fake(took: float) -> Callable[[str, int, int], dict[str, float | None]]:
    """Return a measurement that finds this many u for ours, or multiples, and twice as many for all others."""

    def measured(name: str, size: int, seed: int) -> dict[str, float | None]:
        ours = name.startswith("otel-sessions")
        numbers = dict.fromkeys(report.ROWS, took if ours else 2 * took) | {"u": 2e-7, "late alone": took}
        return {**numbers, "bytes": 100.0 * took if size > 10_000 else None}

    return measured


@pytest.mark.parametrize(("took", "missed"), [(1.0, 0), (10_000.0, 14)])
def test_a_run_says_which_targets_are_missed_and_fails_for_none(
    took: float, missed: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(core, "measure", fake(took))
    assert core.main(["--quick"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("MISSED") == missed
    assert f"{missed} missed" in said
    for kind in ALL:
        assert kind.name in said
        assert kind.caveat in said


def test_every_target_of_the_design_is_judged_at_its_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, "measure", fake(1.0))
    measured = core.run(core.SIZES, 1, random.Random(1))  # noqa: S311 - seeded, not secret
    assert measured is not None
    judged: dict[str, list[tuple[int, float]]] = {}
    for target in results.targets(measured):
        judged.setdefault(target.what, []).append((target.size, target.limit))
    small, large, largest = core.SIZES
    assert judged == {
        "touch(id)": [(small, 1.2), (large, 1.0), (largest, 1.0)],
        "get + touch": [(small, 1.7), (large, 1.4), (largest, 1.4)],
        "create with a given id, of the bare dict's": [(largest, 3.0)],
        "a pass with nothing due": [(small, 60.0), (large, 60.0), (largest, 60.0)],
        "each expired session": [(large, 6.0), (largest, 6.0)],
        "a session takes": [(large, 256.0), (largest, 256.0)],
        "a refusal at the cap": [(small, 8.0), (large, 8.0), (largest, 8.0)],
        "an export with the SDK": [(small, 2000.0), (large, 2000.0), (largest, 2000.0)],
        "async with lease(id)": [(small, 30.0)],
        "the middleware over a bare app": [(small, 53.0)],
        "the loop is late, of spinning": [(largest, 1.5)],
        **{f"touch(id) against {rival}": [(size, 1.0) for size in core.SIZES] for rival in results.RIVALS},
    }


def test_only_caches_that_expire_what_is_idle_correctly_are_rivals() -> None:
    assert set(results.RIVALS) == {CacheboxVTTL.name, Moka.name, Cachetools.name}
    assert "no rival" in CacheboxTTL.caveat


def test_what_a_ratio_errs_by_is_said_beside_the_targets(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ratios = {size: iter([0.9, 1.1, 1.0]) for size in core.QUICK_SIZES}

    def measured(name: str, size: int, seed: int) -> dict[str, float | None]:
        numbers = fake(1.0)(name, size, seed)
        return numbers | {"use of M": next(ratios[size])} if name == FullScan.name else numbers

    monkeypatch.setattr(core, "measure", measured)
    core.main(["--quick", "--rounds", "3"])
    said = [line for line in capsys.readouterr().out.splitlines() if "get + touch of the full scan" in line]
    assert len(said) == 2
    assert all("1.00 (0.90 to 1.10) M" in line for line in said)


async def test_what_is_measured_in_turns_goes_first_as_often_as_the_other() -> None:
    turns = []

    async def one(batch: Sequence[str]) -> None:
        turns.append(f"one {batch[0]}")

    async def other(batch: Sequence[str]) -> None:
        turns.append(f"other {batch[0]}")

    await timing.beside(one, iter([["a"], ["b"]]), other, iter([["c"], ["d"]]))
    assert turns == ["other c", "one a", "one b", "other d"]


def test_a_rival_is_compared_by_what_both_are_to_the_bare_dict_in_the_same_round() -> None:
    measured = {
        "otel-sessions": {10: {"touch of M": [1.2, 1.5]}},
        "moka-py, idle": {10: {"touch of M": [2.4, 1.5]}},
    }
    against = results.of_rival(measured, 10, "moka-py, idle")
    assert (against.lowest, against.highest) == (0.5, 1.0)


def test_a_run_writes_what_it_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, "measure", fake(1.0))
    core.main(["--quick", "--rounds", "3", "--results", str(tmp_path)])
    written = json.loads((tmp_path / "core.json").read_text())
    assert written["measured"]["bare dict"]["1000"]["use of M"] == [2.0] * 3
    assert all(target["met"] for target in written["targets"])
    assert written["machine"]["python"].startswith("CPython")
    assert (tmp_path / "core.svg").read_text().startswith("<?xml")


@pytest.mark.parametrize("rounds", ["-1", "0", "1.5", "many"])
@pytest.mark.parametrize("program", [core, proxy])
def test_a_number_of_rounds_that_makes_no_sense_is_one_line_of_error(
    program: ModuleType, rounds: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        program.main(["--rounds", rounds])
    assert left.value.code == 2
    assert capsys.readouterr().err.endswith(f"--rounds: takes a whole number of at least 1, not {rounds}\n")
