"""The tables of the page on the fault matrix, from the results that `make soak` has written."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from .marked import replaced, table

PATH: Final = Path(__file__).parent / "project" / "faults.md"

_RESULTS: Final = Path(__file__).parents[1] / "benchmarks" / "results" / "fleet.json"


def page() -> str:
    """Return the page as it should be now."""
    results = json.loads(_RESULTS.read_text(encoding="utf-8"))
    tables = {
        "the rows": _rows(results["rows"]),
        "many sessions": _many(results["sessions"]),
        "the store's cost": _records(results["records"]),
        "the creates": _creates(results["creates"]),
    }
    return replaced(PATH.read_text(encoding="utf-8"), tables)


_COLUMNS: Final = ("made", "ended by reason", "hooks", "lost", "twice", "after a claim", "over the cap")


def _rows(rows: Mapping[str, Any]) -> str:
    lines = []
    for name, row in rows.items():
        server, _, fault = name.partition(": ")
        figures = [f"skipped: {row['skipped']}"] + [""] * 6 if "skipped" in row else _figures(row)
        lines.append([fault, server, *figures])
    order = list(dict.fromkeys(line[0] for line in lines))
    return table(("fault", "store", *_COLUMNS), sorted(lines, key=lambda line: order.index(line[0])))


def _many(rows: Mapping[str, Any]) -> str:
    return table(("fault", *_COLUMNS), [[name, *_figures(row)] for name, row in rows.items()])


def _figures(row: Mapping[str, Any]) -> list[str]:
    ended = ", ".join(f"{reason} {count:,}" for reason, count in row["ended"].items())
    hooks = ", ".join(f"{count:,} ran {calls} times" for calls, count in row["hooks"].items()) or "0"
    return [f"{row['made']:,}", ended, hooks, *(f"{row[key]:,}" for key in ("lost", "twice", "late", "over"))]


def _records(costs: Mapping[str, Any]) -> str:
    columns = ("store", "records", "bytes a session", "scripts a second", "share of a core", "microseconds a script")
    return table(
        columns,
        [
            [
                server,
                f"{cost['records']:,}",
                f"{cost['bytes_each']:.0f}",
                f"{cost['scripts_each_second']:,.0f}",
                f"{cost['share_of_a_core']:.1%}",
                f"{cost['microseconds_each']:.0f}",
            ]
            for server, cost in costs.items()
        ],
    )


def _creates(all_times: Mapping[str, Any]) -> str:
    columns = ("store", "alone, median", "alone, p99", "with a fleet, median", "with a fleet, p99")
    keys = ("alone_median", "alone_p99", "fleet_median", "fleet_p99")
    return table(columns, [[server, *(f"{times[key]:,.0f} µs" for key in keys)] for server, times in all_times.items()])
