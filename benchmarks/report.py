"""A run's results for people: the table, and each target met or missed; and for programs: JSON."""

import json
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .contestants import ALL
from .dots import number
from .results import CONTROL, OURS, Measured, Target, Values, lateness, price_of_a_record, spread_of
from .spread import Spread

ROWS = {
    "touch of M": ("touch in one step", "M", 1.0),
    "use of M": ("get + touch", "M", 1.0),
    "create of M": ("create, given id", "bare", 1.0),
    "u": ("u", "ns", 1e9),
    "create": ("create from none", "u", 1.0),
    "churn": ("create and end", "u", 1.0),
    "pin": ("pin", "u", 1.0),
    "hold": ("hold", "u", 1.0),
    "lease": ("lease", "u", 1.0),
    "middleware": ("middleware, bare app", "u", 1.0),
    "bare app": ("bare app alone", "u", 1.0),
    "idle pass": ("a pass, nothing due", "u", 1.0),
    "expired": ("a pass, each expired", "u", 1.0),
    "filed anew": ("a pass, each in use", "u", 1.0),
    "late": ("loop late meanwhile", "ms", 1e3),
    "late alone": ("loop late, spinning", "ms", 1e3),
    "bytes": ("memory a session", "B", 1.0),
    "refusal": ("refusal at the cap", "u", 1.0),
    "export": ("export", "u", 1.0),
}
WITH_SPREAD = ("touch of M", "use of M")
EXPLAINED = (
    "medians (lowest to highest); M is get + touch of the bare dict with as many live sessions, u is M at 1,000, "
    "both by turns in the same process"
)


def table(measured: Measured) -> Iterator[str]:
    """Return the lines of the table: every number's median, and how far the ratios to the bare dict lie apart."""
    for size in measured[OURS]:
        yield ""
        first, second = zip(*(name.replace(",", "").partition(" ")[::2] for name in measured), strict=True)
        yield f"{'':<26}{_cells(first)}"
        yield f"{f'{size:,} live sessions':<26}{_cells(second)}"
        for key, (title, unit, factor) in ROWS.items():
            numbers = (sizes[size].get(key) for sizes in measured.values())
            yield f"{f'{title}, {unit}':<26}{_cells(_shown(values, factor) for values in numbers)}"
            if key in WITH_SPREAD:
                ends = (spread_of(measured, name, size, key).ends for name in measured)
                yield f"{'  lowest to highest':<26}{_cells(ends)}"
    yield ""
    for kind in ALL:
        yield from textwrap.wrap(f"{kind.name}: {kind.caveat}", 140, subsequent_indent="  ") if kind.caveat else ()


def _cells(texts: Iterable[str]) -> str:
    return "".join(f"{text:>15}" for text in texts)


def _shown(values: Values | None, factor: float) -> str:
    if values is None:
        return "-"
    return number(Spread.of(values).median * factor)


def verdicts(targets: list[Target], measured: Measured) -> Iterator[str]:
    """Return a line for each target."""
    yield ""
    for target in targets:
        verdict = "met" if target.met else "MISSED"
        found = f"at most {target.limit:<6g} {target.measured} {target.unit}"
        yield f"{verdict:<7}{target.what:<44}{target.size:>10,}  {found}"
    for size in measured[OURS]:
        control = f"{spread_of(measured, CONTROL, size, 'use of M')} M: off 1 by as much as these ratios err"
        yield _remark(f"get + touch of the {CONTROL}", size, control)
        price = price_of_a_record(measured, size)
        yield _remark("the SDK makes an expired session dearer", size, f"by {price} u")
        late, alone = lateness(measured, OURS, size), spread_of(measured, OURS, size, "late alone")
        yield _remark("the loop is late, of spinning", size, f"{late} times {alone.median * 1e3:.2f} ms")
    missed = sum(not target.met for target in targets)
    yield f"{len(targets) - missed} targets met, {missed} missed"


def _remark(what: str, size: int, found: str) -> str:
    return f"{'':<7}{what:<44}{size:>10,}  {found}"


def write_json(path: Path, measured: Measured, targets: list[Target], machine: dict[str, Any]) -> None:
    """Write every round."""
    document = {
        "machine": machine,
        "caveats": {kind.name: kind.caveat for kind in ALL if kind.caveat},
        "targets": [{**asdict(target), "met": target.met} for target in targets],
        "measured_in": "u an operation, but for multiples of what the bare dict of that size takes (of M), seconds (u, "
        "late, late alone) and bytes a session (bytes)",
        "measured": measured,
    }
    path.write_text(json.dumps(document, indent=1) + "\n")
