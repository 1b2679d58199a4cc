"""What the documentation shows works as it stands: each program in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from .pages import ROOT, SNIPPETS, Snippet, blocks_that_escape, snippets_in, texts
from .serve import WAYS

FRUIT = [["apple"], ["apple", "pear"]]
ANSWERS: dict[str, list[Any]] = {
    "how-to/starlette:1": FRUIT,
    "how-to/fastapi:1": FRUIT,
    "how-to/litestar:1": FRUIT,
    "how-to/quart:1": FRUIT,
    "how-to/django:1": FRUIT,
    "how-to/django:2": FRUIT,
    "how-to/mcp:1": ["2", "3"],
    "how-to/mcp:2": ["2", "3"],
    "how-to/mcp:3": ["2", "3", 401, 404, 1, 0],
    "how-to/mcp:4": ["2", "3", 401, 404, 1, 0],
    "how-to/aiohttp:1": FRUIT,
}
"""What the apps answer, for those that take the questions of their page."""

PROGRAMS = [name for name, snippet in SNIPPETS.items() if not snippet.makes_an_app and name not in WAYS]
APPS = [name for name in SNIPPETS if name not in PROGRAMS]


def run(folder: Path, *command: str) -> tuple[str, str]:
    """Run Python in an empty folder, which must end well; return what it says on stdout and on stderr."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "COV_"))}
    environ = own | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, env=environ, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


@pytest.mark.processes
@pytest.mark.no_cover
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_prints_what_its_page_shows(name: str, tmp_path: Path) -> None:
    snippet = SNIPPETS[name]
    assert run(tmp_path, str(snippet.write_to(tmp_path))) == (snippet.output or "", "")


@pytest.mark.processes
@pytest.mark.no_cover
@pytest.mark.parametrize("name", APPS)
def test_an_app_is_served_and_its_manager_shuts_down(name: str, tmp_path: Path) -> None:
    printed, _ = run(tmp_path, "-m", "tests.docs.serve", name, str(SNIPPETS[name].write_to(tmp_path)))
    said = json.loads(printed.splitlines()[-1])
    answers = said.pop("answers")
    assert said == {"runs": False, "active": 0, "errors": 0, "created": said["created"]}
    if name in ANSWERS:
        assert (answers, said["created"]) == (ANSWERS[name], 1)


def test_every_way_to_serve_an_app_is_for_a_program_that_is_there() -> None:
    assert {*ANSWERS, *WAYS} <= set(SNIPPETS)


@pytest.mark.parametrize("page", list(texts()))
def test_no_block_of_python_is_left_out(page: str) -> None:
    assert blocks_that_escape(texts()[page]) == []


@pytest.mark.parametrize(
    "fence", ["```py", "~~~python", "   ```python", "```python title", "```{code-block} python", "> ```python"]
)
def test_a_block_that_would_not_be_run_is_noticed(fence: str) -> None:
    assert blocks_that_escape(f"{fence}\nprint(1)\n{fence[-3:] if '`' in fence else '~~~'}\n") != []


def test_a_program_goes_with_the_text_that_directly_follows() -> None:
    page = "```python\na = 1\n```\n\n```text\n1\n```\n\n```python\nb = 2\n```\n\nProse.\n\n```text\n2\n```\n"
    first = Snippet(page="p", number=1, code="a = 1\n", output="1\n")
    assert snippets_in("p", page) == [first, Snippet(page="p", number=2, code="b = 2\n", output=None)]


def test_a_marked_fragment_is_left_alone() -> None:
    assert blocks_that_escape("```{code-block} python\n:class: fragment\n\n...\n```\n") == []
