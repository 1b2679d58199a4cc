"""The first screen of "Sessions", drawn from what the real Prometheus answers: `make stack-gallery`.

Two proxies are under the same load, and the one without cleanup and cap is killed at a memory limit, as in Compose.
"""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tests.waiting import until

from .backends import Stack
from .conftest import start_load, start_proxy
from .gallery import Mark, Series, draw_screen
from .queries import DASHBOARDS, EVERYTHING, filled, first_screen

pytestmark = [pytest.mark.stack, pytest.mark.gallery]

MEMORY_LIMIT = 192
"""In MiB: where the twin is killed."""
WINDOW = "30s"


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What a picture shows: which instances, and of which time."""

    stack: Stack
    instance: str
    start: float
    end: float

    def ask(self, target: Mapping[str, Any]) -> list[Series]:
        chosen = {"instance": self.instance, "collector": "otel-collector", "window": WINDOW}
        values = EVERYTHING | chosen | {"memory_limit": str(MEMORY_LIMIT)}
        text = filled(target["expr"], values)
        if target.get("instant"):
            rows = self.stack.ask("query", query=text, time=f"{self.end:.3f}")["result"]
            return [Series(labels=row["metric"], points=_numbers([row["value"]])) for row in rows]
        start, end = f"{self.start:.3f}", f"{self.end:.3f}"
        rows = self.stack.ask("query_range", query=text, start=start, end=end, step=1.0)["result"]
        return [Series(labels=row["metric"], points=_numbers(row["values"])) for row in rows]

    def marks(self) -> list[Mark]:
        """Return the marks of the dashboard. Those of Loki come from the lines on their way to it."""
        marks = list(self._phases())
        for annotation in DASHBOARDS["sessions"]["annotations"]["list"]:
            if annotation["datasource"]["type"] == "prometheus":
                for series in self.ask(annotation["target"]):
                    text = filled(annotation["titleFormat"], {})
                    for name, value in series.labels.items():
                        text = text.replace(f"{{{{{name}}}}}", value)
                    first, last = series.points[0][0], series.points[-1][0]
                    marks.append(Mark(start=first, end=last, text=text, color=annotation["iconColor"]))
        return sorted(marks, key=lambda mark: mark.start)

    def _phases(self) -> Iterator[Mark]:
        for line in self.stack.logs():
            is_ours = line.service == "otel-sessions-load" and line.body.startswith("phase ")
            if is_ours and line.instance == "load-bounded" and self.start < line.time < self.end:
                yield Mark(start=line.time, end=line.time, text=line.body.removeprefix("phase "), color="blue")


def _numbers(points: list[list[Any]]) -> list[tuple[float, float]]:
    return [(float(when), float(value)) for when, value in points]


@dataclass(frozen=True, kw_only=True)
class Run:
    """When the run began, when the twin was killed, and when it had been dead for a while."""

    start: float
    killed: float
    end: float


@pytest.fixture(scope="module")
def run(stack: Stack) -> Run:
    off = {f"OTEL_SESSIONS_{name}": "off" for name in ("MAX_IDLE_TIME_SECS", "MAX_SESSION_AGE_SECS", "MAX_SESSIONS")}
    twin = {**off, "OTEL_SESSIONS_CLEANUP_INTERVAL_SECS": "86400"}
    load = ("--clients", "200", "--rate", "2", "--cycle", "150")
    memory = 'process_memory_usage_bytes{instance="leaking"}'
    with (
        start_proxy(stack, "bounded", OTEL_SESSIONS_MAX_SESSIONS="100") as bounded,
        start_proxy(stack, "leaking", **twin) as leaking,
    ):
        until(lambda: stack.instant("process_memory_usage_bytes"), lambda found: len(found) >= 2)
        start = time.time()
        with start_load(stack, bounded, "load-bounded", *load), start_load(stack, leaking, "load-leaking", *load):
            until(lambda: stack.value(memory), lambda size: size >= 0.97 * MEMORY_LIMIT * 1024 * 1024, seconds=600)
            killed = time.time()
            leaking.process.kill()
            died = 'ALERTS{alertstate="firing", alertname="OtelSessionsInstanceDied", instance="leaking"}'
            until(lambda: stack.instant(died), bool, seconds=90)
            until(lambda: time.time() - killed, lambda seconds: seconds > 80, seconds=120)
        end = time.time()
    return Run(start=start, killed=killed, end=end)


@pytest.mark.parametrize("name", ["alone", "before", "after"])
def test_the_first_screen_is_drawn(stack: Stack, run: Run, report: Path, name: str) -> None:
    both = Scene(stack=stack, instance="bounded|leaking", start=run.start, end=run.end)
    scenes = {"alone": replace(both, instance="bounded"), "before": replace(both, end=run.killed), "after": both}
    scene = scenes[name]

    for path in (report / f"sessions-{name}.svg", report / f"sessions-{name}.png"):
        draw_screen(path, first_screen(), scene.ask, scene.marks(), start=scene.start, end=scene.end)

    if name == "alone":
        assert not [mark for mark in scene.marks() if mark.color != "blue"]  # what befalls the twin is not its own
    drawn = (report / f"sessions-{name}.svg").read_text()
    assert "bounded" in drawn
    assert ("leaking" in drawn) == (name != "alone")
    assert ("NO CAP" in drawn) == (name == "before")
    assert ("GONE with" in drawn) == ("leaking died" in drawn) == (name == "after")
