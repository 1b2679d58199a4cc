"""Two type checkers and the linter agree with every program of the documentation, as a user would set them up."""

import subprocess
import sys
from pathlib import Path

import pytest

from .pages import ROOT, SNIPPETS

TYPED = [str(ROOT / "tests" / name) for name in ("docs/typed_frameworks.py", "project/typed_use.py")]
CACHE = ROOT / ".mypy_cache" / "docs"

pytestmark = [pytest.mark.processes, pytest.mark.no_cover]


@pytest.fixture
def written(tmp_path: Path) -> list[str]:
    """The files of all programs."""
    return sorted(str(snippet.write_to(tmp_path)) for snippet in SNIPPETS.values())


def check(*command: str) -> None:
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_mypy_agrees_with_every_program(written: list[str], tmp_path: Path) -> None:
    (tmp_path / "mypy.ini").write_text("[mypy]\n")  # a user's settings, not ours
    config = str(tmp_path / "mypy.ini")
    check("mypy", "--strict", "--config-file", config, "--cache-dir", str(CACHE), *written, *TYPED)


def test_pyright_agrees_with_every_program(written: list[str]) -> None:
    """The wheels of pyright and of its node bring all that they need: nothing is downloaded."""
    check("pyright", "--pythonpath", sys.executable, *written, *TYPED)


def test_the_linter_finds_nothing_in_any_program(written: list[str]) -> None:
    """How a program is formatted, `ruff format` sees in the pages themselves."""
    rules = ["--extend-select", "B,UP", "--target-version", "py311"]
    check("ruff", "check", "--isolated", "--no-cache", *rules, *written)
