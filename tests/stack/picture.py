"""The picture of the memory claim, from Prometheus's own data."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import matplotlib as mpl
from matplotlib.figure import Figure

Curve = Sequence[tuple[float, float]]

MIB: Final = 1024 * 1024
STYLES: Final = {"bounded": ("#0072b2", "with cleanup and cap"), "leaking": ("#d55e00", "without")}


def draw_memory(path: Path, *, memory: Mapping[str, Curve], created: Mapping[str, Curve]) -> None:
    """Draw both proxies' memory over time, and the sessions that they had created by then."""
    mpl.rcParams["svg.hashsalt"] = "otel-sessions"  # the same curves make the same file
    mpl.rcParams["svg.fonttype"] = "none"
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    left = figure.subplots()
    right = left.twinx()
    for name, curve in memory.items():
        color, label = STYLES[name]
        left.plot(*zip(*((t, size / MIB) for t, size in curve), strict=True), color=color, label=f"memory, {label}")
        right.plot(*zip(*created[name], strict=True), color=color, linestyle=":", label=f"sessions created, {label}")
    left.set(xlabel="time under load (s)", ylabel="resident memory (MiB)", title="Two proxies under the same load")
    left.set_ylim(bottom=0)
    right.set_ylabel("sessions created")
    right.set_ylim(bottom=0)
    left.grid(alpha=0.3)
    lines = [*left.get_lines(), *right.get_lines()]
    left.legend(lines, [str(line.get_label()) for line in lines], loc="upper left", fontsize="small")
    figure.savefig(path, metadata={"Date": None})
