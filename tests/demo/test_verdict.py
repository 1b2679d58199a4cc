from collections import deque
from collections.abc import Sequence
from dataclasses import replace

import pytest

from otel_sessions import SessionConfig
from otel_sessions._core.config import SESSION_OPTIONS
from otel_sessions.demo.limits import demo_limits, flags_of, patience, usual_limits, without_cleanup
from otel_sessions.demo.load.counts import ClientCounts, percentile
from otel_sessions.demo.processes.contender import pace
from otel_sessions.demo.processes.readings import Reading, Weights
from otel_sessions.demo.result.history import History
from otel_sessions.demo.result.verdict import MIB, Verdict, judge, unbalanced, unbounded, uncleaned

from .histories import CLIENTS, GOOD, LEAKING, reading, sample, with_samples

pytestmark = pytest.mark.no_cover


def alone(history: History) -> Verdict:
    return judge(history, None, CLIENTS)


def test_a_run_that_kept_its_books_cleaned_up_and_stayed_bounded_has_passed() -> None:
    verdict = alone(GOOD)

    assert verdict.passed
    assert [line.split(":")[0] for line in verdict.lines] == ["The books balance", "Cleanup works", "Memory is bounded"]


def nothing_in(seconds: float) -> History:
    """Return a run in which no session was opened."""
    return replace(
        with_samples(GOOD, sample(seconds, reading(0, 0))),
        last=replace(reading(0, 0), rejected={}),
        counts=ClientCounts(),
    )


class TestBooks:
    @pytest.mark.parametrize(
        ("bad", "says"),
        [
            (with_samples(GOOD, sample(1, reading(9, 6, closed=2))), "created 9 is not cleaned 2 + active 6"),
            (replace(GOOD, last=reading(14, 0, closed=4, idle_timeout=2)), "created 14 is not cleaned 6 + active 0"),
            (replace(GOOD, last=reading(14, 8, closed=4, idle_timeout=2)), "8 sessions are active after the shutdown"),
            (replace(GOOD, last=None), "the proxy gave no last reading"),
            (replace(GOOD, last=reading(0, 0)), "no session was created"),
            (replace(GOOD, counts=ClientCounts(opened=15, closed=4, rejected=3)), "counts 14 created, its clients 15"),
            (replace(GOOD, counts=ClientCounts(opened=14, closed=3, rejected=3)), "counts 4 closed, its clients 3"),
            (replace(GOOD, counts=ClientCounts(opened=14, closed=5, rejected=3)), "counts 4 closed, its clients 5"),
            (replace(GOOD, counts=ClientCounts(opened=14, closed=4, rejected=0)), "counts 3 rejected, its clients 0"),
        ],
    )
    def test_books_that_do_not_balance_are_told_and_fail(self, bad: History, says: str) -> None:
        assert any(says in problem for problem in unbalanced(bad))
        assert "DO NOT BALANCE" in alone(bad).lines[0]
        assert not alone(bad).passed

    def test_books_of_nothing_are_not_said_to_be_wrong_and_the_run_was_too_short(self) -> None:
        verdict = judge(nothing_in(0.1), nothing_in(0.1), CLIENTS)

        assert verdict.lines[0] == (
            "The books were NOT SEEN at work: in 0.1 s no session was opened; --duration 23 is enough."
        )
        assert verdict.lines[-1] == "The run was TOO SHORT to tell whether all is well."
        assert not any("BALANCE" in line for line in verdict.lines)
        assert not verdict.passed

    def test_a_run_that_was_long_enough_but_had_no_sessions_is_not_called_short(self) -> None:
        verdict = alone(nothing_in(60.0))

        assert "in 60 s no session was opened; a longer run or more clients may show it" in verdict.lines[0]
        assert not any("TOO SHORT" in line for line in verdict.lines)
        assert not verdict.passed

    def test_a_run_that_was_long_enough_says_nothing_of_its_length(self) -> None:
        assert not any("TOO SHORT" in line for line in (*alone(GOOD).lines, *judge(GOOD, LEAKING, CLIENTS).lines))

    def test_an_answer_that_never_came_back_explains_one_difference(self) -> None:
        counts = ClientCounts(opened=13, closed=4, rejected=3, unexpected=1, requests=200)

        assert alone(replace(GOOD, counts=counts)).passed

    def test_unexpected_answers_are_told_and_more_than_one_in_a_hundred_fail(self) -> None:
        few, many = (replace(GOOD, counts=replace(GOOD.counts, unexpected=number)) for number in (2, 3))

        assert alone(few).lines[0].endswith("the same; 2 of 200 requests had an unexpected answer or no answer.")
        assert alone(few).passed
        assert alone(many).lines[1] == (
            "Requests WENT WRONG: 3 of 200 requests had an unexpected answer or no answer. At most 1% is allowed."
        )
        assert not alone(many).passed

    def test_a_session_that_came_of_age_while_its_client_closed_it_explains_one_difference(self) -> None:
        aged = replace(GOOD, last=reading(14, 0, closed=4, idle_timeout=2, max_age=1, shutdown=7))

        assert alone(replace(aged, counts=replace(GOOD.counts, closed=5))).passed
        assert not alone(replace(aged, counts=replace(GOOD.counts, closed=6))).passed

    def test_a_twin_whose_books_do_not_balance_fails_the_run(self) -> None:
        verdict = judge(GOOD, replace(LEAKING, last=None), CLIENTS)

        assert verdict.lines[0] == "The twin's books DO NOT BALANCE: the proxy gave no last reading."
        assert not verdict.passed


