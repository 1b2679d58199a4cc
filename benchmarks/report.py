"""A run's results for people: the table, and each target met or missed; and for programs: JSON."""

import json
import os
import platform
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from importlib.metadata import version
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
PACKAGES = ("cachebox", "cachetools", "moka-py", "anyio", "opentelemetry-api", "opentelemetry-sdk")
"""Whose versions belong to the numbers."""


def machine() -> dict[str, Any]:
    """Describe what it was measured on, without a name or a path of it."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        **{name: version(name) for name in PACKAGES},
    }


def _processor() -> str:
    cpus = Path("/proc/cpuinfo")
    lines = cpus.read_text().splitlines() if cpus.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


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
                yield f"{'  lowest to highest':<24}{_cells(_lies(of_bare(measured, size, name)) for name in measured)}"
    yield ""
    yield from (f"{kind.name}: {kind.caveat}" for kind in ALL if kind.caveat)


def _lies(spread: Spread) -> str:
    return f"{spread.lowest:.2f} to {spread.highest:.2f}"


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
        spread = target.measured
        verdict = "met" if target.met else "MISSED"
        found = f"{spread.median:.2f} ({_lies(spread)}) {target.unit}"
        yield f"{verdict:<7}{target.what:<40}{target.size:>10,}  at most {target.limit:<6g} {found}"
    for size in measured[OURS]:
        control = of_bare(measured, size, CONTROL)
        lies = f"{control.median:.2f} ({_lies(control)}) M: off 1 by as much as these ratios err"
        yield f"{'':<7}{f'get + touch of the {CONTROL}':<40}{size:>10,}  {lies}"
    for size in measured[OURS]:
        price = price_of_a_record(measured, size)
        yield f"{'':<7}{'the SDK makes an expired session dearer':<40}{size:>10,}  by {price.median:.2f} us"
    for size in measured[OURS]:
        alone = Spread.of([1e3 * value for value in measured[OURS][size]["late alone"]])
        yield f"{'':<7}{'the loop is late when it only spins':<40}{size:>10,}  by {alone.median:.2f} ms"
    missed = sum(not target.met for target in targets)
    yield f"{len(targets) - missed} targets met, {missed} missed"


def write_json(path: Path, measured: Measured, targets: list[Target], rounds: int) -> None:
    document = {
        "machine": machine(),
        "rounds": rounds,
        "caveats": {kind.name: kind.caveat for kind in ALL if kind.caveat},
        "targets": [{**asdict(target), "met": target.met} for target in targets],
        "measured_in": "seconds; bytes a session (bytes); multiples of the bare dict's get and touch (use of M)",
        "measured": measured,
    }
    path.write_text(json.dumps(document, indent=1) + "\n")
