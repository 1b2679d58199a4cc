"""What each proxy costs beside nginx, as a picture."""

from pathlib import Path

from benchmarks.dots import BLUE, GREY, drawn, panel
from benchmarks.spread import Spread

from .asked import Workload
from .field import NGINX
from .results import MIB, Measured


def draw(path: Path, measured: Measured) -> None:
    """Write the picture: a panel for each workload, and one for memory."""
    names = measured.names()
    colours = [BLUE if name.startswith("ours") else GREY for name in names]
    title = (
        "CPU time as a multiple of nginx' in the same round, and memory: medians of the rounds, lines from the lowest "
        "to the highest. Less is better, axes are logarithmic"
    )
    with drawn(path, 1, len(Workload) + 1, (15, 4.2), title) as axes:
        for axis, workload in zip(axes, Workload, strict=False):
            found = [measured.ratio(workload, name, NGINX) for name in names]
            panel(axis, f"{workload}, times nginx", names, list(zip(found, colours, strict=True)))
        resident = [_resident(measured, name) for name in names]
        panel(axes[-1], "resident memory, start to end, MiB", names, list(zip(resident, colours, strict=True)))


def _resident(measured: Measured, name: str) -> Spread | None:
    memory = measured.memory.get(name)
    if memory is None:
        return None
    ends = sorted((memory.at_start / MIB, memory.after / MIB))
    return Spread(median=memory.after / MIB, lowest=ends[0], highest=ends[1])
