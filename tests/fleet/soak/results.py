"""The results of `make soak`: one file, in which each part of a run replaces its own figures."""

import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from .verdict import Verdict

PATH: Final = Path(__file__).parents[3] / "benchmarks" / "results" / "fleet.json"


def read() -> dict[str, Any]:
    """Return all figures that were measured last."""
    return json.loads(PATH.read_text(encoding="utf-8")) if PATH.exists() else {}


def write(part: str, name: str, figures: Mapping[str, Any]) -> None:
    """Keep the figures of one measurement."""
    results = read()
    results["machine"] = {"system": platform.system(), "python": platform.python_version()}
    results.setdefault(part, {})[name] = dict(figures)
    PATH.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def figures(verdict: Verdict) -> dict[str, Any]:
    """Return what is kept of a verdict."""
    return {
        "made": verdict.made,
        "ended": dict(verdict.ended),
        "served": verdict.served,
        "hooks": {str(calls): count for calls, count in verdict.hooks.items()},
        "again": verdict.again,
        "peak": verdict.peak,
        "over": verdict.over,
        "lost": len(verdict.lost),
        "twice": len(verdict.twice),
        "late": len(verdict.late),
        "wrong": list(verdict.wrong),
    }
