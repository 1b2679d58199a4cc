"""The stack, once for all its tests: real programs on loopback, with the repository's own configuration files.

Only addresses and folders differ from what Compose starts: by the substitution that the files themselves provide for,
and, where a program takes them as flags, in the flags of docker-compose.yml.
"""

import contextlib
import json
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.processes import HOST, ROOT, Running, free_port, running, running_module, until_answers
from tests.waiting import PATIENCE, until

from .backends import Stack
from .programs import program

REPORT = ROOT / "build/stack"
"""Where the tests leave the table of queries and the picture of memory."""
TABLE = pytest.StashKey[str]()
LIMITS = {
    "OTEL_SESSIONS_CLEANUP_INTERVAL_SECS": "1",
    "OTEL_SESSIONS_MAX_IDLE_TIME_SECS": "2",
    "OTEL_SESSIONS_MAX_SESSION_AGE_SECS": "15",
    "OTEL_SESSIONS_MAX_SESSIONS": "150",
    "OTEL_SESSIONS_EMERGENCY_IDLE_TIME_SECS": "1.5",
    "OTEL_SESSIONS_EMERGENCY_SESSION_AGE_SECS": "10",
    "OTEL_SESSIONS_CLOSE_TIMEOUT_SECS": "2",
    "OTEL_SESSIONS_DRAIN_TIMEOUT_SECS": "1",
    "OTEL_SESSIONS_SHUTDOWN_TIMEOUT_SECS": "5",
}
"""What a proxy keeps to where a test says nothing else."""
FLEET_STORY = "story-fleet"
"""The instance that tells of a fleet with a store while the story goes on."""
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table of what was asked and answered."""
    table = terminalreporter.config.stash.get(TABLE, None)
    if table is not None:
        terminalreporter.section("what the dashboards and alerts ask, and what they got")
        terminalreporter.write_line(table)


@pytest.fixture(scope="session")
def report() -> Path:
    REPORT.mkdir(parents=True, exist_ok=True)
    for old in REPORT.iterdir():
        old.unlink()
    return REPORT


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with start_stack(tmp_path_factory.mktemp("stack")) as stack:
        yield stack


@dataclass(frozen=True, kw_only=True)
class Story:
    """A run that is over: what the manager itself said at the end, and when it was."""

    books: Mapping[str, Any]
    start: float
    end: float


@pytest.fixture(scope="session")
def story(stack: Stack) -> Story:
    """A proxy that went through every phase, and then shut down; nothing went wrong.

    It begins with the proxy's first export and ends with the last: Prometheus has an answer for every moment between.
    Beside the proxy, a process of a fleet with a store tells its story.
    """
    with told_fleet(stack, "well", FLEET_STORY), start_proxy(stack, "story", OTEL_SESSIONS_MAX_SESSIONS="40") as proxy:
        until(lambda: stack.instant('otel_sessions_session_created_total{instance="story"}'), bool)
        of_everybody = 'ALERTS{alertstate="firing", instance="", alertname!="OtelSessionsRestarting"}'
        until(lambda: stack.instant(of_everybody), lambda firing: not firing)  # of the time before, without metrics
        start = time.time()
        with start_load(stack, proxy, "load-story", "--clients", "100", "--cycle", "24", "--rate", "2") as load:
            until(load.said, lambda said: said.count("phase ramp") > 1)  # it has been through all of them
            load.terminate()
        proxy.process.terminate()
        books = proxy.reading()
    cleaned = 'sum(otel_sessions_session_cleaned_total{instance="story"})'  # all of them in the very last export only
    until(lambda: stack.value(cleaned), lambda value: value == books["created"])
    end = time.time()
    passes = 'otel_sessions_cleanup_duration_seconds_bucket{instance="story"}'
    until(  # spans take a way of their own, which may be the slower one
        lambda: [stack.trace(trace_id) for trace_id in stack.exemplars(passes, start, time.time())],
        lambda traces: bool(traces) and all(traces),
    )
    return Story(books=books, start=start, end=end)


@pytest.fixture(scope="session")
def troubled_fleet(stack: Stack) -> None:
    """A process of a fleet with a store in which everything goes wrong."""
    with told_fleet(stack, "ill", "trouble-fleet"):
        for counter in (
            "resyncs_total",
            "late_total",
            'store_duration_seconds_count{otel_sessions_fleet_store_outcome="unavailable"}',
        ):
            rising = f"sum(increase(otel_sessions_fleet_{counter}[5m]))"
            until(partial(stack.value, rising), lambda value: value > 0)


@pytest.fixture(scope="session")
def troubled(stack: Stack) -> dict[str, Any]:
    """The books of managers in trouble."""
    with running_module("stack.troubled", stack.folder, "4", name="troubled", **stack.export_to("trouble")) as process:
        process.end()
        (line,) = [line for line in process.said().splitlines() if line.startswith("{")]
        books: dict[str, Any] = json.loads(line)
    runs = 'sum(otel_sessions_cleanup_runs_total{otel_sessions_manager_name="troubled"})'
    until(lambda: stack.value(runs), lambda value: value == books["runs"])
    return {**books, "end": time.time()}


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two proxies that were under the same load for the same time, one of them without cleanup and cap."""

    cap: int
    created: int
    start: float
    end: float


