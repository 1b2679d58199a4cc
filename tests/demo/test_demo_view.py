"""The live view and its curves, drawn for terminals of many sizes."""

import io
import re
from collections import deque
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from otel_sessions.demo.load.counts import ClientCounts
from otel_sessions.demo.load.scenario import Stage
from otel_sessions.demo.result.history import History, State
from otel_sessions.demo.result.live import say, showing, sum_up
from otel_sessions.demo.result.verdict import judge
from otel_sessions.demo.result.view import View, binned, meter, sparkline
from tests.screens import Screen

from .histories import ALONE, CLIENTS, GOOD, LEAKING, OVER

pytestmark = pytest.mark.no_cover

RUNNING = replace(
    OVER,
    ours=replace(GOOD, last=None),
    twin=replace(LEAKING, last=None),
    elapsed=5.0,
    stage=Stage(phase="burst", present=0.5, leaves=False),
)
JUST_BEGUN = replace(
    RUNNING, ours=replace(RUNNING.ours, samples=[]), twin=replace(LEAKING, samples=[], last=None), elapsed=0.0
)


def drawn(state: State, width: int = 80, height: int = 24) -> str:
    """Return the view as a terminal of that size gets it."""
    console = Console(width=width, height=height, file=io.StringIO())
    with console.capture() as capture:
        console.print(View(state, height))
    return capture.get()


class TestCurves:
    def test_a_curve_rises_with_its_values_up_to_the_top(self) -> None:
        assert sparkline([0.0, 1.0, 4.0, 8.0], 8.0, 1) == [" ▁▄█"]

    def test_a_higher_curve_has_more_steps(self) -> None:
        assert sparkline([4.0, 8.0, 12.0, 16.0], 16.0, 2) == ["  ▄█", "▄███"]

    def test_what_is_not_known_yet_is_blank_and_something_is_never_drawn_as_nothing(self) -> None:
        assert sparkline([None, 0.001], 1000.0, 1) == [" ▁"]

    def test_a_curve_of_nothing_is_blank(self) -> None:
        assert sparkline([0.0, 0.0], 0.0, 1) == ["  "]

    def test_values_fill_the_width_as_far_as_time_has_come(self) -> None:
        assert binned([(0.0, 1.0), (1.0, 2.0), (4.9, 3.0)], 10.0, 10) == [1.0, 2.0, 2.0, 2.0, 3.0, *[None] * 5]

    def test_of_several_values_in_one_place_the_largest_is_shown(self) -> None:
        assert binned([(0.0, 5.0), (0.5, 9.0), (0.9, 1.0)], 10.0, 10)[0] == 9.0

    def test_what_comes_after_the_end_is_in_the_last_place(self) -> None:
        assert binned([(12.0, 1.0)], 10.0, 2)[1] == 1.0

    @pytest.mark.parametrize(
        ("value", "width", "expected"),
        [(5, 4, ("━━", "━━")), (20, 4, ("━━━━", "")), (0, 2, ("", "━━")), (5, -3, ("", ""))],
    )
    def test_a_meter_is_as_full_as_its_value(self, value: float, width: int, expected: tuple[str, str]) -> None:
        assert meter(value, 10, width) == expected

    def test_a_meter_without_a_top_is_none(self) -> None:
        assert meter(5, 0, 10) == ("", "")


def table_of(said: str) -> list[dict[str, int]]:
    """Return the first number of each row, of ours and of the twin."""
    rows = [re.fullmatch(r"( *[a-z_ ]+?)  +([0-9]+)\b(.*)", line) for line in said.splitlines()]
    found = [(row[1], row[2], re.search(r"  ([0-9]+)", row[3])) for row in rows if row]
    assert all(twin for *_, twin in found)
    ours = {name: int(number) for name, number, _ in found}
    return [ours, {name: int(twin[1]) for name, _, twin in found if twin}]


def with_errors(number: int) -> History:
    """Return the good history with so many errors at its end."""
    *earlier, end = GOOD.samples
    failed = replace(end, reading=replace(end.reading, errors=number))
    return replace(GOOD, samples=[*earlier, failed], last=replace(GOOD.end, errors=number))


