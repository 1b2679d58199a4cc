"""Tests the core on every Python from 3.11 to 3.14 that this machine has, each in an environment of its own.

Use: `make test-all`. With `--ends` only the oldest and the newest are tested, without the one that runs this, which
`make test` has used already. An interpreter is found on the PATH, among pyenv's versions, or among uv's.
"""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
MINORS: Final = (11, 12, 13, 14)
"""The minor versions of Python 3 that the project is for."""
FOLDERS: Final = ("core", "engine", "telemetry", "sinks", "asgi", "http", "program")
"""The tests of what every user has; those of the demo and of the proxy run once."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """What came of one version; `passed` is None where there is no such interpreter."""

    minor: int
    passed: bool | None
    words: str


def places(minor: int, environ: Mapping[str, str], home: Path) -> Iterator[Path]:
    """Yield where an interpreter of a version may be, the likeliest first."""
    name = f"python3.{minor}"
    for folder in environ.get("PATH", "").split(os.pathsep):
        yield Path(folder, name)
    pyenv = Path(environ.get("PYENV_ROOT") or home / ".pyenv", "versions")
    data = Path(environ.get("XDG_DATA_HOME") or home / ".local" / "share")
    uv = Path(environ.get("UV_PYTHON_INSTALL_DIR") or data / "uv" / "python")
    for versions in (pyenv, uv):
        yield from sorted(versions.glob(f"*/bin/{name}"), reverse=True)


def works(python: Path, minor: int) -> bool:
    """Return whether this is an interpreter of that version that can make an environment."""
    if not os.access(python, os.X_OK):
        return False
    ask = "import sys, ensurepip, venv; print(*sys.version_info[:2])"  # a shim is there, and may start nothing
    done = subprocess.run([python, "-c", ask], capture_output=True, text=True, check=False)
    return done.returncode == 0 and done.stdout.split() == ["3", str(minor)]


def find(environ: Mapping[str, str], home: Path) -> dict[int, Path]:
    """Return the interpreters that are here, by their minor versions in order."""
    found = {}
    for minor in MINORS:
        python = next((place for place in places(minor, environ, home) if works(place, minor)), None)
        if python is not None:
            found[minor] = python
    return found


def ends(minors: Sequence[int], own: int) -> list[int]:
    """Return the oldest and the newest of versions in order, without the own one."""
    return [minor for minor in dict.fromkeys([*minors[:1], *minors[-1:]]) if minor != own]


def test(minor: int, python: Path) -> Result:
    """Set an environment up where there is none yet, and run the tests in it."""
    environment = f"build/python-3.{minor}"
    setup = ["make", "--no-print-directory", f"VENV={environment}", f"PYTHON={python}", f"{environment}/.dev"]
    if subprocess.run(setup, cwd=ROOT, check=False).returncode != 0:
        return Result(minor=minor, passed=False, words="its environment could not be set up")
    tests = [f"tests/{folder}" for folder in FOLDERS]
    options = ["-q", "-p", "no:cacheprovider", "-n", "4", "--dist", "worksteal"]
    command = [f"{environment}/bin/python", "-m", "pytest", *options, *tests]
    last = ""
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            last = line.strip() or last
    return Result(minor=minor, passed=process.returncode == 0, words=last.strip("= "))


def table(results: Sequence[Result]) -> str:
    """Return a row for each version."""
    words = {True: "passed", False: "FAILED", None: "-"}
    rows = [(f"3.{result.minor}", words[result.passed], result.words) for result in results]
    return "".join(f"{version:8}{passed:8}{said}\n" for version, passed, said in [("Python", "result", ""), *rows])


def main(arguments: Sequence[str]) -> int:
    found = find(os.environ, Path.home())
    own = sys.version_info.minor
    wanted = ends(list(found), own) if "--ends" in arguments else list(found)
    results = []
    for minor in MINORS:
        if minor not in found:
            results.append(Result(minor=minor, passed=None, words="there is none on this machine"))
        elif minor in wanted:
            print(f"Python 3.{minor}: {found[minor]}", flush=True)
            results.append(test(minor, found[minor]))
    print(f"\n{table(results)}", end="")
    return 1 if any(result.passed is False for result in results) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