@pytest.fixture(scope="session")
def comparison(stack: Stack) -> Comparison:
    cap, seconds = 40, 90.0
    off = {f"OTEL_SESSIONS_{name}": "off" for name in ("MAX_IDLE_TIME_SECS", "MAX_SESSION_AGE_SECS", "MAX_SESSIONS")}
    twin = {**off, "OTEL_SESSIONS_CLEANUP_INTERVAL_SECS": "86400"}
    arguments = ("--clients", "150", "--rate", "4", "--steady", "--duration", str(seconds))
    limits = {  # for clients who are four times as fast as usual
        "OTEL_SESSIONS_CLEANUP_INTERVAL_SECS": "0.5",
        "OTEL_SESSIONS_MAX_IDLE_TIME_SECS": "1",
        "OTEL_SESSIONS_EMERGENCY_IDLE_TIME_SECS": "0.7",
        "OTEL_SESSIONS_MAX_SESSIONS": str(cap),
    }
    with (
        start_proxy(stack, "bounded", **limits) as bounded,
        start_proxy(stack, "leaking", **twin) as leaking,
    ):
        start = time.time()
        with (
            start_load(stack, bounded, "load-bounded", *arguments) as load,
            start_load(stack, leaking, "load-leaking", *arguments) as other,
        ):
            assert load.process.wait(seconds + PATIENCE) == other.process.wait(seconds + PATIENCE) == 0
        end = time.time()
        created = bounded.reading()["created"]
        until_exported(stack, "bounded", bounded)
        until_exported(stack, "leaking", leaking)
    return Comparison(cap=cap, created=created, start=start, end=end)


@pytest.fixture(scope="session")
def lossy(stack: Stack) -> None:
    """A second collector, whose stores refuse what it sends, and which says so to the first one."""
    ports = [free_port() for _ in range(3)]
    environ = {
        "COLLECTOR_INSTANCE": "lossy",
        "COLLECTOR_SELF": stack.otlp,
        "COLLECTOR_HEALTH": f"{HOST}:{ports[0]}",
        "COLLECTOR_GRPC": f"{HOST}:{ports[1]}",
        "COLLECTOR_HTTP": f"{HOST}:{ports[2]}",
        "PROMETHEUS_URL": f"{stack.prometheus}/nowhere",
        "JAEGER_URL": f"{stack.prometheus}/nowhere",
        "LOKI_URL": f"{stack.prometheus}/nowhere",
    }
    command = [program("otelcol"), f"--config={ROOT / 'grafana/otel-collector.yaml'}"]
    with running("lossy", command, stack.folder, environ) as collector:
        until_answers(f"http://{HOST}:{ports[0]}/", collector)
        export = {**stack.export_to("lost"), "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{HOST}:{ports[2]}"}
        with running_module("stack.troubled", stack.folder, "3", name="lost", **export) as process:
            process.end()
        for what in ("metric_points", "spans", "log_records"):
            failed = f'otelcol_exporter_send_failed_{what}_total{{instance="lossy"}}'
            until(partial(stack.value, failed), lambda value: value > 0)