class TestCleanup:
    def test_sessions_that_stay_although_they_were_walked_away_from_fail(self) -> None:
        idle = with_samples(
            GOOD, sample(4, reading(12, 8, closed=4), abandoned=2), sample(13, reading(14, 10, closed=4), abandoned=5)
        )
        (problem,) = uncleaned(idle)

        assert (
            problem
            == "clients had abandoned 2 sessions by second 5, but only 0 had been cleaned by second 13, after 4 passes"
        )
        assert any("Cleanup DOES NOT WORK: clients had abandoned 2 sessions" in line for line in alone(idle).lines)
        assert not alone(idle).passed

    def test_one_session_too_many_that_stays_is_enough_to_fail(self) -> None:
        one = sample(20, reading(14, 9, closed=4, idle_timeout=1), abandoned=2)

        assert uncleaned(with_samples(GOOD, *GOOD.samples[:2], one))
        assert not uncleaned(GOOD)

    @pytest.mark.parametrize("reason", ["idle_timeout", "max_age", "evicted"])
    def test_cleanup_of_every_kind_counts(self, reason: str) -> None:
        cleaned = sample(20, reading(14, 8, closed=4, **{reason: 2}), abandoned=2)

        assert not uncleaned(with_samples(GOOD, *GOOD.samples[:2], cleaned))

    @pytest.mark.parametrize("reason", ["closed", "failed", "shutdown"])
    def test_an_end_that_is_not_cleanups_does_not_count(self, reason: str) -> None:
        ended = sample(20, reading(14, 8, **{reason: 6}), abandoned=2)

        assert uncleaned(with_samples(GOOD, *GOOD.samples[:2], ended))

    def test_with_neither_an_idle_nor_an_age_limit_nothing_is_cleaned_and_that_fails(self) -> None:
        endless = replace(GOOD, limits=replace(GOOD.limits, max_idle_time=None, max_session_age=None))

        assert "without an idle limit or an age limit" in uncleaned(endless)[0]
        assert not alone(endless).passed

    def test_one_session_held_beyond_the_limits_fails_however_many_were_cleaned(self) -> None:
        end = GOOD.samples[-1]
        one = replace(end, reading=replace(end.reading, overstaying=1))
        before = replace(one, elapsed=end.elapsed - GOOD.limits.cleanup_interval)
        verdict = alone(with_samples(GOOD, *GOOD.samples[:2], before, one))

        assert verdict.lines[1] == (
            "Cleanup DOES NOT WORK: 1 session without a request for 8 s was still held at second 20, after 4 passes."
        )
        assert not verdict.passed

    def test_a_session_that_is_still_held_at_a_single_moment_is_no_failure(self) -> None:
        end = GOOD.samples[-1]
        one = replace(end, reading=replace(end.reading, overstaying=1))
        before = replace(end, elapsed=end.elapsed - GOOD.limits.cleanup_interval)

        assert alone(with_samples(GOOD, *GOOD.samples[:2], before, one)).passed

    def test_limits_for_which_the_run_is_too_short_fail_and_name_a_duration(self) -> None:
        verdict = alone(replace(GOOD, limits=replace(GOOD.limits, cleanup_interval=86400.0)))

        assert "let an abandoned session stay for 86407 s; --duration 246878 is enough" in verdict.lines[1]
        assert not verdict.passed

    def test_a_run_too_short_to_show_cleanup_fails_and_says_which_duration_is_enough(self) -> None:
        verdict = alone(with_samples(GOOD, *GOOD.samples[:2]))

        assert verdict.lines[1] == (
            "Cleanup was NOT SEEN at work: in 4 s no session was abandoned for long enough. The limits let an "
            "abandoned session stay for 8 s; --duration 23 is enough."
        )
        assert not verdict.passed

    def test_a_run_that_was_long_enough_but_nobody_walked_away_from_asks_for_more_clients(self) -> None:
        nobody = with_samples(GOOD, sample(1, reading(0, 0)), sample(40, reading(14, 8, closed=6)))

        assert "a longer run or more clients may show it" in alone(nobody).lines[1]
        assert not alone(nobody).passed

    def test_how_long_a_session_may_stay_follows_from_the_limits(self) -> None:
        usual = usual_limits(10)

        assert patience(usual) == 3 + 1 + 1 + 2 + 1
        assert patience(replace(usual, max_idle_time=None)) == 15 + 1 + 1 + 2 + 1
        assert patience(without_cleanup(usual)) == float("inf")


