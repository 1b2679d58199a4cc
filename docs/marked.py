"""Tables in a page between two marks: a program writes them, and the text around them is written by hand."""

from collections.abc import Mapping, Sequence
from typing import Final

_BEGIN: Final = "<!-- {}: written by `make settings`; a change here is lost. -->"
_END: Final = "<!-- the end of {} -->"


def replaced(text: str, tables: Mapping[str, str]) -> str:
    """Return a page with each table between its marks. Raises `ValueError` if the page lacks the marks of a table."""
    for name, table in tables.items():
        begin, end = _BEGIN.format(name), _END.format(name)
        before, found, rest = text.partition(begin)
        _, found_end, after = rest.partition(end)
        if not (found and found_end):
            raise ValueError(f"the page lacks the lines {begin!r} and {end!r}")
        text = f"{before}{begin}\n\n{table}\n\n{end}{after}"
    return text


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
