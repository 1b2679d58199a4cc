"""The core's results at the largest size as a picture."""

from pathlib import Path

from .contestants import BY_NAME
from .dots import BLUE, GREY, drawn, panel
from .report import ROWS
from .results import OURS, Measured
from .spread import Spread

PANELS = ("touch of M", "create", "expired", "late", "idle pass", "bytes")


def draw(path: Path, measured: Measured) -> None:
    size = max(measured[OURS])
    title = (
        f"At {size:,} live sessions: medians of the rounds, lines from the lowest to the highest. Less is better, "
        "axes are logarithmic, M is the bare dict's get + touch, u is M at 1,000"
    )
    with drawn(path, 2, 3, (13, 6.2), title) as axes:
        for axis, key in zip(axes, PANELS, strict=True):
            what, unit, factor = ROWS[key]
            found = [_found(measured[name][size].get(key), factor, name) for name in BY_NAME]
            panel(axis, f"{what}, {unit}", list(BY_NAME), found)


def _found(values: list[float] | None, factor: float, name: str) -> tuple[Spread | None, str]:
    colour = BLUE if name.startswith(OURS) else GREY
    return (None if values is None else Spread.of([value * factor for value in values]), colour)
