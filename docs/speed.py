"""The tables of the page on speed, from the results that the benchmarks have written."""

import json
from pathlib import Path
from statistics import median
from typing import Any, Final

from .marked import replaced, table

PATH: Final = Path(__file__).parent / "project" / "speed.md"

_RESULTS: Final = Path(__file__).parents[1] / "benchmarks" / "results"
_AGAINST: Final = "touch(id) against "
"""How the targets begin that are ratios to a peer."""
_USES: Final = {
    "otel-sessions": "`touch`, in one step",
    "cachebox VTTLCache": "cachebox's `VTTLCache`",
    "moka-py, idle": "moka-py",
    "cachetools TTLCache": "cachetools' `TTLCache`",
    "cachebox TTLCache": "cachebox's `TTLCache`, which removes nothing that is due behind a session in use",
    "full scan": "the control: the same code as the bare dict",
}


def page() -> str:
    """Return the page as it should be now."""
    core = json.loads((_RESULTS / "core.json").read_text(encoding="utf-8"))
    proxy = json.loads((_RESULTS / "proxy.json").read_text(encoding="utf-8"))
    tables = {"the peers": _peers(core), "the targets": _targets(core), "the proxy": _proxy(proxy)}
    return replaced(PATH.read_text(encoding="utf-8"), tables)


def _peers(core: Any) -> str:
    measured = core["measured"]
    sizes = list(measured["otel-sessions"])
    rows = []
    for name, title in _USES.items():
        key = "touch of M" if name == "otel-sessions" else "use of M"
        rows.append([title, *(_number(median(measured[name][size][key])) for size in sizes)])
    return table(["one use of a session, in M", *(f"{int(size):,} live" for size in sizes)], rows)


def _targets(core: Any) -> str:
    sizes = sorted({target["size"] for target in core["targets"]})
    found: dict[tuple[str, str], dict[int, str]] = {}
    for target in core["targets"]:
        if not target["what"].startswith(_AGAINST):
            cells = found.setdefault((target["what"], target["unit"]), {})
            cells[target["size"]] = _cell(target["measured"]["median"], target["limit"])
    rows = [[what, unit, *(cells.get(size, "") for size in sizes)] for (what, unit), cells in found.items()]
    return table(["what", "unit", *(f"{size:,} live" for size in sizes)], rows)


def _cell(measured: float, limit: float) -> str:
    """Return a target as it was met, or, in bold, as it was missed."""
    return f"{_number(measured)} ≤ {limit:,g}" if measured <= limit else f"**{_number(measured)} > {limit:,g}**"


def _proxy(proxy: Any) -> str:
    sessions, nginx = proxy["sessions"], median(each["cpu"] for each in proxy["rounds"]["nginx"])
    return table(
        ["CPU of one request", "microseconds"],
        [
            ["the proxy, in a session", f"{sessions['request'] * 1e6:.0f}"],
            ["of it, what the session costs", f"{sessions['median'] * 1e6:.0f}"],
            [
                "the same, with 95 % certainty between",
                f"{sessions['least'] * 1e6:.0f} and {sessions['most'] * 1e6:.0f}",
            ],
            ["an nginx in the same rounds", f"{nginx * 1e6:.0f}"],
        ],
    )


def _number(value: float) -> str:
    """Return it as the table of `make bench` writes it."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"
