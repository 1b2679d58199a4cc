"""The first screen of "Sessions" as `make stack-gallery` draws it, from made-up answers."""

import re
from collections.abc import Mapping
from typing import Any

import pytest

from tests.stack.gallery import Mark, Series, draw_screen, in_unit
from tests.stack.queries import first_screen

pytestmark = pytest.mark.no_cover

MIB = 1024 * 1024
ANSWERS: dict[str, list[tuple[str, dict[str, str], list[float]]]] = {
    "Memory now": [("A", {"instance": "one"}, [40 * MIB, 64 * MIB]), ("A", {"instance": "two"}, [90 * MIB, 0])],
    "Memory, change in 5 min": [("A", {"instance": "one"}, [0.021]), ("A", {"instance": "two"}, [-1.0])],
    "Active of cap": [("A", {"instance": "one", "cap": "200"}, [0.87]), ("C", {"instance": "two"}, [1532.0])],
    "Created so far": [("A", {"instance": "one"}, [5321.0])],
    "Unaccounted for": [("A", {"instance": "one", "otel_sessions_manager_name": "mcp"}, [0.0])],
    "Alerts firing": [],
    "Memory of every instance": [("A", {"instance": "one"}, [40 * MIB, 64 * MIB]), ("C", {}, [256 * MIB] * 2)],
    "Active sessions and the cap": [],
}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The texts in the picture."""
    path = tmp_path_factory.mktemp("gallery") / "screen.svg"
    panels = first_screen()
    asked = {id(target): (panel["title"], target["refId"]) for panel in panels for target in panel["targets"]}

    def ask(target: Mapping[str, Any]) -> list[Series]:
        title, letter = asked[id(target)]
        return [
            Series(labels=labels, points=[(1060.0 - 60 * (len(values) - 1 - n), v) for n, v in enumerate(values)])
            for of, labels, values in ANSWERS[title]
            if of == letter
        ]

    marks = [Mark(start=1020.0, end=1030.0, text="two died", color="purple")]
    draw_screen(path, panels, ask, marks, start=1000.0, end=1060.0)
    return re.findall(r">([^<>\n]+)</text>", path.read_text())


def test_a_picture_has_every_title_and_mark(drawn: list[str]) -> None:
    assert {panel["title"] for panel in first_screen()} <= set(drawn)
    assert "two died" in drawn


@pytest.mark.parametrize(
    "text",
    [
        *("64.0 MiB", "gone", "2.1%", "one, of 200", "87%", "two GONE with", "1.53 K sessions", "5.32 K sessions"),
        *("one/mcp", "0 sessions", "memory limit", "256 MiB", "no data"),
    ],
)
def test_a_picture_says_what_the_panels_units_legends_and_mappings_make_of_a_value(drawn: list[str], text: str) -> None:
    assert text in drawn


@pytest.mark.parametrize(
    ("value", "unit", "decimals", "text"),
    [
        (1536.0, "bytes", None, "1.5 KiB"),
        (0.5, "percentunit", 0, "50%"),
        (-0.051, "percentunit", 1, "-5.1%"),
        (0.4333, "suffix:sessions/s", 2, "0.43 sessions/s"),
        (999.0, "short", None, "999"),
        (12345.0, "count:sessions", None, "12.3 K sessions"),
    ],
)
def test_a_value_is_written_in_its_unit(value: float, unit: str, decimals: int | None, text: str) -> None:
    assert in_unit(value, unit, decimals) == text
