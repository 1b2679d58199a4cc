"""What the documentation shows works as it stands: each program in a process of its own."""

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from tests.fleet.servers import Program, program, valkey_program

from .pages import ROOT, SNIPPETS, Kind, Snippet, blocks_that_escape, snippets_in, texts
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
    "how-to/migrate-from-the-mcp-sdk:1": ["2", "3"],
    "how-to/aiohttp:1": FRUIT,
}
"""What the apps answer, for those that take the questions of their page."""

CONFIGURED_ONCE = ("how-to/django",)
"""Pages whose programs need a process each."""

LEFT_OUT = ("OTEL_", "COV_", "COVERAGE_", "PYTEST_")
"""How the names of variables begin that no program inherits."""

EXPORTS = "how-to/opentelemetry:1"
"""The program that wants a collector."""

FLEET = "how-to/fleet-over-valkey:1"
"""The program that wants a Valkey."""


def names(kind: Kind) -> list[str]:
    return [name for name, snippet in SNIPPETS.items() if snippet.kind is kind and name not in (EXPORTS, FLEET)]


def apps_by_process() -> dict[str, list[str]]:
    """Return the apps that may share a process: those of a page, since its imports take most of the time."""
    groups: dict[str, list[str]] = {}
    for name in names(Kind.APP):
        page = SNIPPETS[name].page
        groups.setdefault(name if page in CONFIGURED_ONCE else page, []).append(name)
    return groups


def run(folder: Path, *command: str, **variables: str) -> tuple[str, str]:
    """Run Python in an empty folder, which must end well; return what it says on stdout and on stderr."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(LEFT_OUT)}
    environ = own | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"} | variables
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, env=environ, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, done.stderr


@pytest.mark.processes
@pytest.mark.no_cover
@pytest.mark.parametrize("name", names(Kind.PROGRAM))
def test_a_program_prints_what_its_page_shows(name: str, tmp_path: Path) -> None:
    snippet = SNIPPETS[name]
    assert run(tmp_path, str(snippet.write_to(tmp_path))) == (snippet.output or "", "")


@pytest.mark.processes
@pytest.mark.no_cover
@pytest.mark.parametrize("group", list(apps_by_process()))
def test_the_apps_of_a_page_are_served_and_their_managers_shut_down(group: str, tmp_path: Path) -> None:
    pairs = [(name, str(SNIPPETS[name].write_to(tmp_path))) for name in apps_by_process()[group]]
    printed, _ = run(tmp_path, "-m", "tests.docs.serve", *chain(*pairs))
    for (name, _), line in zip(pairs, printed.splitlines(), strict=True):
        said = json.loads(line)
        answers, created = said.pop("answers"), said.pop("created")
        assert said == {"runs": False, "active": 0, "errors": 0}
        if name in ANSWERS:
            assert (answers, created) == (ANSWERS[name], 1)


@pytest.mark.processes
@pytest.mark.no_cover
def test_the_tests_that_pages_show_pass(tmp_path: Path) -> None:
    files = [str(SNIPPETS[name].write_to(tmp_path)) for name in names(Kind.TESTS)]
    plugins = ("-p", "no:cacheprovider", "-p", "anyio")
    said, _ = run(tmp_path, "-m", "pytest", *plugins, *files, PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")
    assert len(files) == said.count(".py .") > 0  # none is without tests


class Collector(BaseHTTPRequestHandler):
    """Takes what is exported over OTLP, and keeps where it was sent."""

    asked: set[str]

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.asked.add(self.path)
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_request(self, code: object = "-", size: object = "-") -> None:
        """Say nothing."""


@pytest.mark.processes
@pytest.mark.no_cover
def test_the_lines_that_set_opentelemetry_up_export_metrics_and_spans(tmp_path: Path) -> None:
    Collector.asked = set()
    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        endpoint = f"http://127.0.0.1:{server.server_port}"
        said = run(tmp_path, str(SNIPPETS[EXPORTS].write_to(tmp_path)), OTEL_EXPORTER_OTLP_ENDPOINT=endpoint)
        server.shutdown()
    assert (said, Collector.asked) == (("", ""), {"/v1/metrics", "/v1/traces"})


@pytest.fixture
def store() -> Iterator[Program]:
    with program(valkey_program()) as started:
        yield started


def in_a_fleet(folder: Path, store: str) -> tuple[str, str]:
    return run(folder, str(SNIPPETS[FLEET].write_to(folder)), STORE=store, FLEET_SECRET="a secret of 16 bytes")


@pytest.mark.processes
@pytest.mark.no_cover
def test_the_program_of_a_fleet_prints_what_its_page_shows(tmp_path: Path, store: Program) -> None:
    assert in_a_fleet(tmp_path, store.url) == (SNIPPETS[FLEET].output, "")


@pytest.mark.processes
@pytest.mark.no_cover
def test_the_user_that_the_page_on_fleets_shows_may_do_all_that_a_fleet_does(tmp_path: Path, store: Program) -> None:
    (user,) = re.findall(r"^user (\w+ on .+)$", texts()["how-to/fleet-over-valkey"], re.MULTILINE)
    lua = "".join(path.read_text() for path in (ROOT / "otel_sessions/fleet/scripts").glob("*.lua"))
    store.send("ACL", "SETUSER", *user.split())

    assert {f"+{command.lower()}" for command in re.findall(r"redis\.call\('(\w+)'", lua)} <= set(user.split())
    in_a_fleet(tmp_path, store.url.replace("//", "//gateway:PASSWORD@"))
    assert store.send("ACL", "LOG") == []


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
