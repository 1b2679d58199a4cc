"""Which exporter the programs use: OpenTelemetry's own variables decide, and what is wrong is refused at the start."""

import socket
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from otel_sessions import ConfigError
from otel_sessions._program.exporters import asked, endpoint, require_exporters
from tests.processes import HOST, clean_environ, free_port, running_module, until_answers
from tests.waiting import PATIENCE

pytestmark = pytest.mark.no_cover

HTTP = "http://127.0.0.1:4318"


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({}, {}),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": HTTP}, {"METRICS": "otlp", "TRACES": "otlp", "LOGS": "otlp"}),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": HTTP}, {"TRACES": "otlp"}),
        ({"OTEL_METRICS_EXPORTER": "otlp"}, {"METRICS": "otlp"}),
        ({"OTEL_METRICS_EXPORTER": "prometheus"}, {"METRICS": "prometheus"}),
        ({"OTEL_METRICS_EXPORTER": " console "}, {"METRICS": "console"}),
        ({"OTEL_METRICS_EXPORTER": ""}, {}),
        ({"OTEL_METRICS_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": HTTP}, {"TRACES": "otlp", "LOGS": "otlp"}),
        ({"OTEL_TRACES_EXPORTER": "console", "OTEL_LOGS_EXPORTER": "otlp"}, {"TRACES": "console", "LOGS": "otlp"}),
        (
            {"OTEL_METRICS_EXPORTER": "prometheus", "OTEL_EXPORTER_OTLP_ENDPOINT": HTTP},
            {"METRICS": "prometheus", "TRACES": "otlp", "LOGS": "otlp"},
        ),
    ],
)
def test_a_signal_goes_where_its_variable_says(environ: dict[str, str], words: dict[str, str]) -> None:
    assert asked(environ) == words


@pytest.mark.parametrize(
    ("environ", "place"),
    [
        ({}, "http://localhost:4318"),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "http://localhost:4317"),
        ({"OTEL_EXPORTER_OTLP_METRICS_PROTOCOL": "grpc"}, "http://localhost:4317"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://h:1"}, "http://h:1"),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://h:1", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://m:2"},
            "http://m:2",
        ),
    ],
)
def test_otlp_without_an_endpoint_goes_to_a_collector_on_this_machine(environ: dict[str, str], place: str) -> None:
    assert endpoint("METRICS", environ) == place


@pytest.mark.parametrize(
    ("variable", "value", "error"),
    [
        ("OTEL_METRICS_EXPORTER", "statsd", "takes otlp, prometheus, console or none, not 'statsd'"),
        ("OTEL_METRICS_EXPORTER", "otlp,prometheus", "takes otlp, prometheus, console or none, not 'otlp,prometheus'"),
        ("OTEL_METRICS_EXPORTER", "Prometheus", "takes otlp, prometheus, console or none, not 'Prometheus'"),
        ("OTEL_TRACES_EXPORTER", "zipkin", "takes otlp, console or none, not 'zipkin'"),
        ("OTEL_TRACES_EXPORTER", "prometheus", "takes otlp, console or none, not 'prometheus'"),
        ("OTEL_LOGS_EXPORTER", "file", "takes otlp, console or none, not 'file'"),
        ("OTEL_EXPORTER_PROMETHEUS_PORT", "0", "takes a port from 1 to 65535, not '0'"),
        ("OTEL_EXPORTER_PROMETHEUS_PORT", "65536", "takes a port from 1 to 65535, not '65536'"),
        ("OTEL_EXPORTER_PROMETHEUS_PORT", "http", "takes a port from 1 to 65535, not 'http'"),
        ("OTEL_EXPORTER_PROMETHEUS_PORT", "-1", "takes a port from 1 to 65535, not '-1'"),
    ],
)
def test_what_no_exporter_understands_is_refused_by_its_name(variable: str, value: str, error: str) -> None:
    with pytest.raises(ConfigError) as refused:
        require_exporters({"OTEL_METRICS_EXPORTER": "prometheus", variable: value})

    assert str(refused.value) == f"{variable} {error}"


