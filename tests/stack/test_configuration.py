"""What the programs themselves say of the repository's configuration files."""

import subprocess

import pytest

from tests.processes import ROOT

from .programs import program

pytestmark = pytest.mark.stack


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("otelcol", ["validate", "--config", "grafana/otel-collector.yaml"]),
        ("jaeger", ["validate", "--config", "grafana/jaeger.yaml"]),
        ("loki", ["-config.file=grafana/loki.yaml", "-config.expand-env=true", "-verify-config"]),
        ("promtool", ["check", "config", "grafana/prometheus.yaml"]),
        ("promtool", ["check", "rules", "grafana/alerts.yaml"]),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value[:2]),
)
def test_a_program_accepts_its_configuration(name: str, arguments: list[str]) -> None:
    done = subprocess.run([program(name), *arguments], cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
