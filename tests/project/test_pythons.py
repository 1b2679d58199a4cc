"""How `make test-all` finds interpreters, and what it says of them."""

import os
from pathlib import Path

import pytest

from tests.pythons import Result, ends, find, table

pytestmark = [pytest.mark.processes, pytest.mark.no_cover]


def interpreter(folder: Path, name: str, says: str, status: int = 0) -> Path:
    """Put a program into a folder that says it is of that version."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\necho {says}\nexit {status}\n")
    path.chmod(0o755)
    return path


def test_interpreters_are_found_on_the_path_and_among_pyenvs_and_uvs(tmp_path: Path) -> None:
    on_the_path = interpreter(tmp_path / "bin", "python3.11", "3 11")
    pyenvs = interpreter(tmp_path / ".pyenv/versions/3.12.1/bin", "python3.12", "3 12")
    uvs = interpreter(tmp_path / ".local/share/uv/python/cpython-3.14.0/bin", "python3.14", "3 14")

    assert find({"PATH": str(tmp_path / "bin")}, tmp_path) == {11: on_the_path, 12: pyenvs, 14: uvs}


def test_where_pyenv_and_uv_keep_theirs_is_read_from_their_variables(tmp_path: Path) -> None:
    pyenvs = interpreter(tmp_path / "env/versions/3.12.1/bin", "python3.12", "3 12")
    uvs = interpreter(tmp_path / "uv/cpython-3.13.0/bin", "python3.13", "3 13")
    environ = {"PYENV_ROOT": str(tmp_path / "env"), "UV_PYTHON_INSTALL_DIR": str(tmp_path / "uv")}

    assert find(environ, tmp_path) == {12: pyenvs, 13: uvs}


@pytest.mark.parametrize(("says", "status"), [("3 12", 1), ("3 11", 0), ("", 127)])
def test_a_shim_that_starts_nothing_or_another_version_is_passed_over(tmp_path: Path, says: str, status: int) -> None:
    interpreter(tmp_path / "shims", "python3.12", says, status)
    good = interpreter(tmp_path / "good", "python3.12", "3 12")

    assert find({"PATH": os.pathsep.join([str(tmp_path / "shims"), str(tmp_path / "good")])}, tmp_path) == {12: good}


@pytest.mark.parametrize(
    ("minors", "own", "expected"),
    [
        ([11, 12, 13], 11, [13]),
        ([11, 12, 13], 12, [11, 13]),
        ([11, 12, 13], 13, [11]),
        ([12], 12, []),
        ([12], 11, [12]),
        ([], 11, []),
    ],
)
def test_the_ends_are_the_oldest_and_the_newest_but_the_own_one(
    minors: list[int], own: int, expected: list[int]
) -> None:
    assert ends(minors, own) == expected


def test_the_table_has_a_row_for_each_version() -> None:
    results = [
        Result(minor=11, passed=True, words="7 passed in 1 s"),
        Result(minor=12, passed=False, words="1 failed"),
        Result(minor=14, passed=None, words="there is none on this machine"),
    ]

    assert [line.split(maxsplit=2) for line in table(results).splitlines()] == [
        ["Python", "result"],
        ["3.11", "passed", "7 passed in 1 s"],
        ["3.12", "FAILED", "1 failed"],
        ["3.14", "-", "there is none on this machine"],
    ]
