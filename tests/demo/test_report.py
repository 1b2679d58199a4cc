"""What a run leaves in its folder."""

import json
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib.image
import pytest

from otel_sessions import ConfigError
from otel_sessions.demo.result.history import State
from otel_sessions.demo.result.picture import INCHES, PIXELS_PER_INCH, draw
from otel_sessions.demo.result.report import FILES, ReportFailed, require_writable, write_report
from otel_sessions.demo.result.verdict import MIB, judge

from .histories import ALONE, CLIENTS, GOOD, LEAKING, OVER, reading, sample, with_samples

pytestmark = pytest.mark.no_cover


def write(folder: Path, state: State = OVER) -> None:
    write_report(folder, state, judge(state.ours, state.twin, CLIENTS))


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    write(folder)
    return folder


@pytest.fixture(scope="module")
def summary(report: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((report / "summary.json").read_text())
    return read


def words_of(picture: Path) -> str:
    """Return all text of an SVG, which must be well formed."""
    return " ".join("".join(ElementTree.parse(picture).getroot().itertext()).replace("\xa0", " ").split())  # noqa: S314  # made here


def noted(state: State, *, twin: int, early: bool = False) -> State:
    """Return a run with both notes, whose twin ends at so many MiB."""
    refused = replace(reading(3, 3), rejected={"max_sessions": 3})
    ours = with_samples(
        GOOD,
        replace(sample(1, reading(3, 3)), reading=refused if early else replace(refused, rejected={})),
        sample(12, reading(10, 8, closed=2)),
        sample(16, reading(10, 0, closed=2, idle_timeout=8)),
        sample(20, reading(14, 4, closed=2, idle_timeout=8)),
    )
    ending = with_samples(LEAKING, sample(1, reading(9, 9)), sample(20, reading(14, 14, twin * MIB)))
    return replace(state, ours=ours, twin=None if state.twin is None else ending)


class TestPictures:
    def test_the_report_is_its_four_files_and_nothing_else(self, report: Path) -> None:
        assert {path.name for path in report.iterdir()} == set(FILES)

    def test_the_picture_has_the_size_it_is_meant_to_have(self, report: Path) -> None:
        height, width = matplotlib.image.imread(report / "memory.png").shape[:2]

        assert (width, height) == tuple(round(inches * PIXELS_PER_INCH) for inches in INCHES)

    def test_the_picture_names_its_axes_with_units_and_its_curves(self, report: Path) -> None:
        said = words_of(report / "memory.svg")

        assert "Two proxies under the same load: with cleanup and cap, and without" in said
        assert "resident memory (MiB)" in said
        assert "sessions created" in said
        assert "200 MiB, peak 200 MiB" in said
        assert "50 MiB, peak 50 MiB" in said
        assert "cap of 8 reached: openings refused: 3" in said

    @pytest.mark.parametrize(
        "state",
        [
            noted(OVER, twin=100),
            noted(OVER, twin=2000),
            noted(OVER, twin=100, early=True),
            noted(OVER, twin=2000, early=True),
            noted(ALONE, twin=0),
        ],
        ids=["usual", "large twin", "early refusals", "large twin and early refusals", "alone"],
    )
    def test_no_words_in_the_picture_lie_on_others_or_outside_of_it(self, state: State) -> None:
        figure = draw(state)
        figure.draw_without_rendering()
        memory = figure.axes[0]
        boxes = [box for text in memory.texts if (box := text.get_tightbbox())]

        assert len(boxes) == (5 if state.twin else 4)
        assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
        for box in boxes:
            assert box.y0 >= memory.bbox.y0
            assert 0 <= box.x0 < box.x1 <= figure.bbox.x1

    def test_the_same_run_makes_the_same_picture(self, report: Path, tmp_path: Path) -> None:
        write(tmp_path)

        for name in ("memory.svg", "memory.png", "terminal.svg", "summary.json"):
            assert (tmp_path / name).read_bytes() == (report / name).read_bytes()

    def test_the_picture_of_a_proxy_alone_says_nothing_of_a_twin(self, tmp_path: Path) -> None:
        write(tmp_path, ALONE)

        assert "without" not in words_of(tmp_path / "memory.svg")
        assert "without" not in words_of(tmp_path / "terminal.svg")

    def test_the_terminal_shows_the_last_view_and_the_verdict_and_asks_nobody_for_fonts(self, report: Path) -> None:
        said = words_of(report / "terminal.svg")

        assert "sessions active" in said
        assert "The books balance:" in said
        style = (report / "terminal.svg").read_text()
        assert 'url("' not in style
        assert "font-family: monospace; font-size: 20px" in style  # apart, because not everything reads `font:`

    def test_every_blank_of_the_terminal_is_to_be_kept(self, report: Path) -> None:
        space = "{http://www.w3.org/XML/1998/namespace}space"
        root = ElementTree.parse(report / "terminal.svg").getroot()  # noqa: S314  # made here

        assert root.get(space) == "preserve"
        assert not [one for one in root.iter() if one is not root and one.get(space)]  # so all inherit it


def numbers_of(value: Any, name: str = "") -> list[tuple[str, float]]:
    """Return every number with the name it has, or that what holds it has."""
    if isinstance(value, dict):
        inner = (name if name.endswith("sessions") else None for _ in value)
        return [
            found
            for (key, part), outer in zip(value.items(), inner, strict=True)
            for found in numbers_of(part, outer or key)
        ]
    if isinstance(value, list):
        return [found for part in value for found in numbers_of(part, name)]
    return [(name, value)] if isinstance(value, (int, float)) and not isinstance(value, bool) else []


class TestNumbers:
    def test_the_summary_says_its_version_and_what_was_asked_for(self, summary: dict[str, Any]) -> None:
        assert summary["format"] == 1
        assert summary["load"] == {"duration_seconds": 20.0, "clients": CLIENTS, "seed": 1, "rate_times_usual": 1.0}
        assert summary["verdict"]["passed"] is True
        assert len(summary["verdict"]["lines"]) == 4

    @pytest.mark.parametrize("side", ["with_cleanup_and_cap", "without"])
    def test_the_books_in_the_summary_balance_in_every_sample(self, summary: dict[str, Any], side: str) -> None:
        for books in (summary[side]["sessions"], *summary[side]["samples"]):
            assert books["created_sessions"] == sum(books["cleaned_sessions"].values()) + books["active_sessions"]

    def test_every_number_in_the_summary_has_its_unit_in_its_name(self, summary: dict[str, Any]) -> None:
        units = ("seconds", "bytes", "sessions", "passes", "errors", "requests", "answers", "second", "client", "hooks")

        for side in ("with_cleanup_and_cap", "without"):
            for name, value in numbers_of(summary[side]):
                assert name.endswith(units), (name, value)

    def test_a_run_without_a_twin_has_none_in_its_summary(self, tmp_path: Path) -> None:
        write(tmp_path, ALONE)

        assert json.loads((tmp_path / "summary.json").read_text())["without"] is None

    def test_a_twin_that_was_killed_before_anything_was_seen_of_it_is_reported_so(self, tmp_path: Path) -> None:
        write(tmp_path, replace(OVER, twin=replace(LEAKING, samples=[], last=None, killed=True)))

        assert json.loads((tmp_path / "summary.json").read_text())["without"]["killed"] is True
        assert "was killed after 0 s" in words_of(tmp_path / "terminal.svg")


class TestFolder:
    def test_a_report_takes_the_place_of_an_earlier_one_and_leaves_other_files_alone(self, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("mine")
        (tmp_path / "summary.json").write_text("old")
        require_writable(tmp_path)
        write(tmp_path)

        assert {path.name for path in tmp_path.iterdir()} == {*FILES, "notes.txt"}
        assert (tmp_path / "notes.txt").read_text() == "mine"
        assert (tmp_path / "summary.json").read_text() != "old"

    def test_a_folder_is_made_with_those_above_it_when_the_report_is_written(self, tmp_path: Path) -> None:
        require_writable(tmp_path / "a" / "b")
        assert list(tmp_path.iterdir()) == []

        write(tmp_path / "a" / "b")
        assert {path.name for path in (tmp_path / "a" / "b").iterdir()} == set(FILES)

    def test_a_relative_folder_is_one_of_the_current_folder(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)

        require_writable(Path("report"))
        (tmp_path / "report").write_text("mine")
        with pytest.raises(ConfigError, match="report is not a folder"):
            require_writable(Path("report"))

    def test_a_folder_whose_name_is_too_long_is_refused_beforehand(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"--report: the report cannot be written to .*too long"):
            require_writable(tmp_path / ("a" * 300))

    @pytest.mark.parametrize("folder", ["file", "file/below", "file/far/below"])
    def test_a_folder_that_is_a_file_or_below_one_is_refused_beforehand(self, folder: str, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("mine")

        with pytest.raises(ConfigError, match=r"--report: the report cannot be written to .*file is not a folder"):
            require_writable(tmp_path / folder)
        assert (tmp_path / "file").read_text() == "mine"

    @pytest.mark.parametrize("folder", [".", "below"])
    def test_a_folder_that_may_not_be_written_to_is_refused_beforehand(
        self, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("os.access", lambda *_: False)  # root may write everywhere

        with pytest.raises(ConfigError, match=r"--report: the report cannot be written to .* is not writable"):
            require_writable(tmp_path / folder)

    def test_a_folder_in_place_of_a_file_of_the_report_is_refused_beforehand(self, tmp_path: Path) -> None:
        (tmp_path / "memory.png").mkdir()

        with pytest.raises(ConfigError, match=r"memory\.png is a folder"):
            require_writable(tmp_path)

    def test_a_report_that_fails_half_way_changes_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "summary.json").write_text("old")
        written = Path.write_text

        def full(self: Path, text: str, encoding: str) -> int:
            if self.name == "summary.json":
                raise OSError(28, "No space left on device")
            return written(self, text, encoding)

        monkeypatch.setattr(Path, "write_text", full)

        with pytest.raises(ReportFailed, match="No space left on device"):
            write(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["summary.json"]
        assert (tmp_path / "summary.json").read_text() == "old"
