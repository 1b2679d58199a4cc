"""Prints the records in a sink's files as a table of plain text, which fits in 80 columns.

A terminal gets printable characters only; all other characters in a file are escaped. Memory holds one line at a time,
whatever the size of the file.
"""

import json
import re
import sys
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Final, TextIO

from .records import Record, Skipped, read_records

_STDIN: Final = "-"
_ROW: Final = "{:19} {:16} {:16} {:>6} {:>6} {}"
_TITLE: Final = _ROW.format("ENDED (UTC)", "SESSION", "CLIENT", "LIVED", "USES", "REASON")
_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def show(names: Iterable[str], out: TextIO, *, reasons: Container[str], client: str) -> list[OSError]:
    """Print the records that have one of `reasons` and a client whose hash begins with `client`, and their number.

    The rotated files of one sink are read from the oldest on; `-` is stdin. Return the errors of files that cannot be
    read. Raises what `out` raises.
    """
    unreadable: list[OSError] = []
    skipped: Counter[Skipped] = Counter()
    read = shown = 0
    for item in _items(in_order(list(names)), unreadable):
        if isinstance(item, Skipped):
            skipped[item] += 1
            continue
        read += 1
        if item.reason in reasons and (item.client or "").startswith(client):
            if not shown:
                print(_TITLE, file=out)
            shown += 1
            for line in _lines(item):
                print(printable(line, out.encoding), file=out)
    of = "" if shown == read else f" of {read}"
    lines = f"{skipped[Skipped.TORN]} torn, {skipped[Skipped.FOREIGN]} foreign"
    print(f"records: {shown}{of}; skipped lines: {lines}", file=out)
    return unreadable


def in_order(names: Sequence[str]) -> list[str]:
    """Return file names with the rotated files of one sink together, from the oldest on: `a.2`, `a.1`, `a`."""
    places: dict[str, list[tuple[int, str]]] = {}
    for name in names:
        rotated = re.fullmatch(r"(.+)\.([1-9][0-9]{0,5})", name, re.DOTALL)
        base, place = (rotated[1], int(rotated[2])) if rotated else (name, 0)
        places.setdefault(base, []).append((-place, name))
    return [name for of_base in places.values() for _, name in sorted(of_base)]


def _items(names: Iterable[str], unreadable: list[OSError]) -> Iterator[Record | Skipped]:
    for name in names:
        try:
            with nullcontext(sys.stdin.buffer) if name == _STDIN else Path(name).open("rb") as file:
                yield from read_records(file)
        except OSError as error:
            unreadable.append(error)


def _lines(record: Record) -> Iterator[str]:
    yield _ROW.format(
        f"{record.ended_at:%Y-%m-%d %H:%M:%S}",
        record.session,
        record.client or "-",
        duration(record.duration),
        record.message_count,
        record.reason,
    )
    if record.failure is not None:
        yield f"    failure: {record.failure}"
    if record.description is not None:
        yield f"    {json.dumps(record.description, ensure_ascii=False)}"
    if record.description_error is not None:
        yield f"    no description: {record.description_error}"


def duration(seconds: float) -> str:
    """Return a time in seconds as people read it: 1.5s, 2m05s, 3h07m or 4d12h."""
    if seconds < _MINUTE:
        return f"{int(seconds * 10) / 10}s"
    whole = int(seconds)
    if whole < _HOUR:
        return f"{whole // _MINUTE}m{whole % _MINUTE:02}s"
    if whole < _DAY:
        return f"{whole // _HOUR}h{whole % _HOUR // _MINUTE:02}m"
    return f"{whole // _DAY}d{whole % _DAY // _HOUR:02}h"


def printable(text: str, encoding: str | None) -> str:
    """Return `text` with each character escaped that is not printable or that `encoding` cannot show."""
    if not text.isprintable():
        text = "".join(
            character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
        )
    encoding = encoding or "ascii"
    return text.encode(encoding, "backslashreplace").decode(encoding)
