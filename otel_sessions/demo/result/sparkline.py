"""Curves made of characters: numbers in, rows of text out. Pure."""

from collections.abc import Iterable, Sequence
from typing import Final

_EIGHTHS: Final = " ▁▂▃▄▅▆▇█"
FULL: Final = _EIGHTHS[-1]


def binned(points: Iterable[tuple[float, float]], end: float, width: int) -> list[float | None]:
    """Return `width` values for the stretch from 0 to `end`: of each part's points the largest, None where none is yet.

    A part without a point of its own between others has the value before it.
    """
    bins: list[float | None] = [None] * width
    reached = 0
    for place, value in points:
        index = min(width - 1, int(place / end * width))
        found = bins[index]
        bins[index] = value if found is None else max(found, value)
        reached = max(reached, index)
    for index in range(1, reached + 1):
        if bins[index] is None:
            bins[index] = bins[index - 1]
    return bins


def sparkline(values: Sequence[float | None], top: float, height: int) -> list[str]:
    """Return rows from the top down, a character a value: 0 is empty, `top` fills all of them, None shows nothing."""
    levels = [0 if value is None else _level(value, top, height * 8) for value in values]
    return ["".join(_EIGHTHS[min(8, max(0, level - row * 8))] for level in levels) for row in reversed(range(height))]


def meter(value: float, top: float, width: int) -> tuple[str, str]:
    """Return a bar of `width` characters, as what of it is full and what is left; nothing where `top` is 0."""
    if not top:
        return "", ""
    width = max(0, width)
    full = min(width, round(value / top * width))
    return "━" * full, "━" * (width - full)


def _level(value: float, top: float, most: int) -> int:
    """Return the level out of so many; something is never shown as nothing."""
    if value <= 0 or top <= 0:
        return 0
    return max(1, min(most, round(value / top * most)))
