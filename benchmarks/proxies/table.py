"""A run of the proxy's benchmark for people: tables, and each target met or missed; and for programs: JSON."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.spread import Spread

from .asked import Workload
from .field import NGINX
from .results import MIB, Measured, targets


def tables(measured: Measured) -> Iterator[str]:
    """Yield the lines: CPU time by workload, memory, sessions, the targets, and who is absent."""
    for workload, by_name in measured.rounds.items():
        yield ""
        yield f"{workload:<24}{'a second':>10}{'p50 ms':>9}{'p99 ms':>9}{'CPU us each':>22}{'times nginx':>22}"
        for name in by_name:
            yield _line(measured, workload, name)
    yield from _memory(measured)
    yield ""
    yield f"{len(measured.pairs)} pairs of rounds; u was {measured.u * 1e9:.0f} ns"
    yield from measured.cost.lines()
    yield from _verdicts(measured)
    for name, reason in measured.absent.items():
        yield f"{name} took no part: {reason}"


def _line(measured: Measured, workload: Workload, name: str) -> str:
    rounds = measured.rounds[workload][name]
    rate = Spread.of([one.rate for one in rounds]).median
    p50, p99 = _milliseconds([one.p50 for one in rounds]), _milliseconds([one.p99 for one in rounds])
    cpu = Spread.of([one.cpu * 1e6 for one in rounds])
    ratio = measured.ratio(workload, name, NGINX)
    return f"  {name:<22}{rate:>10.0f}{p50:>9}{p99:>9}{_short(cpu):>22}{_short(ratio):>22}"


def _milliseconds(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{Spread.of(known).median * 1e3:.2f}" if known else "-"


def _short(spread: Spread | None) -> str:
    if spread is None:
        return "-"
    low, middle, high = (
        f"{value:.{0 if value >= 100 else 1}f}" for value in (spread.lowest, spread.median, spread.highest)
    )
    return f"{middle} ({low}-{high})"


def _memory(measured: Measured) -> Iterator[str]:
    yield ""
    yield f"{'resident, MiB':<24}{'at start':>10}{'after':>9}"
    for name, memory in measured.memory.items():
        yield f"  {name:<22}{memory.at_start / MIB:>10.1f}{memory.after / MIB:>9.1f}"
    for mark, size in measured.abandoned.items():
        yield f"  ours, after {mark:,} abandoned sessions: {size / MIB:.1f}"


def _verdicts(measured: Measured) -> Iterator[str]:
    yield ""
    for target in targets(measured):
        yield f"{target.verdict:<34}{target.what:<42}{target.wanted:<28}{target.found or ''}"


def write_json(path: Path, measured: Measured, machine: dict[str, Any], how: dict[str, Any]) -> None:
    """Write every round, the targets, and how it was measured, on what."""
    sessions = measured.cost
    document = {
        "machine": machine,
        **how,
        "targets": [asdict(target) for target in targets(measured)],
        "absent": dict(measured.absent),
        "sessions": {**asdict(sessions), "share": sessions.share, "u": measured.u},
        "ratios": {
            workload: {name: asdict(spread) for name in by_name if (spread := measured.ratio(workload, name, NGINX))}
            for workload, by_name in measured.rounds.items()
        },
        "memory": {name: asdict(memory) for name, memory in measured.memory.items()},
        "abandoned": {str(mark): size for mark, size in measured.abandoned.items()},
        "rounds": {
            workload: {name: [asdict(one) for one in rounds] for name, rounds in by_name.items()}
            for workload, by_name in measured.rounds.items()
        },
        "pairs": [asdict(pair) for pair in measured.pairs],
    }
    path.write_text(json.dumps(document, indent=1) + "\n")
