"""What the stack's tests ask Prometheus, Jaeger and the receiver of logs, in the words that Grafana would use."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from tests.processes import Running
from tests.waiting import PATIENCE


@dataclass(frozen=True, kw_only=True)
class LogLine:
    """A log record as it left the collector."""

    time: float
    service: str
    instance: str
    body: str
    severity: str
    event: str
    trace_id: str
    attributes: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Stack:
    """Where the parts of the stack are."""

    prometheus: str
    jaeger: str
    otlp: str
    otlp_grpc: str
    received_logs: Path
    loki: str | None
    """None where there is no Loki on this machine."""
    collector: Running
    collector_health: str
    folder: Path
    started: float
    """When there was nothing in it yet."""

    def export_to(self, instance: str, *, grpc: bool = False) -> dict[str, str]:
        """Return the environment of a program that exports here, under a name of its own."""
        return {
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.otlp_grpc if grpc else self.otlp,
            "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc" if grpc else "http/protobuf",
            "OTEL_METRIC_EXPORT_INTERVAL": "1000",
            "OTEL_SERVICE_NAME": "otel-sessions-proxy",
            "OTEL_RESOURCE_ATTRIBUTES": f"service.instance.id={instance}",
        }

    def ask(self, path: str, **parameters: str | float) -> Any:
        """Return what Prometheus answers."""
        answer = httpx2.get(f"{self.prometheus}/api/v1/{path}", params=parameters, trust_env=False, timeout=PATIENCE)
        assert answer.is_success, answer.text
        return answer.json()["data"]

    def instant(self, query: str, at: float | None = None) -> dict[str, float]:
        """Return the value of each series now, or at that time, by its labels.

        Half a minute after its last export, a series has no value any more.
        """
        when = {} if at is None else {"time": f"{at:.3f}"}
        rows = self.ask("query", query=query, **when)["result"]
        return {labels_of(row["metric"]): float(row["value"][1]) for row in rows}

    def value(self, query: str, at: float | None = None) -> float:
        """Return the one value of a query now, or at that time; NaN if it has none."""
        values = list(self.instant(query, at).values())
        assert len(values) <= 1, values
        return values[0] if values else float("nan")

    def series(self, query: str, start: float, end: float, step: float = 1.0) -> dict[str, list[tuple[float, float]]]:
        """Return the points of each series, by its labels: the last one is that of the end itself."""
        first = round(end, 3) - (end - start) // step * step  # steps are counted from it, and the end is to be one
        data = self.ask("query_range", query=query, start=f"{first:.3f}", end=f"{end:.3f}", step=step)
        return {labels_of(row["metric"]): [(t, float(v)) for t, v in row["values"]] for row in data["result"]}

    def exemplars(self, query: str, start: float, end: float) -> list[str]:
        """Return the trace ids of a metric's exemplars."""
        found = self.ask("query_exemplars", query=query, start=start, end=end)
        return [exemplar["labels"]["trace_id"] for series in found for exemplar in series["exemplars"]]

    def trace(self, trace_id: str) -> list[dict[str, Any]]:
        """Return the spans of a trace that Jaeger has; none if it has none."""
        answer = httpx2.get(f"{self.jaeger}/api/traces/{trace_id}", trust_env=False, timeout=PATIENCE)
        if answer.status_code == httpx2.codes.NOT_FOUND:
            return []
        traces: list[dict[str, Any]] = answer.raise_for_status().json()["data"]
        return [span for trace in traces for span in trace["spans"]]

    def search_traces(self, **parameters: str | int) -> list[dict[str, Any]]:
        answer = httpx2.get(f"{self.jaeger}/api/traces", params=parameters, trust_env=False, timeout=PATIENCE)
        traces: list[dict[str, Any]] = answer.raise_for_status().json()["data"]
        return traces

    def ask_loki(self, query: str, start: float, end: float) -> list[str]:
        """Return the lines that Loki has for a query."""
        parameters: dict[str, str | int] = {
            "query": query,
            "start": int(start * 1e9),
            "end": int(end * 1e9),
            "limit": 200,
        }
        answer = httpx2.get(
            f"{self.loki}/loki/api/v1/query_range", params=parameters, trust_env=False, timeout=PATIENCE
        )
        assert answer.is_success, answer.text
        return [line for stream in answer.json()["data"]["result"] for _, line, *_ in stream["values"]]

    def logs(self) -> Iterator[LogLine]:
        """Return the log lines that were sent on to Loki's address."""
        if not self.received_logs.exists():
            return
        for batch in self.received_logs.read_text().splitlines():
            for resource in json.loads(batch)["resourceLogs"]:
                of = plain(resource["resource"]["attributes"])
                for scope in resource["scopeLogs"]:
                    for record in scope["logRecords"]:
                        yield LogLine(
                            time=int(record.get("timeUnixNano", 0)) / 1e9,
                            service=of.get("service.name", ""),
                            instance=of.get("service.instance.id", ""),
                            body=record.get("body", {}).get("stringValue", ""),
                            severity=record.get("severityText", ""),
                            event=record.get("eventName", ""),
                            trace_id=record.get("traceId", ""),
                            attributes=plain(record.get("attributes", [])),
                        )


def plain(attributes: list[dict[str, Any]]) -> dict[str, Any]:
    """Return OTLP's attributes as names and values."""
    return {one["key"]: next(iter(one["value"].values()), None) for one in attributes}


def labels_of(metric: Mapping[str, str]) -> str:
    return ",".join(f"{name}={value}" for name, value in sorted(metric.items()))
