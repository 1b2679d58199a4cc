"""A run's results for people: the table, and each target met or missed; and for programs: JSON."""

import json
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .contestants import ALL
from .results import CONTROL, OURS, Measured, Spread, Target, Values, of_bare, price_of_a_record

ROWS = {
    "use of M": ("get + touch", "M", 1.0),
    "use": ("get + touch", "ns", 1e9),
    "create": ("create", "us", 1e6),
    "churn": ("create and end", "us", 1e6),
    "idle pass": ("a pass, nothing due", "us", 1e6),
    "expired": ("a pass, each expired", "us", 1e6),
    "filed anew": ("a pass, each in use", "us", 1e6),
    "late": ("loop late meanwhile", "ms", 1e3),
    "late alone": ("loop late, spinning", "ms", 1e3),
    "bytes": ("memory a session", "B", 1.0),
    "refusal": ("refusal at the cap", "us", 1e6),
    "export": ("export", "ms", 1e3),
}


def table(measured: Measured) -> Iterator[str]:
    """Return the lines of the table: every number's median, and how far the ratios to the bare dict lie apart."""
    for size in measured[OURS]:
        yield ""
        first, second = zip(*(name.replace(",", "").partition(" ")[::2] for name in measured), strict=True)
        yield f"{'':<24}{_cells(first)}"
        yield f"{f'{size:,} live sessions':<24}{_cells(second)}"
        for key, (title, unit, factor) in ROWS.items():
            numbers = (sizes[size].get(key) for sizes in measured.values())
            yield f"{f'{title}, {unit}':<24}{_cells(_shown(values, factor) for values in numbers)}"
            if key == "use of M":
                yield f"{'  lowest to highest':<24}{_cells(of_bare(measured, size, name).ends for name in measured)}"
    yield ""
    for kind in ALL:
        yield from textwrap.wrap(f"{kind.name}: {kind.caveat}", 140, subsequent_indent="  ") if kind.caveat else ()


def _cells(texts: Iterable[str]) -> str:
    return "".join(f"{text:>15}" for text in texts)


def _shown(values: Values | None, factor: float) -> str:
    if values is None:
        return "-"
    return number(Spread.of(values).median * factor)


def number(value: float) -> str:
    """Return it as the table and the picture write it."""
    return f"{value:.0f}" if value >= 100 else f"{value:.2f}"


def verdicts(targets: list[Target], measured: Measured) -> Iterator[str]:
    """Return a line for each target."""
    yield ""
    for target in targets:
        verdict = "met" if target.met else "MISSED"
        found = f"at most {target.limit:<6g} {target.measured} {target.unit}"
        yield f"{verdict:<7}{target.what:<40}{target.size:>10,}  {found}"
    for size in measured[OURS]:
        control = f"{of_bare(measured, size, CONTROL)} M: off 1 by as much as these ratios err"
        yield f"{'':<7}{f'get + touch of the {CONTROL}':<40}{size:>10,}  {control}"
    for size in measured[OURS]:
        price = price_of_a_record(measured, size)
        yield f"{'':<7}{'the SDK makes an expired session dearer':<40}{size:>10,}  by {price.median:.2f} us"
    for size in measured[OURS]:
        alone = Spread.of([1e3 * value for value in measured[OURS][size]["late alone"]])
        yield f"{'':<7}{'the loop is late when it only spins':<40}{size:>10,}  by {alone.median:.2f} ms"
    missed = sum(not target.met for target in targets)
    yield f"{len(targets) - missed} targets met, {missed} missed"


def write_json(path: Path, measured: Measured, targets: list[Target], machine: dict[str, Any]) -> None:
    """Write every round."""
    document = {
        "machine": machine,
        "caveats": {kind.name: kind.caveat for kind in ALL if kind.caveat},
        "targets": [{**asdict(target), "met": target.met} for target in targets],
        "measured_in": "seconds; bytes a session (bytes); multiples of the bare dict's get and touch (use of M)",
        "measured": measured,
    }
    path.write_text(json.dumps(document, indent=1) + "\n")
