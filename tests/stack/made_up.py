"""Made-up samples of every series that the dashboards ask for, as blocks of Prometheus's store.

An instance is told by its moments of export. What it exports follows from the queries: each metric with the labels that
they ask for. Counters and memory rise with every export, all else stays, unless an instance says otherwise.
"""

import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Final

from .alert_case import Value
from .programs import program
from .queries import all_queries

SELECTOR: Final = re.compile(r"\b([a-z]\w+)\{([^}]*)\}")
LABELS: Final = re.compile(r"by \(([\w, ]+)\)")
EQUAL: Final = re.compile(r'(\w+)="([^"$]+)"')
USUAL: Final = frozenset({"job", "instance", "otel_sessions_manager_name", "le", "class", "what", "cap"})
"""The labels that each series has, and those that the queries make."""
RISING: Final = re.compile("_(total|count|sum|bucket)$|memory_usage")
MIB: Final = 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class Instance:
    """One process, whose job has the same name: when it exported."""

    name: str
    exports: tuple[float, ...]
    values: Mapping[str, Value] = field(default_factory=dict)
    """The values of the metrics whose names match a pattern; the first pattern counts."""

    def value(self, metric: str, number: int) -> float | None:
        """Return what an export has of a metric, by the number of the export."""
        for pattern, value in self.values.items():
            if re.search(pattern, metric):
                return value(self.exports[number] - self.exports[0])
        return (100 + number if RISING.search(metric) else 7) * (MIB if "memory" in metric else 1)

    @property
    def interval(self) -> float:
        return self.exports[1] - self.exports[0]


def every(seconds: float, *, since: float, until: float, late: Iterable[float] = (0.0,)) -> tuple[float, ...]:
    """Return moments of export, each late by the next one of `late`."""
    delays = list(late)
    count = int((until - since) // seconds) + 1
    return tuple(since + number * seconds + delays[number % len(delays)] for number in range(count))


def write_made_up(instances: Iterable[Instance], into: Path) -> None:
    """Write blocks of all series of these instances."""
    text = into.with_suffix(".openmetrics")
    with text.open("w") as file:
        file.writelines(f"{line}\n" for line in _lines(list(instances)))
        file.write("# EOF\n")
    command = [program("promtool"), "tsdb", "create-blocks-from", "openmetrics", str(text), str(into)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def _lines(instances: list[Instance]) -> Iterator[str]:
    for metric, labels in _asked().items():
        for instance in instances:
            for own in _combinations(metric, labels):
                named = {
                    "job": instance.name,
                    "instance": instance.name,
                    "otel_sessions_manager_name": "m",
                    "service_name": instance.name,
                    **own,
                }
                inner = ",".join(f'{name}="{value}"' for name, value in named.items())
                series = f"{metric}{{{inner}}}"
                for number, moment in enumerate(instance.exports):
                    value = instance.value(metric, number)
                    if value is not None:
                        yield f"{series} {value} {moment:.3f}"


def _asked() -> dict[str, dict[str, set[str]]]:
    """Return the metrics that the panels ask for, and the values of their labels."""
    found: dict[str, dict[str, set[str]]] = {}
    for query in all_queries():
        if query.store != "prometheus" or query.place.startswith("alert"):
            continue
        by = {label for labels in LABELS.findall(query.text) for label in labels.split(", ")} - USUAL
        for metric, where in SELECTOR.findall(query.text):
            if metric == "ALERTS":
                continue
            labels = found.setdefault(metric, {})
            equal = EQUAL.findall(where)
            for label, value in equal:
                labels.setdefault(label, set()).add(value)
            for label in by | set(re.findall(r"(\w+)!=", where)) - {label for label, _ in equal}:
                labels.setdefault(label, set())
    return found


def _combinations(metric: str, labels: Mapping[str, set[str]]) -> Iterator[dict[str, str]]:
    values = {label: sorted(chosen) or ["503"] for label, chosen in labels.items()}
    if metric.endswith("_bucket"):
        values["le"] = ["0.1", "1", "+Inf"]
    for one in product(*values.values()):
        yield dict(zip(values, one, strict=True))