class TestMemory:
    @pytest.mark.parametrize(
        ("bad", "says"),
        [
            (
                replace(GOOD, limits=replace(GOOD.limits, max_sessions=7)),
                "8 sessions were active at once under a cap of 7",
            ),
            (with_samples(GOOD, sample(1, reading(0, 0, 59 * MIB))), "59.0 MiB is above the 58.2 MiB"),
            (replace(GOOD, last=replace(GOOD.end, memory=59 * MIB)), "59.0 MiB is above the 58.2 MiB"),
        ],
    )
    def test_memory_that_is_not_bounded_is_told_and_fails(self, bad: History, says: str) -> None:
        assert any(says in problem for problem in unbounded(bad, CLIENTS))
        assert any("NOT BOUNDED" in line for line in alone(bad).lines)
        assert not alone(bad).passed

    def test_memory_may_rise_by_what_sessions_and_clients_take(self) -> None:
        run = replace(GOOD, last=replace(GOOD.end, memory=58 * MIB))

        assert alone(run).passed
        assert "2.0 MiB for 8 sessions, 0.2 MiB for 16 clients, and 6.0 MiB" in alone(run).lines[2]

    def test_without_a_cap_the_most_sessions_there_were_explain_memory(self) -> None:
        run = replace(GOOD, limits=replace(GOOD.limits, max_sessions=None))

        assert alone(run).passed
        assert "no cap" in alone(run).lines[2]
        assert "for 8 sessions" in alone(run).lines[2]


class TestTwin:
    def test_a_twin_that_leaked_is_told_with_its_size(self) -> None:
        verdict = judge(GOOD, LEAKING, CLIENTS)

        assert verdict.passed
        assert verdict.lines[3] == (
            "The twin without cleanup and cap leaks: under the same load it ended at 200.0 MiB, 4.0 times our peak, "
            "with 40 sessions; 30 of them are abandoned, and nothing ends them."
        )

    @pytest.mark.parametrize(
        "end", [reading(60, 40, 60 * MIB, closed=20), reading(60, 8, 200 * MIB, closed=52)], ids=["memory", "sessions"]
    )
    def test_a_twin_that_did_not_leak_is_not_claimed_to_have(self, end: Reading) -> None:
        twin = with_samples(LEAKING, sample(20, end))
        verdict = judge(GOOD, twin, CLIENTS)

        assert verdict.passed
        assert "has not leaked enough to show a difference" in verdict.lines[3]

    def test_a_twin_that_was_killed_is_a_result_and_ours_is_judged_all_the_same(self) -> None:
        killed = replace(LEAKING, last=None, killed=True)

        assert judge(GOOD, killed, CLIENTS).passed
        assert judge(GOOD, killed, CLIENTS).lines[3] == (
            "The twin without cleanup and cap was killed after 20 s, as the system does when memory runs out: it had "
            "200.0 MiB, with 40 sessions."
        )
        assert not judge(replace(GOOD, last=None), killed, CLIENTS).passed


