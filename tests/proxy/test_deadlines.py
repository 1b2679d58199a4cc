"""Each row of the reference's table of deadlines has a test that shows it, and each such test has its row."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.no_cover

ROOT = Path(__file__).parents[2]
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def states() -> list[str]:
    """Return the states that the table names, in its order."""
    page = (ROOT / "docs" / "reference" / "proxy.md").read_text()
    table = page.partition("\n## Time\n")[2].partition("\n## ")[0]
    rows: list[str] = re.findall(r"^\| (.+?) \| .* \|$", table, re.MULTILINE)
    return rows[1:]


def shown() -> Iterator[tuple[str, str]]:
    """Yield the state whose deadline a test shows, and the test, for each mark of a test function."""
    for module in sorted((ROOT / "tests").rglob("test_*.py")):
        for test in ast.walk(ast.parse(module.read_text())):
            if not isinstance(test, FUNCTIONS) or not test.name.startswith("test_"):
                continue
            for mark in test.decorator_list:
                match mark:
                    case ast.Call(func=ast.Attribute(attr="deadline"), args=[ast.Constant(value=str(state))]):
                        yield state, f"{module.name}::{test.name}"
                    case _:
                        pass


def test_each_state_is_named_once() -> None:
    assert len(states()) == len(set(states())) > 20


def test_each_state_has_a_test_of_its_deadline() -> None:
    assert sorted(set(states()) - {state for state, _ in shown()}) == []


def test_each_test_of_a_deadline_is_of_a_state_that_the_table_names() -> None:
    assert [(state, test) for state, test in shown() if state not in states()] == []
