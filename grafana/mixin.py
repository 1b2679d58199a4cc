"""Writes the dashboards and the alerts for a stack of one's own: as they are, and as Kubernetes takes them.

The links of the alerts begin with `--runbook` and `--grafana`, since a foreign Prometheus has other external labels.
"""

import argparse
import json
import re
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import yaml

ALERTS: Final = Path(__file__).parent / "alerts.yaml"
DASHBOARDS: Final = Path(__file__).parent / "dashboards"
_LABELS: Final = {"app.kubernetes.io/name": "otel-sessions"}


def mixin(*, runbook: str, grafana: str) -> dict[str, str]:
    """Return the text of each file, by its name."""
    dashboards = {path.name: portable(path.read_text()) for path in sorted(DASHBOARDS.glob("*.json"))}
    alerts = _linked(ALERTS.read_text(), runbook=runbook, grafana=grafana)
    return {
        "alerts.yaml": alerts,
        "alerts.prometheusrule.yaml": _resource(
            {
                "apiVersion": "monitoring.coreos.com/v1",
                "kind": "PrometheusRule",
                "metadata": {"name": "otel-sessions", "labels": _LABELS},
                "spec": yaml.safe_load(alerts),
            }
        ),
        "dashboards.configmap.yaml": _resource(
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": "otel-sessions-dashboards", "labels": {**_LABELS, "grafana_dashboard": "1"}},
                "data": {name: json.dumps(json.loads(text)) for name, text in dashboards.items()},
            }
        ),
        **{f"dashboards/{name}": text for name, text in dashboards.items()},
    }


def portable(text: str) -> str:
    """Return a dashboard without what belongs to the demo: the phases of its load, and its memory limit."""
    board = json.loads(text)
    marks = board["annotations"]["list"]
    marks[:] = [mark for mark in marks if mark["datasource"]["type"] != "loki"]
    asked = json.dumps([board["panels"], marks])
    variables = board["templating"]["list"]
    variables[:] = [each for each in variables if each["name"] != "logs" or "${logs}" in asked]
    for variable in variables:
        if variable["name"] == "memory_limit":
            variable["current"] = {"text": "0", "value": "0"}
    return json.dumps(board, indent=2, sort_keys=True) + "\n"


def _linked(alerts: str, *, runbook: str, grafana: str) -> str:
    """Return the rules with plain links in place of external labels."""
    rules = alerts.replace("{{ $externalLabels.runbook }}", runbook).replace("{{ $externalLabels.grafana }}", grafana)
    return re.sub(r"\A(#.*\n)+", "# Alerts of otel-sessions, made by `make mixin`.\n", rules)


def _resource(resource: dict[str, object]) -> str:
    text: str = yaml.safe_dump(resource, sort_keys=False, width=120)
    return text


def _url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or re.search(r"[\s\"'{}\\]", text):
        raise argparse.ArgumentTypeError(f"takes a URL like https://grafana.example, not {text!r}")
    return text.rstrip("/")


def main() -> None:
    parser = argparse.ArgumentParser(prog="make mixin", description=__doc__)
    parser.add_argument("--runbook", type=_url, required=True, metavar="URL", help="where the runbook stands")
    parser.add_argument("--grafana", type=_url, required=True, metavar="URL", help="where Grafana is")
    parser.add_argument("--into", type=Path, required=True, metavar="FOLDER", help="the folder to write into")
    options = parser.parse_args()
    for name, text in mixin(runbook=options.runbook, grafana=options.grafana).items():
        file: Path = options.into / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    print(f"written into {options.into}")


if __name__ == "__main__":
    main()
