"""What docs/embedding.md shows works as it stands, and two type checkers agree with it and with the README."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.waiting import PATIENCE

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "embedding.md").read_text()
README = (ROOT / "README.md").read_text()
SNIPPETS: dict[str, str] = dict(
    re.findall(r"^## ([^\n]+)\n(?:(?!^## ).)*?^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
)
TYPED = [str(Path(__file__).parent / f"typed_{name}.py") for name in ("embedding", "use")]
CACHE = ROOT / ".mypy_cache" / "embedding"
FRUIT = [["apple"], ["apple", "pear"]]
ANSWERS: dict[str, list[Any]] = {
    "Starlette": FRUIT,
    "FastAPI": FRUIT,
    "Litestar": FRUIT,
    "Quart": FRUIT,
    "Django": FRUIT,
    "Channels": FRUIT,
    "MCP SDK": ["2", "3"],
    "FastMCP": ["2", "3"],
    "aiohttp, by hand": FRUIT,
    "asyncio, by hand": ["1: apple\n", "2: pear\n"],
}

pytestmark = [pytest.mark.processes, pytest.mark.no_cover]


def file_of(name: str, folder: Path) -> Path:
    """Write a snippet to a module of its own, which has no package's name."""
    path = folder / f"snippet_{re.sub('[^a-z]+', '_', name.lower())}.py"
    path.write_text(SNIPPETS[name])
    return path


def test_every_framework_has_its_snippet() -> None:
    assert list(SNIPPETS) == list(ANSWERS)


@pytest.mark.parametrize("name", list(SNIPPETS))
def test_two_requests_are_in_one_session_and_the_manager_shuts_down(name: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.project.embedded", name, str(file_of(name, tmp_path))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said == {"answers": ANSWERS[name], "runs": False, "created": 1, "active": 0, "errors": 0}


@pytest.fixture
def checked(tmp_path: Path) -> list[str]:
    """The files that the type checkers read: every snippet, the README's too, and the rest of what frameworks take."""
    for number, snippet in enumerate(re.findall(r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE)):
        (tmp_path / f"readme_{number}.py").write_text(snippet)
    for name in SNIPPETS:
        file_of(name, tmp_path)
    return [*sorted(map(str, tmp_path.glob("*.py"))), *TYPED]


def check(*command: str) -> None:
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_mypy_agrees_with_every_snippet(checked: list[str], tmp_path: Path) -> None:
    (tmp_path / "mypy.ini").write_text("[mypy]\n")  # a user's settings, not ours
    check("mypy", "--strict", "--config-file", str(tmp_path / "mypy.ini"), "--cache-dir", str(CACHE), *checked)


def test_pyright_agrees_with_every_snippet(checked: list[str]) -> None:
    """The wheels of pyright and of its node bring all that they need: nothing is downloaded."""
    check("pyright", "--pythonpath", sys.executable, *checked)
