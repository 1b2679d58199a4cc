"""The metrics of several processes as one answer for Prometheus, in its text format (version 0.0.4).

Each series gets the label `worker`, the number of its process. A family has one HELP and one TYPE, whoever has it. A
process that does not answer has `otel_sessions_worker_up` 0, and no other series.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from prometheus_client import REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

MEDIA_TYPE: Final = b"text/plain; version=0.0.4; charset=utf-8"
_LABEL: Final = "worker"
_UP: Final = "otel_sessions_worker_up"


def own() -> bytes:
    """Return the metrics of this process. May be called on any thread."""
    return generate_latest(REGISTRY)


def together(said: Mapping[str, bytes | None]) -> bytes:
    """Return the metrics of all processes, by the number of each. None stands for a process that does not answer."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Families(said))
    return generate_latest(registry)


class _Families(Collector):
    def __init__(self, said: Mapping[str, bytes | None]) -> None:
        self._said = said

    def collect(self) -> Iterator[Metric]:
        up = GaugeMetricFamily(_UP, "Whether the worker has answered.", labels=[_LABEL])
        families: dict[str, Metric] = {}
        for worker, text in self._said.items():
            up.add_metric([worker], 0 if text is None else 1)
            _add(families, text_string_to_metric_families((text or b"").decode()), worker)
        yield up
        yield from families.values()


def _add(families: dict[str, Metric], found: Iterable[Metric], worker: str) -> None:
    for one in found:
        family = families.setdefault(one.name, Metric(one.name, one.documentation, one.type))
        family.samples += [sample._replace(labels={**sample.labels, _LABEL: worker}) for sample in one.samples]
