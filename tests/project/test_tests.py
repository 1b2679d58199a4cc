"""What every test module keeps to."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = sorted((ROOT / "tests").rglob("*.py"))
TESTS = [module for module in MODULES if module.name.startswith("test_")]
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
LONGEST_NAME = 85
"""Letters; a name is a sentence, and a longer one wraps its signature."""


def imported(module: Path) -> Iterator[str]:
    """Yield the full names of what a module imports: of `from a.b import c` both `a.b` and `a.b.c`."""
    package = module.relative_to(ROOT).parts[:-1]
    for node in ast.walk(ast.parse(module.read_text())):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=name, names=names, level=level):
                above = package[: len(package) + 1 - level] if level else ()
                whole = ".".join([*above, *([name] if name else [])])
                yield whole
                yield from (f"{whole}.{alias.name}" for alias in names)
            case ast.Constant(value=str(program)) if "from tests." in program:
                yield from (line.split()[1] for line in program.splitlines() if line.strip().startswith("from tests."))
            case _:
                pass


@pytest.mark.parametrize("module", MODULES, ids=lambda module: str(module.relative_to(ROOT)))
def test_no_module_imports_from_a_test_module(module: Path) -> None:
    wrong = [name for name in imported(module) if name.startswith("tests.") and ".test_" in name]

    assert wrong == []


@pytest.mark.parametrize("module", TESTS, ids=lambda module: str(module.relative_to(ROOT)))
def test_the_name_of_a_test_is_a_sentence_of_one_line(module: Path) -> None:
    functions = [node for node in ast.walk(ast.parse(module.read_text())) if isinstance(node, FUNCTIONS)]

    assert [node.name for node in functions if node.name.startswith("test_") and len(node.name) > LONGEST_NAME] == []


WAITS = {
    **dict.fromkeys(["Client", "AsyncClient", "get", "post", "put", "delete", "request", "stream"], "timeout"),
    "connect": "open_timeout",
}
"""Calls that wait for another program, and the keyword that says for how long. By default it is a few seconds."""
LEAST_PATIENCE = 60
"""Seconds. A machine with other work may stand still for ten."""


def hurries(call: ast.Call) -> bool:
    """Return whether a call waits for another program, and no longer than a machine that is busy needs."""
    match call.func:
        case ast.Attribute(value=ast.Name(id="httpx2"), attr=name) | ast.Name(id="connect" as name) if name in WAITS:
            told = {keyword.arg: keyword.value for keyword in call.keywords}
            seconds = told.get(WAITS[name])
            is_short = isinstance(seconds, ast.Constant) and float(str(seconds.value)) < LEAST_PATIENCE
            return is_short or (seconds is None and not {"transport", None} & set(told))
        case _:
            return False


@pytest.mark.parametrize("module", MODULES, ids=lambda module: str(module.relative_to(ROOT)))
def test_no_test_hurries_another_program(module: Path) -> None:
    calls = [node for node in ast.walk(ast.parse(module.read_text())) if isinstance(node, ast.Call)]

    assert [(call.lineno, ast.unparse(call)) for call in calls if hurries(call)] == []