def counted(state: State, **counts: Any) -> State:
    """Return a run whose clients had counted so much at its latest sample."""
    *earlier, latest = state.ours.samples
    latest = replace(latest, counts=replace(latest.counts, **counts))
    return replace(state, ours=replace(state.ours, samples=[*earlier, latest]))


class TestView:
    def test_the_view_has_every_number_at_80_columns_and_24_rows(self) -> None:
        said = drawn(RUNNING)

        assert "burst: 8 of 16 clients" in said
        assert "15 s left" in said
        assert "50 MiB     50 MiB" in said
        assert "200 MiB    200 MiB" in said
        for words in (
            "sessions active  8 of 8 ━━━",
            "40, no cap",
            "created          14",
            "  idle_timeout   2",
            "refused          3, 3 with Retry-After",
            "cleanup passes   4",
            "requests         10 a second",
            "clients' latency p50 0 ms, p99 0 ms",
        ):
            assert words in said

    @pytest.mark.parametrize("state", [RUNNING, OVER], ids=["running", "over"])
    @pytest.mark.parametrize("drawn_by", ["view", "lines"])
    def test_every_figure_of_the_books_in_a_view_is_of_one_moment(
        self, state: State, drawn_by: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        said = drawn(state, 100, 60) if drawn_by == "view" else shown(Screen(is_terminal=False), monkeypatch, state)
        ours, twin = table_of(said)

        assert (ours["created"], twin["created"]) == (14, 60)
        for books in (ours, twin):
            assert books["created"] == books["cleaned"] + books["sessions active"]
            assert books["cleaned"] == sum(number for name, number in books.items() if name.startswith("  "))

    def test_refusals_and_their_words_are_counted_by_the_same_clients(self) -> None:
        assert "refused          5, 4 with Retry-After" in drawn(counted(RUNNING, rejected=5, told_to_wait=4))

    def test_what_clients_count_after_the_latest_reading_is_not_shown_yet(self) -> None:
        before = drawn(RUNNING)
        later = ClientCounts(
            opened=99, rejected=99, told_to_wait=99, unexpected=99, requests=999, latencies=deque([9.0])
        )

        assert drawn(replace(RUNNING, ours=replace(RUNNING.ours, counts=later))) == before

    def test_the_latency_of_a_run_that_goes_on_is_of_its_latest_sample(self) -> None:
        assert "clients' latency p50 12 ms, p99 345 ms" in drawn(counted(RUNNING, p50=0.012, p99=0.345))

    def test_the_latency_of_a_run_that_is_over_is_of_the_whole_run(self) -> None:
        slow = replace(GOOD.counts, latencies=deque([0.02, 0.02, 0.5]))

        assert "clients' latency p50 20 ms, p99 500 ms" in drawn(replace(OVER, ours=replace(GOOD, counts=slow)))

    def test_both_curves_have_the_same_scale(self) -> None:
        rows = drawn(OVER).splitlines()
        ours, twin = rows[4:7], rows[7:10]

        assert [row[17:57].strip()[-1:] for row in ours] == ["", "", "▆"]
        assert [row[17:57].strip()[-1:] for row in twin] == ["█", "█", "█"]

    def test_a_view_without_a_twin_says_nothing_of_one(self) -> None:
        assert "without" not in drawn(ALONE)
        assert "with cleanup and cap" in drawn(ALONE)

    def test_unexpected_answers_are_shown_where_there_are_some(self) -> None:
        assert "unexpected" not in drawn(OVER)
        assert "unexpected       7 wrong or missing answers     0 wrong or missing answers" in drawn(
            counted(OVER, unexpected=7)
        )

    def test_a_reason_that_is_rare_is_shown_where_there_is_one(self) -> None:
        assert "shutdown" not in drawn(RUNNING)
        assert "shutdown" in drawn(OVER)

    def test_cleanup_that_failed_is_told_with_the_passes(self) -> None:
        failed = replace(OVER, ours=replace(GOOD, last=replace(GOOD.end, errors=2)))

        assert "cleanup passes   4, 2 errors in the shutdown" in drawn(failed)
        assert "cleanup passes   4, 2 errors  " in drawn(replace(failed, ours=with_errors(2)))

    @pytest.mark.parametrize("state", [JUST_BEGUN, RUNNING, OVER, ALONE], ids=["begun", "running", "over", "alone"])
    @pytest.mark.parametrize("width", [1, 10, 30, 50, 79, 80, 200])
    @pytest.mark.parametrize("height", [1, 5, 12, 23, 24, 60])
    def test_the_view_is_never_wider_or_taller_than_its_terminal(self, state: State, width: int, height: int) -> None:
        rows = drawn(state, width, height).splitlines()

        assert len(rows) <= height
        assert max(map(len, rows)) <= width

    def test_a_low_terminal_has_lower_curves_before_it_loses_numbers(self) -> None:
        assert "latency" in drawn(RUNNING, height=20)
        assert drawn(RUNNING, height=20).count("█") < drawn(RUNNING, height=24).count("█")

    def test_a_narrow_terminal_keeps_the_phase_and_the_time_left(self) -> None:
        assert "burst: 8 of 16 cl… 15 s left" in drawn(RUNNING, width=28)


def shown(output: Screen, monkeypatch: pytest.MonkeyPatch, state: State = OVER, **environ: str) -> str:
    """Return what a run writes to stdout."""
    for name in ("NO_COLOR", "FORCE_COLOR", "COLORTERM", "COLUMNS", "LINES"):
        monkeypatch.delenv(name, raising=False)
    for name, value in ({"TERM": "xterm-256color"} | environ).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.stdout", output)
    with showing(state.duration, twin=state.twin is not None) as show:
        show(replace(RUNNING, twin=state.twin))
    sum_up(state, judge(state.ours, state.twin, CLIENTS))
    return output.getvalue()


class TestWhereItIsShown:
    def test_a_terminal_gets_a_screen_of_its_own(self, monkeypatch: pytest.MonkeyPatch) -> None:
        screen, _, after = shown(Screen(is_terminal=True), monkeypatch).partition("\x1b[?1049l")

        assert screen.startswith("\x1b[?1049h")
        assert "burst: 8 of 16 clients" in screen
        assert "The books balance:" in after

    @pytest.mark.parametrize(
        ("output", "environ"),
        [
            (Screen(is_terminal=False), {}),
            (Screen(is_terminal=False), {"FORCE_COLOR": "1"}),
            (Screen(is_terminal=True), {"TERM": "dumb"}),
            (Screen(is_terminal=True, encoding="ascii"), {}),
        ],
        ids=["pipe", "pipe and colour forced", "dumb", "ascii"],
    )
    @pytest.mark.parametrize("state", [OVER, ALONE], ids=["both", "alone"])
    def test_anything_else_gets_plain_lines_of_less_than_80_columns(
        self, output: Screen, environ: dict[str, str], state: State, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        said = shown(output, monkeypatch, state, **environ)

        assert "   5  burst            14       6      8       3    50" in said
        assert "\nThe books balance: 14 created" in said
        assert all(character == "\n" or " " <= character <= "~" for character in said)
        assert max(map(len, said.splitlines())) < 80

    def test_what_stdout_has_no_characters_for_is_escaped(self, monkeypatch: pytest.MonkeyPatch) -> None:
        output = Screen(is_terminal=False, encoding="ascii")
        monkeypatch.setattr("sys.stdout", output)
        say("in /tmp/\u00e9")

        assert output.getvalue() == "in /tmp/\\xe9\n"

    def test_plain_lines_come_now_and_then(self, monkeypatch: pytest.MonkeyPatch) -> None:
        output = Screen(is_terminal=False)
        monkeypatch.setattr("sys.stdout", output)
        with showing(20.0, twin=True) as show:
            for tenths in range(200):
                show(replace(RUNNING, elapsed=tenths / 10))

        assert len(output.getvalue().splitlines()) == 1 + 10
