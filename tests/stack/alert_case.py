"""What a case for an alert is: made-up series, and what the alert says of them.

A series is a function of the seconds since the start, so that one case stands for every interval of export.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final

from tests.processes import ROOT

Value = Callable[[float], float | None]
"""The value of a series so many seconds after the start, None where it has none."""

USUAL: Final = {"job": "p", "instance": "i", "otel_sessions_manager_name": "m"}
CHOICES: Final = {"job": "job", "instance": "instance", "otel_sessions_manager_name": "manager"}
"""The variable of the dashboards by which a label is chosen."""
RUNBOOK: Final = "https://runbook.example"
GRAFANA: Final = "https://grafana.example"
MINUTE: Final = 60
HOUR: Final = 3600
EXPORTS: Final = {"2s": 2, "60s": 60}
"""The seconds between two exports: this stack's, and the SDK's default."""


def flat(value: float) -> Value:
    return lambda _: value


def ramp(per_minute: float, start: float = 0) -> Value:
    return lambda seconds: start + per_minute * seconds / MINUTE


def steps(*changes: tuple[float, float | None]) -> Value:
    """Return a series that has each value from its second on."""
    assert all(one < other for (one, _), (other, _) in pairwise(changes))
    return lambda seconds: [value for since, value in changes if since <= seconds][-1]


def ending(value: Value, end: float) -> Value:
    """Return a series that is gone from a second on, as when its process was killed."""
    return lambda seconds: value(seconds) if seconds < end else None


def restarted(value: Value, *moments: float) -> Value:
    """Return a series that begins anew at each of these seconds."""
    return lambda seconds: value(seconds - max([moment for moment in moments if moment <= seconds], default=0))


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is exported, and whether an alert fires after so many seconds; `says` is what it says then."""

    alert: str
    name: str
    at: float
    series: Mapping[str, Value]
    labels: Mapping[str, str] = field(default_factory=dict)
    says: tuple[str, str] | None = None
    """The summary and the description of an alert that fires, None for one that does not."""

    def as_test(self, seconds: int) -> dict[str, Any]:
        """Return the case for promtool, with an export every so many seconds."""
        moments = range(0, int(self.at) + seconds, seconds)
        return {
            "name": self.name,
            "interval": f"{seconds}s",
            "external_labels": {"runbook": RUNBOOK, "grafana": GRAFANA},
            "input_series": [
                {"series": full(name), "values": " ".join(_written(value(moment)) for moment in moments)}
                for name, value in self.series.items()
            ],
            "alert_rule_test": [
                {"eval_time": f"{int(self.at)}s", "alertname": self.alert, "exp_alerts": list(self._expected())}
            ],
        }

    def _expected(self) -> list[dict[str, Any]]:
        if self.says is None:
            return []
        summary, description = self.says
        board = "otel-sessions-fleet/fleet" if self.alert.startswith("OtelSessionsFleet") else "otel-sessions/sessions"
        links = {
            "runbook_url": f"{RUNBOOK}#{self.alert.lower()}",
            "dashboard_url": f"{GRAFANA}/d/{board}{self._chosen()}",
        }
        return [
            {
                "exp_labels": dict(self.labels),
                "exp_annotations": {"summary": summary, "description": description, **links},
            }
        ]

    def _chosen(self) -> str:
        """Return the choices that a link carries: what the alert is about."""
        if self.alert == "OtelSessionsTelemetryAbsent":
            return ""  # it may be about every job
        chosen = {CHOICES[name]: value for name, value in self.labels.items() if name in CHOICES}
        if "exporter" in self.labels:
            chosen = {"collector": self.labels["instance"]}
        return "?" + "&".join(f"var-{name}={value}" for name, value in chosen.items())


def promtool_tests(cases: Iterable[Case], seconds: int) -> dict[str, Any]:
    """Return cases for promtool, with an export every so many seconds."""
    return {
        "rule_files": [str(ROOT / "grafana/alerts.yaml")],
        "evaluation_interval": "15s",
        "tests": [case.as_test(seconds) for case in cases],
    }


def full(name: str) -> str:
    """Return a series by its metric and its own labels: `created_total{a="b"}` of the proxy `p`, instance `i`."""
    if name.startswith("otelcol_"):
        return name
    metric, _, labels = name.partition("{")
    own = [part for part in labels.removesuffix("}").split(",") if part]
    usual = [f'{key}="{value}"' for key, value in USUAL.items() if not any(part.startswith(f"{key}=") for part in own)]
    return f"otel_sessions_{metric}{{{','.join([*usual, *own])}}}"


def _written(value: float | None) -> str:
    return "_" if value is None else f"{value:g}"
