"""A run's results for people: the table, with each target met or missed, and the picture; and for programs: JSON."""

import json
import os
import platform
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot

from .contestants import ALL, BY_NAME
from .results import BARE, OURS, Measured, Spread, Target, Values, price_of_a_record, ratios

ROWS = {
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
    """Return the lines of the table: every number's median, get + touch as a multiple of the bare dict's as well."""
    for size in measured[OURS]:
        yield ""
        first, second = zip(*(name.replace(",", "").partition(" ")[::2] for name in measured), strict=True)
        yield f"{'':<24}{_cells(first)}"
        yield f"{f'{size:,} live sessions':<24}{_cells(second)}"
        yield f"{'get + touch, of M':<24}{_cells(_of_bare(measured, size))}"
        for key, (title, unit, factor) in ROWS.items():
            numbers = (sizes[size].get(key) for sizes in measured.values())
            yield f"{f'{title}, {unit}':<24}{_cells(_shown(values, factor) for values in numbers)}"
    yield ""
    yield from (f"{kind.name}: {kind.caveat}" for kind in ALL if kind.caveat)


def _of_bare(measured: Measured, size: int) -> Iterator[str]:
    return (f"{ratios(measured, size, 'use', name, BARE).median:.2f}" for name in measured)


def _cells(texts: Iterable[str]) -> str:
    return "".join(f"{text:>15}" for text in texts)


def _shown(values: Values | None, factor: float) -> str:
    if values is None:
        return "-"
    return _number(Spread.of(values).median * factor)


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.2f}"


def verdicts(targets: list[Target], measured: Measured) -> Iterator[str]:
    """Return a line for each target."""
    yield ""
    for target in targets:
        spread = target.measured
        lies = f"{spread.median:.2f} ({spread.lowest:.2f} to {spread.highest:.2f}) {target.unit}"
        verdict = "met" if target.met else "MISSED"
        yield f"{verdict:<7}{target.what:<40}{target.size:>10,}  at most {target.limit:<6g} {lies}"
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
        "seconds_or_bytes": measured,
    }
    path.write_text(json.dumps(document, indent=1) + "\n")


def draw(path: Path, measured: Measured) -> None:
    """Draw the medians at the largest size, with the lowest and the highest round."""
    size = max(measured[OURS])
    panels = ("use", "create", "expired", "late", "idle pass", "bytes")
    with matplotlib.rc_context({"svg.hashsalt": "otel-sessions", "font.size": 9}):
        figure, axes = pyplot.subplots(2, 3, figsize=(13, 6.2), layout="constrained")
        for axis, key in zip(axes.flat, panels, strict=True):
            _panel(axis, measured, size, key)
        figure.suptitle(f"At {size:,} live sessions, medians and spread of rounds; less is better, logarithmic")
        figure.savefig(path, metadata={"Date": None})
        pyplot.close(figure)


def _panel(axis: Any, measured: Measured, size: int, key: str) -> None:
    title, unit, factor = ROWS[key]
    names = [name for name in reversed(BY_NAME) if name in measured and key in measured[name][size]]
    spreads = [Spread.of([value * factor for value in measured[name][size][key]]) for name in names]
    axis.barh(
        names,
        [spread.median for spread in spreads],
        xerr=[
            [spread.median - spread.lowest for spread in spreads],
            [spread.highest - spread.median for spread in spreads],
        ],
        color=["#3b6ea8" if name.startswith(OURS) else "#b9c0c8" for name in names],
        error_kw={"elinewidth": 1, "ecolor": "#555555"},
    )
    axis.set_xscale("log")
    axis.xaxis.set_minor_formatter("")  # crowded
    axis.set_title(f"{title}, {unit}")
    for place, spread in enumerate(spreads):
        axis.annotate(f" {_number(spread.median)}", (spread.highest, place), va="center")
    axis.margins(x=0.2)
    axis.spines[["top", "right"]].set_visible(False)
