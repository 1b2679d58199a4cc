"""What the programs say of telemetry that goes nowhere."""

import logging
import subprocess
import sys

import pytest

from otel_sessions import ConfigError
from otel_sessions._program import otlp
from otel_sessions._program.exporters import require_exporters
from otel_sessions._program.otlp import LostTelemetry
from otel_sessions.cli import main
from tests.processes import clean_environ, killed_late
from tests.waiting import PATIENCE

pytestmark = pytest.mark.no_cover

HTTP, GRPC = "opentelemetry.exporter.otlp.proto.http", "opentelemetry.exporter.otlp.proto.grpc.exporter"
SECRETS = ("ada", "s3cret", "t0ken")


def said(capsys: pytest.CaptureFixture[str], endpoints: dict[str, str], *records: tuple[str, str]) -> list[str]:
    """Return the lines that are said of failed exports, each by its logger and its message."""
    handler = LostTelemetry(endpoints)
    for name, message in records:
        handler.handle(logging.LogRecord(name, logging.ERROR, "", 0, message, None, None))
    return capsys.readouterr().err.splitlines()


def everywhere(endpoint: str) -> dict[str, str]:
    return dict.fromkeys(("METRICS", "TRACES", "LOGS"), endpoint)


@pytest.mark.parametrize(
    ("endpoint", "place"),
    [
        ("http://127.0.0.1:4318", "http://127.0.0.1:4318"),
        ("https://ada:s3cret@collector.example/v1/t0ken?key=t0ken#t0ken", "https://collector.example"),
        ("http://ada:s3%40cret@[::1]:4318/", "http://[::1]:4318"),
        ("http://ada:s3cret@x@collector:1", "http://collector:1"),
        ("ada:s3cret@collector:4317", "collector:4317"),
        ("collector", "collector"),
    ],
)
def test_an_endpoint_is_named_without_its_secrets(
    endpoint: str, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (line,) = said(capsys, everywhere(endpoint), (f"{HTTP}.metric_exporter", "Failed to export metrics batch"))

    assert line == f"telemetry is lost: the export to {place} failed: Failed to export metrics batch"


@pytest.mark.parametrize("endpoint", ["http://ada:s3cret@collector:4317", "ada:s3cret@collector:4317"])
def test_a_message_that_repeats_the_endpoint_does_not_repeat_its_secrets(
    endpoint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    message = f"Failed to export logs to ada:s3cret@collector:4317, details: errors resolving {endpoint}"
    (line,) = said(capsys, everywhere(endpoint), (GRPC, message))

    assert "collector:4317, details: errors resolving" in line
    assert not any(secret in line for secret in SECRETS)


def test_each_endpoint_is_named_once_however_often_its_exports_fail(capsys: pytest.CaptureFixture[str]) -> None:
    endpoints = {"METRICS": "http://a:4318", "TRACES": "http://b:4318", "LOGS": "http://c:4317"}
    failed = [
        (f"{HTTP}.metric_exporter", "no metrics"),
        (f"{HTTP}.trace_exporter", "no spans"),
        (GRPC, "no logs to c:4317"),
    ]

    assert said(capsys, endpoints, *failed, *failed) == [
        "telemetry is lost: the export to http://a:4318 failed: no metrics",
        "telemetry is lost: the export to http://b:4318 failed: no spans",
        "telemetry is lost: the export to http://c:4317 failed: no logs to c:4317",
    ]


def test_a_failure_that_could_be_of_any_endpoint_names_all(capsys: pytest.CaptureFixture[str]) -> None:
    endpoints = {"METRICS": "http://a:4318", "LOGS": "http://b:4318"}
    (line,) = said(capsys, endpoints, ("opentelemetry.sdk.metrics", "Exception while exporting metrics"))

    assert "the export to http://a:4318 and http://b:4318 failed: Exception while exporting metrics" in line


def test_a_failed_export_to_what_is_no_url_raises_nothing_in_the_exporter(capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = said(capsys, everywhere("http://ada:s3cret@[::1"), (f"{HTTP}.trace_exporter", "no spans"))

    assert line == "telemetry is lost: an export failed, and its error cannot be shown"


@pytest.mark.parametrize("protocol", ["", "grpc", "http/protobuf"])
@pytest.mark.parametrize("variable", ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"])
@pytest.mark.parametrize(
    ("endpoint", "public"),
    [
        ("http://ada:s3cret@collector:port", "http://collector:port"),
        ("http://ada:s3cret/more@collector:4318", "http://collector:4318"),
        ("http://ada:s3cret#more@collector:4318", "http://collector:4318"),
        ("http://ada:s3cret@[::1", "http://[::1"),
        ("ada:s3cret/more@collector:4317", "collector:4317"),
    ],
)
def test_an_endpoint_that_is_no_url_is_named_by_its_variable_and_without_its_credentials(
    endpoint: str, public: str, variable: str, protocol: str
) -> None:
    with pytest.raises(ConfigError) as error:
        require_exporters({variable: endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL": protocol})

    assert str(error.value) == f"{variable} takes a URL, not {public!r}"


@pytest.mark.parametrize("protocol", ["", "grpc", "http/protobuf"])
@pytest.mark.parametrize(
    "endpoint",
    [
        "http://ada:123/s3cret@collector",
        "http://ada:123/s3cret@collector:4318",
        "http://ada/s3cret@collector",
        "http://ada:/s3cret@collector",
        "http://ada:123?s3cret@collector",
        "http://ada:123#s3cret@collector",
        "http://ada:123/s3cret@collector/v1/metrics?t0ken",
        "ada:123/s3cret@collector:4317",
    ],
)
def test_a_password_that_makes_another_host_of_the_url_is_refused(endpoint: str, protocol: str) -> None:
    with pytest.raises(ConfigError) as error:
        require_exporters({"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL": protocol})

    takes = "OTEL_EXPORTER_OTLP_ENDPOINT takes a URL with at most one @, directly before the host"
    assert str(error.value).startswith(takes)
    assert not any(secret in str(error.value) for secret in (*SECRETS, "123"))


@pytest.mark.parametrize(
    ("endpoint", "protocol"),
    [
        ("http://", "grpc"),
        ("http://:4318", "http/protobuf"),
        ("http://ada:s3cret@", "http/protobuf"),
        ("http:collector:4318", "http/protobuf"),
        ("http:/collector", "http/protobuf"),
        ("http://collector:0", "grpc"),
        ("http://ada:s3cret@collector:99999", "http/protobuf"),
        ("http://two words:4318", "http/protobuf"),
        ("http://collector\n:4318", "http/protobuf"),
        ("collector:4318", "http/protobuf"),
        ("collector", ""),
        ("ftp://ada:s3cret@collector", "http/protobuf"),
        ("unix:///run/collector", "http/protobuf"),
    ],
)
def test_an_endpoint_that_no_exporter_could_reach_is_refused(endpoint: str, protocol: str) -> None:
    with pytest.raises(ConfigError, match=r"^OTEL_EXPORTER_OTLP_LOGS_ENDPOINT takes a URL") as error:
        require_exporters({"OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL": protocol})

    assert not any(secret in str(error.value) for secret in SECRETS)


@pytest.mark.parametrize(
    ("endpoint", "protocol"),
    [
        ("http://ada:s3cret@collector:4318/v1", ""),
        ("http://ada:s3%2Fcret%40@[::1]:4318", ""),
        ("https://collector.example/otlp?key=t0ken", "http/protobuf"),
        ("collector:4317", ""),
        ("collector", "grpc"),
        ("unix:///run/collector", "grpc"),
        ("dns:///collector:4317", "grpc"),
    ],
)
def test_an_endpoint_that_an_exporter_takes_is_accepted(endpoint: str, protocol: str) -> None:
    require_exporters({"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL": protocol})


@pytest.mark.parametrize(
    "arguments",
    [
        ["demo", "--otlp", "http://ada:123/s3cret@collector"],
        ["proxy", "--upstream", "http://ada:123/s3cret@upstream"],
        ["load", "--target", "http://ada/s3cret@proxy"],
        ["demo", "--otlp", "ftp://ada:s3cret@collector"],
        ["demo", "--otlp", "http://ada:s3cret@collector"],
        ["load", "--target", "ada:s3cret@proxy"],
        ["proxy", "--upstream", "ada:s3cret@upstream:80"],
    ],
)
def test_a_wrong_url_is_refused_without_its_credentials(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)

    complaint = capsys.readouterr().err
    assert arguments[1] in complaint
    assert "s3cret" not in complaint


@pytest.mark.processes
@pytest.mark.parametrize(
    "command",
    [
        ["cli", "proxy", "--upstream", "http://127.0.0.1:9"],
        ["cli", "load", "--target", "http://127.0.0.1:9"],
        ["cli", "demo", "--port", "0"],
        ["demo.processes.proxy", "--upstream", "http://127.0.0.1:9"],
        ["demo.processes.upstream"],
    ],
    ids=" ".join,
)
def test_no_program_starts_with_an_endpoint_that_means_another_host(command: list[str]) -> None:
    module, *arguments = command
    ended = subprocess.run(
        [sys.executable, "-m", f"otel_sessions.{module}", *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        env={**clean_environ(), "OTEL_EXPORTER_OTLP_ENDPOINT": "http://ada:123/s3cret@collector"},
    )

    assert ended.returncode == 2
    assert ended.stderr.startswith("otel-sessions: OTEL_EXPORTER_OTLP_ENDPOINT takes a URL with at most one @")
    assert ended.stderr.count("\n") == 1
    assert not any(secret in ended.stderr for secret in (*SECRETS, "123"))


@pytest.mark.processes
@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_a_program_names_the_collector_that_it_cannot_reach(protocol: str) -> None:
    collector = "127.0.0.1:9"  # nobody listens there
    process = subprocess.Popen(
        [sys.executable, "-m", "otel_sessions.cli", "load", "--target", "http://127.0.0.1:9", "--clients", "1"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={
            **clean_environ(),
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://ada:s3cret@{collector}",
            "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
        },
    )
    with process, killed_late(process):
        assert process.stderr is not None
        line = next(line for line in process.stderr if "telemetry is lost" in line)

    assert line.startswith(f"telemetry is lost: the export to http://{collector} failed: ")
    assert not any(secret in line for secret in SECRETS)


def test_a_collector_that_never_answers_is_given_two_seconds_at_the_end() -> None:
    """That nothing waits for longer is shown by the proxy, with exports that take ten minutes."""
    assert otlp._FLUSH_SECONDS == 2.0