class TestWhatItRestsOn:
    @pytest.mark.parametrize(
        ("values", "share", "expected"),
        [([], 0.5, 0.0), ([7.0], 0.99, 7.0), ([3.0, 1.0, 2.0], 0.5, 2.0), (list(range(1, 101)), 0.99, 99)],
    )
    def test_percentiles_are_values_that_were_measured(
        self, values: Sequence[float], share: float, expected: float
    ) -> None:
        assert percentile(values, share) == expected

    def test_the_counts_of_a_moment_stay_as_they_were(self) -> None:
        counts = ClientCounts(opened=3, requests=9, latencies=deque([1.0, 2.0]))
        then = counts.snapshot()
        counts.opened += 1
        counts.latencies.append(9.0)

        assert (then.opened, then.requests, then.p50, then.p99) == (3, 9, 1.0, 2.0)
        assert (counts.snapshot().opened, counts.snapshot().p99) == (4, 9.0)

    def test_the_latency_of_a_moment_is_of_its_latest_requests(self) -> None:
        counts = ClientCounts(latencies=deque([*[9.0] * 500, *[0.1] * 500]))

        assert (counts.snapshot().p50, counts.snapshot().p99) == (0.1, 0.1)

    def test_a_run_has_four_readings_a_second_and_four_thousand_at_most(self) -> None:
        assert pace(45.0) == 0.25
        assert 86400.0 / pace(86400.0) == pytest.approx(4000)

    def test_a_weight_counts_while_it_is_held_and_is_unused_from_its_last_answer(self) -> None:
        weights = Weights()
        used, forgotten, ended = (weights.remember(b"/mcp", []) for _ in range(3))
        for peer in (forgotten, ended):
            peer.used -= 100.0
        used.used -= 100.0
        used.note([], 200)
        del peer, ended

        assert weights.unused_for(50.0) == 1
        assert weights.unused_for(200.0) == 0

    def test_a_reading_survives_its_way_to_the_parent(self) -> None:
        assert Reading.from_json(GOOD.end.to_json()) == GOOD.end

    def test_the_rate_is_of_the_last_seconds_while_a_run_goes_on_and_of_all_of_it_afterwards(self) -> None:
        fast = [sample(0.0, reading(0, 0)), sample(10.0, reading(0, 0)), sample(13.0, reading(0, 0), requests=190)]
        run = with_samples(GOOD, *fast)

        assert replace(run, last=None).rate == pytest.approx((190 - 100) / 3)
        assert run.rate == pytest.approx(200 / 13)
        assert replace(run, samples=[], last=None).rate == 0.0

    def test_the_limits_follow_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert demo_limits(300).max_sessions == 150
        assert demo_limits(1).max_sessions == 1

        monkeypatch.setenv("OTEL_SESSIONS_MAX_SESSIONS", "7")

        assert demo_limits(300).max_sessions == 7

    def test_the_twin_has_no_limit_at_all(self) -> None:
        twin = without_cleanup(usual_limits(10))

        assert (twin.max_sessions, twin.max_idle_time, twin.max_session_age) == (None, None, None)
        assert "--max-sessions=off" in flags_of(twin)
        assert "--cleanup-on-shutdown=false" in flags_of(twin)

    def test_the_twin_keeps_no_limit_that_the_environment_sets(self, monkeypatch: pytest.MonkeyPatch) -> None:
        limits = [option for option in SESSION_OPTIONS if option.kind.may_be_off]
        for option in limits:
            monkeypatch.setenv(option.variable, "2")

        twin = without_cleanup(demo_limits(10))

        assert {option.name: getattr(twin, option.name) for option in limits} == dict.fromkeys(
            [
                *(
                    "max_idle_time",
                    "max_session_age",
                    "max_unused_time",
                    "emergency_idle_time",
                    "emergency_session_age",
                ),
                *("max_sessions", "max_sessions_per_client"),
            ]
        )

    def test_there_is_a_flag_for_every_limit(self) -> None:
        assert len(flags_of(SessionConfig())) == len(SessionConfig.__dataclass_fields__)