@pytest.mark.parametrize(
    ("signal", "word", "variable", "value", "expected"),
    [
        ("METRICS", "console", "OTEL_METRIC_EXPORT_INTERVAL", "abc", "a positive number"),
        ("METRICS", "otlp", "OTEL_METRIC_EXPORT_TIMEOUT", "0", "a positive number"),
        ("METRICS", "otlp", "OTEL_EXPORTER_OTLP_TIMEOUT", "10s", "a positive number"),
        ("TRACES", "otlp", "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "nan", "a positive number"),
        ("LOGS", "otlp", "OTEL_EXPORTER_OTLP_LOGS_TIMEOUT", "inf", "a positive number"),
        ("TRACES", "console", "OTEL_BSP_MAX_QUEUE_SIZE", "-4", "a whole number above 0"),
        ("LOGS", "otlp", "OTEL_BLRP_SCHEDULE_DELAY", "1.5", "a whole number above 0"),
    ],
)
def test_a_number_that_the_sdk_would_replace_in_silence_is_refused(
    signal: str, word: str, variable: str, value: str, expected: str
) -> None:
    exporter = f"OTEL_{signal}_EXPORTER"
    with pytest.raises(ConfigError) as refused:
        require_exporters({exporter: word, variable: value})

    assert str(refused.value) == f"{variable} takes {expected}, not {value!r}"
    require_exporters({exporter: "none", variable: value})
    require_exporters({exporter: word, variable: " "})
    require_exporters({exporter: word, variable: "2000"})


def test_the_numbers_of_a_signal_that_is_not_exported_are_nobodys_concern() -> None:
    others = {"OTEL_BSP_MAX_QUEUE_SIZE": "x", "OTEL_BLRP_SCHEDULE_DELAY": "x", "OTEL_EXPORTER_OTLP_TIMEOUT": "x"}
    require_exporters({"OTEL_METRICS_EXPORTER": "console", **others})


def test_prometheus_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.prometheus", None)

    with pytest.raises(
        ConfigError, match=r"needs opentelemetry\.exporter\.prometheus; pip install 'otel-sessions\[prom"
    ):
        require_exporters({"OTEL_METRICS_EXPORTER": "prometheus"})


@pytest.mark.processes
def test_prometheus_scrapes_a_running_proxy_without_a_collector(tmp_path: Path) -> None:
    health, port = free_port(), free_port()
    flags = ["--upstream", "http://127.0.0.1:9", "--listen", f"{HOST}:0", "--health", f"{HOST}:{health}"]
    environ = {"OTEL_METRICS_EXPORTER": "prometheus", "OTEL_EXPORTER_PROMETHEUS_PORT": str(port)}
    with running_module("cli", tmp_path, "proxy", *flags, **environ) as proxy:
        until_answers(f"http://{HOST}:{health}/healthz", proxy)
        scraped = httpx2.get(f"http://localhost:{port}/metrics", trust_env=False, timeout=PATIENCE)
        proxy.terminate()

    families = {family.name: family for family in text_string_to_metric_families(scraped.text)}
    (created,) = families["otel_sessions_session_created"].samples
    assert (created.name, created.labels, created.value) == (
        "otel_sessions_session_created_total",
        {"otel_sessions_manager_name": "proxy"},
        0,
    )
    (target,) = families["target_info"].samples
    assert target.labels["service_name"] == "otel-sessions-proxy"
    assert families["process_memory_usage_bytes"].samples[0].value > 0
    assert "python_gc_objects_collected" not in families  # the process's metrics have their names of OpenTelemetry


@pytest.mark.processes
@pytest.mark.parametrize(
    ("command", "said"),
    [
        (
            ["proxy", "--upstream", "http://127.0.0.1:9", "--listen", "127.0.0.1:0"],
            "OTEL_EXPORTER_PROMETHEUS_PORT: cannot",
        ),
        (["load", "--target", "http://127.0.0.1:9"], "OTEL_EXPORTER_PROMETHEUS_PORT: cannot listen on 127.0.0.1:"),
        (["demo"], "the demo is three processes: OTEL_METRICS_EXPORTER takes otlp or none here"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_program_that_cannot_be_scraped_says_so_in_one_line(command: list[str], said: str) -> None:
    with socket.create_server((HOST, 0)) as taken:
        environ = {
            "OTEL_METRICS_EXPORTER": "prometheus",
            "OTEL_EXPORTER_PROMETHEUS_HOST": HOST,
            "OTEL_EXPORTER_PROMETHEUS_PORT": str(taken.getsockname()[1]),
        }
        ended = subprocess.run(
            [sys.executable, "-m", "otel_sessions.cli", *command],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
            env={**clean_environ(), **environ},
        )

    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1), ended.stderr
    assert ended.stderr.startswith(f"otel-sessions: {said}")


@pytest.mark.processes
@pytest.mark.parametrize(
    "wrong",
    [
        {"OTEL_BSP_MAX_QUEUE_SIZE": "4"},  # less than a batch
        {"OTEL_ATTRIBUTE_COUNT_LIMIT": "many"},
    ],
    ids=str,
)
def test_a_variable_that_the_sdk_refuses_ends_a_program_in_one_line(wrong: dict[str, str]) -> None:
    ended = subprocess.run(
        [
            sys.executable,
            "-m",
            "otel_sessions.cli",
            "proxy",
            "--upstream",
            "http://127.0.0.1:9",
            "--listen",
            f"{HOST}:0",
        ],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        env={**clean_environ(), "OTEL_TRACES_EXPORTER": "otlp", "OTEL_METRICS_EXPORTER": "none", **wrong},
    )

    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1), ended.stderr
    assert ended.stderr.startswith("otel-sessions: the export cannot be set up: ")
