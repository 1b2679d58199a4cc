"""What make says: while it sets up an environment, and where Compose is missing."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.processes import ROOT, clean_environ
from tests.waiting import PATIENCE

pytestmark = [pytest.mark.processes, pytest.mark.no_cover]

MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = re.findall(r"^([a-z-]+):.*\$\(VENV\)/\.(?:demo|dev|docs)", MAKEFILE, re.MULTILINE)
MAKE = shutil.which("make") or "make"


def program(folder: Path, name: str, script: str) -> Path:
    """Put a program of that name into a folder."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def make(*arguments: str, path: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [MAKE, "--no-print-directory", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        env={**clean_environ(), "PATH": path, "MAKEFLAGS": ""},
    )


class TestSettingUp:
    @pytest.mark.parametrize("kind", ["demo", "dev", "docs"])
    def test_what_uv_sets_up_is_said_before_it_begins(self, kind: str, tmp_path: Path) -> None:
        uv = program(tmp_path / "bin", "uv", f"echo uv runs: $*; mkdir -p {tmp_path}/venv")
        made = make(f"UV={uv}", f"VENV={tmp_path}/venv", f"{tmp_path}/venv/.{kind}", path=os.environ["PATH"])

        assert made.returncode == 0
        first, second, *_ = made.stdout.splitlines()
        assert first.startswith(f"Setting up {tmp_path}/venv with uv for ")
        assert first.endswith("This is done once, and takes about a minute ...")
        assert second.startswith("uv runs: sync")

    def test_uv_uses_the_environment_and_the_interpreter_that_are_asked_for(self, tmp_path: Path) -> None:
        uv = program(tmp_path / "bin", "uv", f"echo $UV_PROJECT_ENVIRONMENT $UV_PYTHON; mkdir -p {tmp_path}/venv")
        folder, asked = f"VENV={tmp_path}/venv", f"{tmp_path}/venv/.dev"
        usual = make(f"UV={uv}", folder, "--always-make", asked, path=os.environ["PATH"])
        chosen = make(f"UV={uv}", folder, "PYTHON=python3.12", "--always-make", asked, path=os.environ["PATH"])

        assert [made.stdout.splitlines()[-1] for made in (usual, chosen)] == [
            f"{tmp_path}/venv",
            f"{tmp_path}/venv python3.12",
        ]

    @pytest.mark.parametrize("kind", ["demo", "dev", "docs"])
    def test_what_pip_sets_up_is_said_before_anything_begins(self, kind: str, tmp_path: Path) -> None:
        makes = 'mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; cp "$0" "$3/bin/pip"'
        python = program(tmp_path / "bin", "fake-python", f'echo pip runs: $*; if [ "$2" = venv ]; then {makes}; fi')
        made = make(
            "UV=", f"PYTHON={python}", f"VENV={tmp_path}/venv", f"{tmp_path}/venv/.{kind}", path=os.environ["PATH"]
        )

        assert made.returncode == 0
        first, *others = made.stdout.splitlines()
        assert first.startswith(f"Setting up {tmp_path}/venv with pip for ")
        assert [other.split(" --")[0] for other in others] == [
            f"pip runs: -m venv {tmp_path}/venv",
            "pip runs: -m pip install",
            "pip runs: install",
        ]

    def test_an_environment_that_is_there_is_not_spoken_of(self, tmp_path: Path) -> None:
        (tmp_path / ".dev").touch()

        assert "Setting up" not in make(f"VENV={tmp_path}", f"{tmp_path}/.dev", path=os.environ["PATH"]).stdout

    @pytest.mark.parametrize("target", TARGETS)
    def test_whatever_needs_an_environment_says_first_that_it_is_set_up(self, target: str, tmp_path: Path) -> None:
        planned = make("--dry-run", f"VENV={tmp_path}/venv", target, path=os.environ["PATH"]).stdout

        assert planned.startswith(f'echo "Setting up {tmp_path}/venv with ')

    def test_the_targets_that_need_an_environment_are_known(self) -> None:
        assert {"demo", "test", "proxy-test", "check", "bench", "stack-test", "dashboards"} <= set(TARGETS)


class TestCompose:
    @pytest.mark.parametrize("target", ["up", "down"])
    def test_without_docker_it_is_said_what_is_missing_and_how_to_go_on(self, target: str, tmp_path: Path) -> None:
        made = make(target, path=str(tmp_path))

        assert made.returncode != 0
        assert made.stdout == ""
        said = made.stderr.splitlines()[0]
        assert said.startswith("docker is not installed. Install Docker with Compose (https://")
        assert said.endswith("or run make demo, which needs neither.")
        assert [line for line in made.stderr.splitlines()[1:] if "***" not in line] == []

    @pytest.mark.parametrize("target", ["up", "down"])
    def test_without_its_compose_plugin_it_is_said_that_this_is_missing(self, target: str, tmp_path: Path) -> None:
        program(tmp_path, "docker", "echo \"docker: 'compose' is not a docker command.\" >&2; exit 1")
        made = make(target, path=str(tmp_path))

        assert made.returncode != 0
        said = made.stderr.splitlines()[0]
        assert said.startswith('Compose is missing: "docker compose" does not work. Install Docker\'s plugin (https://')
        assert said.endswith("or run make demo, which needs neither.")
        assert "is not a docker command" not in made.stderr

    def test_compose_is_asked_where_it_is_there(self, tmp_path: Path) -> None:
        program(tmp_path, "docker", "echo docker $*")
        made = make("up", "COMPARE=1", path=str(tmp_path))

        assert made.returncode == 0
        assert "docker compose --profile compare up --build" in made.stdout
        assert "Grafana: http://127.0.0.1:3000" in made.stdout

    def test_another_compose_can_be_named(self, tmp_path: Path) -> None:
        program(tmp_path, "docker-compose", "echo other $*")

        assert (
            "other --profile compare --profile fleet down"
            in make("down", "COMPOSE=docker-compose", path=str(tmp_path)).stdout
        )