@contextlib.contextmanager
def told_fleet(stack: Stack, how: str, instance: str) -> Iterator[None]:
    """Run a process of a fleet for as long as the block lasts, from its first export on."""
    with running_module("stack.told_fleet", stack.folder, how, name=instance, **stack.export_to(instance)) as process:
        first = f'otel_sessions_fleet_store_duration_seconds_count{{instance="{instance}"}}'
        until(lambda: stack.instant(first), bool)
        yield
        assert process.terminate() == 0, process.said()


@contextlib.contextmanager
def start_stack(folder: Path) -> Iterator[Stack]:
    """Start Prometheus, Jaeger, what takes the logs, and the collector that feeds them."""
    otelcol = program("otelcol")
    ports = {name: free_port() for name in ("jaeger", "traces", "logs", "grpc", "http", "health")}
    began = time.time()
    with contextlib.ExitStack() as started:
        prometheus = start_prometheus(started, folder)
        _start_jaeger(started, folder, ports["jaeger"], ports["traces"])
        loki = _start_loki(started, folder) if shutil.which("loki") else None
        received = _start_log_receiver(started, folder, otelcol, ports["logs"], loki)
        environ = {
            "COLLECTOR_HEALTH": f"{HOST}:{ports['health']}",
            "COLLECTOR_GRPC": f"{HOST}:{ports['grpc']}",
            "COLLECTOR_HTTP": f"{HOST}:{ports['http']}",
            "COLLECTOR_SELF": f"http://{HOST}:{ports['http']}",
            "PROMETHEUS_URL": prometheus,
            "JAEGER_URL": f"http://{HOST}:{ports['traces']}",
            "LOKI_URL": f"http://{HOST}:{ports['logs']}",
        }
        command = [otelcol, f"--config={ROOT / 'grafana/otel-collector.yaml'}"]
        collector = started.enter_context(running("collector", command, folder, environ))
        until_answers(f"http://{HOST}:{ports['health']}/", collector)
        yield Stack(
            prometheus=prometheus,
            jaeger=f"http://{HOST}:{ports['jaeger']}",
            otlp=f"http://{HOST}:{ports['http']}",
            otlp_grpc=f"http://{HOST}:{ports['grpc']}",
            received_logs=received,
            loki=loki,
            collector=collector,
            collector_health=f"http://{HOST}:{ports['health']}/",
            folder=folder,
            started=began,
        )


@dataclass(frozen=True, kw_only=True)
class Proxy:
    """The demo's proxy with an upstream of its own, exporting to the stack."""

    url: str
    process: Running

    def reading(self) -> dict[str, Any]:
        """Return the latest reading: what `get_metrics` says there, and the resident memory.

        When the process is over, that is the one from behind its manager's shutdown.
        """
        *whole, _ = self.process.said().split("\n")
        reading: dict[str, Any] = json.loads([line for line in whole if line.startswith("{")][-1])
        return reading


@contextlib.contextmanager
def start_proxy(stack: Stack, instance: str, **environ: str) -> Iterator[Proxy]:
    """Run a proxy for as long as the block lasts; `environ` may set its limits."""
    upstream, front, health = free_port(), free_port(), free_port()
    export = {**LIMITS, **stack.export_to(instance), **environ}
    behind = ("--listen", f"{HOST}:{upstream}")
    before = ("--listen", f"{HOST}:{front}", "--health", f"{HOST}:{health}", "--readings", "0.5")
    with (
        running_module("demo.processes.upstream", stack.folder, *behind, name=f"upstream-{instance}") as origin,
        running_module(
            "demo.processes.proxy",
            stack.folder,
            *before,
            "--upstream",
            f"http://{HOST}:{upstream}",
            name=instance,
            **export,
        ) as process,
    ):
        until_answers(f"http://{HOST}:{upstream}/healthz", origin)
        until_answers(f"http://{HOST}:{health}/healthz", process)
        yield Proxy(url=f"http://{HOST}:{front}", process=process)


def until_exported(stack: Stack, instance: str, proxy: Proxy) -> None:
    """Wait until Prometheus has what the proxy's own books say; nobody may open a session meanwhile."""
    created = f'otel_sessions_session_created_total{{instance="{instance}"}}'
    cleaned = f'sum(otel_sessions_session_cleaned_total{{instance="{instance}"}})'

    until(lambda: stack.value(created) - proxy.reading()["created"], lambda missing: missing == 0)
    until(lambda: stack.value(cleaned) - sum(proxy.reading()["cleaned"].values()), lambda missing: missing == 0)


