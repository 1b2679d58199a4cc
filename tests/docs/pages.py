"""The programs in the pages and the README: where each stands, and what its page says that it prints."""

import re
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]

_BLOCK: Final = re.compile(
    r"^```python\n(?P<code>.*?)^```\n(?:\n*```text\n(?P<output>.*?)^```$)?", re.DOTALL | re.MULTILINE
)
_FENCE: Final = re.compile(
    r"^[ >\t]*(?:`{3,}|~{3,}|:{3,})[ \t]*(?P<info>[^\n`]*py[^\n`]*)$", re.MULTILINE | re.IGNORECASE
)
_FRAGMENT: Final = re.compile(r"^(?:`{3,}|:{3,})\{code-block\} python\n:class: fragment$", re.MULTILINE)


class Kind(Enum):
    """How a program is run."""

    APP = "served"
    TESTS = "by pytest"
    PROGRAM = "by itself"


@dataclass(frozen=True, kw_only=True, slots=True)
class Snippet:
    """One program: the `number`th of its `page`, counted from 1. `output` is None where the page shows none."""

    page: str
    number: int
    code: str
    output: str | None

    @property
    def name(self) -> str:
        return f"{self.page}:{self.number}"

    @property
    def file_name(self) -> str:
        """A module of its own, which has no package's name."""
        return f"snippet_{re.sub('[^a-z0-9]+', '_', self.name.lower())}.py"

    @property
    def kind(self) -> Kind:
        if self.output is None and re.search(r"^(async )?def test_", self.code, re.MULTILINE):
            return Kind.TESTS
        if self.output is None and re.search(r"^app\b.*=", self.code, re.MULTILINE):
            return Kind.APP
        return Kind.PROGRAM

    def write_to(self, folder: Path) -> Path:
        path = folder / self.file_name
        path.write_text(self.code)
        return path


def snippets_in(page: str, text: str) -> list[Snippet]:
    """Return the programs of a page, in their order."""
    found = enumerate(_BLOCK.finditer(text), start=1)
    return [Snippet(page=page, number=number, code=block["code"], output=block["output"]) for number, block in found]


def blocks_that_escape(text: str) -> list[str]:
    """Return the first lines of blocks that look like Python, and are neither programs nor marked as fragments."""
    programs, fragments = _BLOCK.findall(text), _FRAGMENT.findall(text)
    fences = [fence["info"].strip() for fence in _FENCE.finditer(text)]
    return fences if len(fences) != len(programs) + len(fragments) else []


def texts() -> dict[str, str]:
    """Return every page by its name: its path below docs without the suffix, or README."""
    docs = ROOT / "docs"
    pages = {path.relative_to(docs).with_suffix("").as_posix(): path for path in sorted(docs.rglob("*.md"))}
    return {name: path.read_text() for name, path in {"README": ROOT / "README.md", **pages}.items()}


SNIPPETS: Final = {snippet.name: snippet for page, text in texts().items() for snippet in snippets_in(page, text)}
