"""The claim itself, read out of Prometheus: memory is bounded under any load, and without cleanup it is not."""

import time
from itertools import pairwise
from pathlib import Path

import pytest

from .backends import Stack
from .conftest import Comparison
from .picture import draw_memory

pytestmark = pytest.mark.stack

Curve = list[tuple[float, float]]

MEMORY = "process_memory_usage_bytes"


def curve(stack: Stack, comparison: Comparison, metric: str, instance: str) -> Curve:
    """Return a metric of one proxy over the run: seconds since its start, value."""
    query = f'{metric}{{instance="{instance}"}}'
    (points,) = stack.series(query, comparison.start, comparison.end).values()
    return [(when - comparison.start, size) for when, size in points]


def at(points: Curve, share: float, comparison: Comparison) -> float:
    """Return the memory when a share of the run was over."""
    wanted = share * (comparison.end - comparison.start)
    return min(points, key=lambda point: abs(point[0] - wanted))[1]


def test_the_load_made_twenty_times_as_many_sessions_as_the_cap(comparison: Comparison) -> None:
    assert comparison.created >= 20 * comparison.cap


def test_memory_grows_by_less_than_a_tenth_after_the_first_tenth_of_the_run(
    stack: Stack, comparison: Comparison
) -> None:
    memory = curve(stack, comparison, MEMORY, "bounded")
    early = at(memory, 0.1, comparison)
    length = comparison.end - comparison.start

    assert max(size for when, size in memory if when > 0.1 * length) < 1.1 * early


def test_without_cleanup_memory_grows_all_the_time(stack: Stack, comparison: Comparison) -> None:
    memory = curve(stack, comparison, MEMORY, "leaking")
    sizes = [at(memory, share, comparison) for share in (0.1, 0.4, 0.7, 1.0)]

    for before, after in pairwise(sizes):
        assert after > 1.1 * before
    assert sizes[-1] > 2 * max(size for _, size in curve(stack, comparison, MEMORY, "bounded"))


def test_the_picture_of_both_curves_is_drawn(stack: Stack, comparison: Comparison, report: Path) -> None:
    began = time.time()
    path = report / "memory.svg"
    created = "otel_sessions_session_created_total"

    draw_memory(
        path,
        memory={instance: curve(stack, comparison, MEMORY, instance) for instance in ("bounded", "leaking")},
        created={instance: curve(stack, comparison, created, instance) for instance in ("bounded", "leaking")},
    )

    assert path.stat().st_mtime >= began - 1
    assert path.read_text().count("<svg") == 1