@contextlib.contextmanager
def start_load(stack: Stack, proxy: Proxy, name: str, *arguments: str) -> Iterator[Running]:
    """Run the load against a proxy, until it is stopped or the block ends."""
    export = {**stack.export_to(name), "OTEL_SERVICE_NAME": "otel-sessions-load"}
    with running_module("cli", stack.folder, "load", "--target", proxy.url, *arguments, name=name, **export) as load:
        yield load


def start_prometheus(started: contextlib.ExitStack, folder: Path, *, lookback: str | None = None) -> str:
    """Start a Prometheus on what stands in the folder, and return its address.

    Without a lookback of its own, it has the one of Compose.
    """
    port = free_port()
    flags = {
        "--config.file": str(ROOT / "grafana/prometheus.yaml"),
        "--storage.tsdb.path": str(folder / "prometheus"),
        "--web.listen-address": f"{HOST}:{port}",
        "--web.external-url": f"http://{HOST}:{port}",
        **({} if lookback is None else {"--query.lookback-delta": lookback}),
    }
    command = [program("prometheus")]
    for flag in COMPOSE["services"]["prometheus"]["command"]:
        name, _, value = flag.partition("=")
        value = flags.get(name, value)
        command.append(f"{name}={value}" if value else name)
    links = {"GRAFANA_URL": f"http://{HOST}:3000", "RUNBOOK_URL": f"http://{HOST}:3000/runbook"}
    prometheus = started.enter_context(running("prometheus", command, folder, links))
    until_answers(f"http://{HOST}:{port}/-/ready", prometheus)
    return f"http://{HOST}:{port}"


def _start_jaeger(started: contextlib.ExitStack, folder: Path, query: int, otlp: int) -> Running:
    health = free_port()
    environ = {
        "JAEGER_HEALTH": f"{HOST}:{health}",
        "JAEGER_QUERY": f"{HOST}:{query}",
        "JAEGER_QUERY_GRPC": f"{HOST}:{free_port()}",
        "JAEGER_OTLP": f"{HOST}:{otlp}",
    }
    command = [program("jaeger"), "--config", str(ROOT / "grafana/jaeger.yaml")]
    jaeger = started.enter_context(running("jaeger", command, folder, environ))
    until_answers(f"http://{HOST}:{health}/status", jaeger)
    return jaeger


def _start_loki(started: contextlib.ExitStack, folder: Path) -> str:
    port = free_port()
    environ = {
        "LOKI_HOST": HOST,
        "LOKI_PORT": str(port),
        "LOKI_GRPC_PORT": str(free_port()),
        "LOKI_PATH": str(folder / "loki"),
    }
    command = [program("loki"), f"-config.file={ROOT / 'grafana/loki.yaml'}", "-config.expand-env=true"]
    loki = started.enter_context(running("loki", command, folder, environ))
    until_answers(f"http://{HOST}:{port}/ready", loki)
    return f"http://{HOST}:{port}"


def _start_log_receiver(started: contextlib.ExitStack, folder: Path, otelcol: str, port: int, loki: str | None) -> Path:
    """Start a second collector at Loki's door: it writes down what Loki is sent, and sends it on where there is one."""
    received, health = folder / "logs.jsonl", free_port()
    config = folder / "log-receiver.yaml"
    receiver = {"protocols": {"http": {"endpoint": f"{HOST}:{port}", "logs_url_path": "/otlp/v1/logs"}}}
    exporters: dict[str, Any] = {"file": {"path": str(received), "flush_interval": "200ms"}}
    if loki is not None:
        exporters["otlp_http"] = {"endpoint": f"{loki}/otlp"}
    config.write_text(
        yaml.safe_dump(
            {
                "extensions": {"health_check": {"endpoint": f"{HOST}:{health}"}},
                "receivers": {"otlp": receiver},
                "exporters": exporters,
                "service": {
                    "extensions": ["health_check"],
                    "pipelines": {"logs": {"receivers": ["otlp"], "exporters": list(exporters)}},
                    "telemetry": {"metrics": {"level": "none"}},
                },
            }
        )
    )
    process = started.enter_context(running("log-receiver", [otelcol, f"--config={config}"], folder))
    until_answers(f"http://{HOST}:{health}/", process)
    return received
