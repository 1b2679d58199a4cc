"""Every query that Grafana and Prometheus would ask of the stack: read out of the dashboards and the alert rules."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from tests.processes import ROOT

DASHBOARDS = {path.stem: json.loads(path.read_text()) for path in sorted((ROOT / "grafana/dashboards").glob("*.json"))}
ALERTS = yaml.safe_load((ROOT / "grafana/alerts.yaml").read_text())["groups"][0]["rules"]
EVERYTHING = {
    "job": "otel-sessions-proxy",
    "service": "otel-sessions-proxy",
    "instance": ".*",
    "manager": ".*",
    "collector": ".*",
    "trace": "",
    "window": "1m",
    "memory_limit": "256",
    "trigger": "telemetry.sdk.name=opentelemetry",
    "outcome": "telemetry.sdk.name=opentelemetry",
}


@dataclass(frozen=True, kw_only=True)
class Query:
    """One query: where it stands, what kind of store it asks, and what it asks there."""

    place: str
    store: str
    target: Mapping[str, Any]

    @property
    def text(self) -> str:
        return str(
            self.target.get("expr") or {k: v for k, v in self.target.items() if k not in ("datasource", "refId")}
        )

    def filled(self, **variables: str) -> str:
        """Return the query as Grafana sends it, with its variables replaced."""
        values = EVERYTHING | variables
        return filled(self.text.replace("$__interval", str(self.target.get("interval"))), values)


def filled(text: str, values: Mapping[str, str]) -> str:
    """Return a text with its variables replaced."""
    for name, value in values.items():
        text = text.replace(f"${name}", value)
    return text


def panels(dashboard: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the panels that ask something, those in collapsed rows too."""
    return [panel for panel in all_panels(dashboard) if panel["type"] not in ("row", "text")]


def all_panels(dashboard: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the panels and the rows, from top to bottom."""
    return [panel for outer in dashboard["panels"] for panel in (outer, *(outer.get("panels") or ()))]


def first_screen() -> list[dict[str, Any]]:
    """Return the panels of "Sessions" above its first row."""
    panels: list[dict[str, Any]] = DASHBOARDS["sessions"]["panels"]
    return panels[: [panel["type"] for panel in panels].index("row")]


def all_queries() -> Iterator[Query]:
    for name, dashboard in DASHBOARDS.items():
        for panel in panels(dashboard):
            for target in panel["targets"]:
                place = f"{name}: {panel['title']}"
                yield Query(place=place, store=target["datasource"]["type"], target=target)
        for variable in dashboard["templating"]["list"]:
            if variable["type"] == "query":
                target = {"expr": variable["query"]}
                yield Query(place=f"{name}: ${variable['name']}", store=variable["datasource"]["type"], target=target)
        for annotation in dashboard["annotations"]["list"]:
            place = f"{name}: annotation {annotation['name']}"
            yield Query(place=place, store=annotation["datasource"]["type"], target=annotation["target"])
    for rule in ALERTS:
        yield Query(place=f"alert {rule['alert']}", store="prometheus", target={"expr": rule["expr"]})


def label_query(text: str) -> tuple[str, str] | None:
    """Return what a variable's `label_values(selector, label)` asks for, or None if it is another query."""
    found = re.fullmatch(r"label_values\((.*), (\w+)\)", text)
    return (found[1], found[2]) if found else None
