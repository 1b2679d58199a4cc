"""What the README says is what is there."""

import re
import subprocess
import sys
from typing import Any

import httpx2
import pytest

from tests.processes import ROOT, clean_environ

README = (ROOT / "README.md").read_text(encoding="utf-8")
PROGRAM, APP = re.findall(r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
LINKED = ["README.md", "SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md"]


@pytest.mark.processes
@pytest.mark.no_cover
def test_the_program_prints_what_the_readme_shows() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False, env=clean_environ()
    )
    shown = re.search(re.escape(f"{PROGRAM}```\n```text\n") + "(.*?)```", README, re.DOTALL)
    assert shown is not None
    assert (done.stdout, done.stderr) == (shown[1], "")


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.anyio
async def test_the_embedded_app_gives_a_session_and_leases_it_again() -> None:
    names: dict[str, Any] = {"__name__": "readme"}
    exec(compile(APP, "README.md", "exec"), names)  # noqa: S102  # our own words
    app = names["app"]
    transport = httpx2.ASGITransport(app)
    async with app.router.lifespan_context(app), httpx2.AsyncClient(transport=transport, base_url="http://x") as client:
        first = await client.get("/")
        again = await client.get("/")

    assert (first.json(), again.json()) == ({"requests": 1}, {"requests": 2})
    assert ("set-cookie" in first.headers, "set-cookie" in again.headers) == (True, False)


def test_the_readme_is_read_in_a_few_minutes() -> None:
    assert len(README.splitlines()) <= 120


@pytest.mark.parametrize("name", LINKED)
def test_every_relative_link_of_a_page_at_the_root_leads_somewhere(name: str) -> None:
    text = re.sub(r"^```.*?^```", "", (ROOT / name).read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    targets = [found.partition("#")[0] for found in re.findall(r"\]\(([^)\s]+)\)", text) if ":" not in found]
    assert [target for target in targets if target and not (ROOT / target).exists()] == []


def test_every_make_target_that_the_readme_names_is_there() -> None:
    there = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(re.findall(r"(?:^|`)make ([a-z-]+)", README, re.MULTILINE)) <= there


def test_what_runs_before_a_commit_is_what_make_check_runs() -> None:
    hooks = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    assert re.findall(r"entry: (.+)", hooks) == ["make check"]


def test_ci_builds_the_site_after_the_checks() -> None:
    commands = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert commands.index("make docs") == commands.index("make check") + 1
