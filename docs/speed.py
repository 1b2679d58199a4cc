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
    tables = {
        "the peers": _peers(core),
        "the targets": _targets(core),
        "the proxies": _proxies(proxy),
        "the absent": _absent(proxy),
        "the proxy's targets": _proxy_targets(proxy),
        "the workers": _workers(json.loads((_RESULTS / "workers.json").read_text(encoding="utf-8"))),
    }
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


def _proxies(proxy: Any) -> str:
    """Return what each contestant costs, as a multiple of nginx, and its memory."""
    ratios, memory = proxy["ratios"], proxy["memory"]
    names = dict.fromkeys(name for by_name in ratios.values() for name in by_name)
    rows = [
        [
            name,
            *(_ratio(by_name.get(name)) for by_name in ratios.values()),
            *(_mebibytes(memory.get(name), key) for key in ("at_start", "after")),
        ]
        for name in names
    ]
    return table(["CPU time, in nginx", *ratios, "MiB at start", "MiB after"], rows)


def _ratio(found: Any) -> str:
    return "" if found is None else f"{found['median']:,.{0 if found['median'] >= 100 else 1}f}"


def _mebibytes(memory: Any, key: str) -> str:
    return "" if memory is None else f"{memory[key] / 2**20:,.0f}"


def _proxy_targets(proxy: Any) -> str:
    rows = [
        [target["what"], target["wanted"], _found(target["found"]), _emphasized(target["verdict"])]
        for target in proxy["targets"]
    ]
    return table(["what", "wanted", "measured (lowest to highest)", ""], rows)


def _workers(workers: Any) -> str:
    """Return how many requests several workers answer in a CPU second, as a share of one worker's."""
    by_crowd: dict[str, list[str]] = {}
    for target in workers["targets"]:
        _, _, crowd = target["what"].partition(", ")
        measured = _found(target["found"])
        cells = by_crowd.setdefault(f"{crowd} ({target['wanted'].partition(' of ')[0]})", [])
        cells.append(f"**{measured}, missed**" if target["verdict"] == "MISSED" else measured)
    counts = [name for name in workers["rounds"]["clients that keep their connection"] if name != "1"]
    rows = [[crowd, *cells] for crowd, cells in by_crowd.items()]
    return table(["of one worker's", *(f"{count} workers" for count in counts)], rows)


def _found(spread: Any) -> str:
    if spread is None:
        return ""
    if spread["lowest"] == spread["highest"]:
        return _number(spread["median"])
    return f"{_number(spread['median'])} ({_number(spread['lowest'])} to {_number(spread['highest'])})"


def _emphasized(verdict: str) -> str:
    return f"**{verdict.lower()}**" if verdict == "MISSED" else verdict


def _absent(proxy: Any) -> str:
    """Return who took no part, and why."""
    if not proxy["absent"]:
        return "Every peer took part."
    return "\n".join(f"- {name} took no part: {reason}" for name, reason in proxy["absent"].items())


def _number(value: float) -> str:
    """Return it as the table of `make bench` writes it."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"
