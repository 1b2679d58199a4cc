"""The built wheel, in an environment that holds nothing else."""

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

pytestmark = pytest.mark.no_cover

ROOT = Path(__file__).parents[2]

USE = """
import anyio, sys
from importlib.metadata import version
import otel_sessions
from otel_sessions.fleet.scripts import JOIN

async def main():
    async with otel_sessions.SessionManager() as manager:
        await manager.create_session()
        assert len(manager) == 1

anyio.run(main)
assert "return" in JOIN.source
assert version("otel-sessions") == otel_sessions.__version__
assert not [name for name in sys.modules if name.startswith("opentelemetry.sdk")]
print(otel_sessions.__file__)
"""


@pytest.mark.processes
def test_the_wheel_alone_imports_and_runs_in_a_clean_environment(tmp_path: Path) -> None:
    def run(*command: str | Path) -> str:
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, ROOT)
    (wheel,) = tmp_path.glob("*.whl")
    venv.create(tmp_path / "clean", with_pip=True)
    python = tmp_path / "clean" / "bin" / "python"
    install = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", wheel)
    installed = subprocess.run(install, capture_output=True, text=True, check=False)
    if "Could not find a version" in installed.stderr or "ConnectionError" in installed.stderr:
        reason = "the wheel's dependencies cannot be downloaded: no package index is within reach"
        if os.environ.get("CI"):
            pytest.fail(f"{reason}\n{installed.stderr}")
        pytest.skip(reason)
    assert installed.returncode == 0, installed.stderr

    assert str(tmp_path) in run(python, "-I", "-W", "error", "-c", USE)
    names = run(python, "-m", "pip", "list", "--format=freeze")
    top = {line.split("==")[0].lower().replace("_", "-") for line in names.splitlines()}
    allowed = {
        "anyio",
        "idna",
        "opentelemetry-api",
        "otel-sessions",
        "pip",
        "setuptools",
        "sniffio",
        "typing-extensions",
    }
    allowed |= {"importlib-metadata", "zipp", "deprecated", "wrapt"}  # what older APIs of OpenTelemetry need
    assert top <= allowed


def test_the_wheel_says_that_it_is_typed() -> None:
    assert (ROOT / "otel_sessions" / "py.typed").exists()


def test_no_module_of_the_package_passes_400_lines() -> None:
    lines = {path.name: len(path.read_text().splitlines()) for path in (ROOT / "otel_sessions").rglob("*.py")}
    assert {name: count for name, count in lines.items() if count > 400} == {}
