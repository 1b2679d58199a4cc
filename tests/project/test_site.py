"""What the documentation site says is what the code says, and in plain words."""

import asyncio
import inspect
import re
import shlex
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

from docs import faults, settings, signals, speed
from otel_sessions import JsonLinesSink, SessionManager, fingerprint
from otel_sessions._core import exceptions
from otel_sessions._core.events import Event
from otel_sessions.cli import main
from tests.processes import ROOT

DOCS = ROOT / "docs"
FOLDERS = ("start", "concepts", "reference", "project")
PROSE = [
    *(ROOT / name for name in ("README.md", "SECURITY.md", "docs/index.md")),
    *(page for folder in FOLDERS for page in sorted((DOCS / folder).glob("*.md"))),
]
MOST_WORDS = 25
COMMANDS = [("demo",), ("load",), ("export", "show"), ("sessions",), ("close",), ("cleanup",), ("stats",)]


@pytest.mark.parametrize("written", [faults, settings, signals, speed], ids=lambda module: module.__name__)
def test_the_tables_of_a_page_say_what_there_is_so_run_make_settings(written: ModuleType) -> None:
    assert written.PATH.read_text(encoding="utf-8") == written.page()


def test_every_event_name_of_a_log_line_is_on_the_page_of_signals() -> None:
    page = signals.PATH.read_text(encoding="utf-8")

    assert [event for event in Event if f"| `{event}` |" not in page] == []


@pytest.mark.parametrize(
    "home",
    [
        "otel_sessions",
        "otel_sessions.admin",
        "otel_sessions.asgi",
        "otel_sessions.matchers",
        "otel_sessions.proxy",
        "otel_sessions.testing",
    ],
)
def test_every_public_name_is_in_the_reference(home: str) -> None:
    pages = "".join(page.read_text(encoding="utf-8") for page in (DOCS / "reference").glob("*.md"))
    documented = set(re.findall(r"^ *\.\. (?:auto|py:)[a-z]+:: (\w+)", pages, re.MULTILINE))
    assert [name for name in public_names(home) if name not in documented] == []


def public_names(home: str) -> list[str]:
    module = import_module(home)
    own = [name for name, value in vars(module).items() if getattr(value, "__module__", "") == home]
    return [name for name in getattr(module, "__all__", own) if not name.startswith("_")]


def test_the_tree_of_errors_is_that_of_the_code() -> None:
    tree = re.search(r"```text\n(.*?)```", (DOCS / "reference" / "errors.md").read_text(encoding="utf-8"), re.DOTALL)
    assert tree is not None
    shown = re.findall(r"^(?:[├└]── )?(\w+)", tree[1], re.MULTILINE)
    errors = [name for name, value in vars(exceptions).items() if isinstance(value, type) and value.__name__ == name]
    assert sorted(shown) == sorted(set(errors) - {"EndReason", "RejectionReason"})


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_the_page_of_the_command_line_names_every_flag(
    command: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([*command, "--help"])
    page = (DOCS / "reference" / "command-line.md").read_text(encoding="utf-8")
    _, _, chapter = page.partition(f"## `otel-sessions {' '.join(command)}`")
    flags = set(re.findall(r"^  (--[a-z-]+)", capsys.readouterr().out, re.MULTILINE))
    assert flags
    assert set(re.findall(r"^\| `(--[a-z-]+)", chapter.partition("\n## ")[0], re.MULTILINE)) == flags


def test_the_commands_that_show_records_work_as_they_stand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    asyncio.run(leave_a_record())
    Path("sessions.jsonl.1").touch()
    page = (DOCS / "reference" / "command-line.md").read_text(encoding="utf-8")
    commands = re.findall(r"^otel-sessions (export show .*)$", page, re.MULTILINE)
    assert len(commands) == 3
    for command in commands:
        own = command.replace("$(printf %s 10.0.0.7 | b2sum -l 64 | cut -c -16)", fingerprint("10.0.0.7"))
        assert main(shlex.split(own)) == 0
        title, row, failure, summary = capsys.readouterr().out.splitlines()
        assert (title.split()[-1], row.split()[-1], summary.split(";")[0]) == ("REASON", "failed", "records: 1")
        assert failure == "    failure: upstream hung up"


async def leave_a_record() -> None:
    """Leave the record of a failed session of a client."""
    async with JsonLinesSink[None]("sessions.jsonl") as sink, SessionManager(sink=sink) as manager:
        session = await manager.create_session(client="10.0.0.7")
        session.fail("upstream hung up")


@pytest.mark.parametrize("page", PROSE, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_sentence_of_a_page_is_too_long_to_be_read_once(page: Path) -> None:
    long = [sentence for sentence in sentences(page.read_text(encoding="utf-8")) if words(sentence) > MOST_WORDS]
    assert long == []


@pytest.mark.parametrize(
    ("home", "name"),
    [(home, name) for home in ("otel_sessions", "otel_sessions.testing") for name in public_names(home)],
)
def test_no_sentence_of_a_docstring_in_the_reference_is_too_long(home: str, name: str) -> None:
    value = getattr(import_module(home), name)
    members = [member for key, member in vars(value).items() if key[0] != "_"] if isinstance(value, type) else []
    texts = [inspect.getdoc(one) or "" for one in (value, *members) if is_ours(one)]
    long = [sentence for text in texts for sentence in sentences(text) if words(sentence) > MOST_WORDS]
    assert long == []


def is_ours(value: object) -> bool:
    return getattr(inspect.unwrap(getattr(value, "fget", value)), "__module__", "").startswith("otel_sessions")  # type: ignore[arg-type]


def sentences(text: str) -> Iterator[str]:
    """Yield the sentences of a page's paragraphs and lists, without code, tables, headings and the targets of links."""
    text = re.sub(r"^```.*?^```$|<!--.*?-->|^    .*?$", "\n", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"\]\([^)]*\)", "]", text)
    for paragraph in re.split(r"\n\s*\n|\n(?=\s*(?:- |\d+\. |#|\||: |> ))", text):
        if not paragraph.strip().startswith(("|", "#", "![")):
            yield from re.split(r"(?<=[.!?:;])[*\s]+", paragraph.strip())


def words(sentence: str) -> int:
    return sum(1 for word in sentence.split() if re.search(r"\w", word))
