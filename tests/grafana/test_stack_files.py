"""The stack's files, held against each other and against what Compose makes of them; nothing is started."""

import argparse
import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest
import yaml

from grafana.mixin import mixin, portable
from otel_sessions.demo.processes.mortal import read_turn, seconds_left
from otel_sessions.proxy.settings import add_arguments, read, unread_variables
from tests.stack.alert_cases import CASES
from tests.stack.queries import ALERTS, DASHBOARDS

pytestmark = pytest.mark.no_cover

ROOT = Path(__file__).parents[2]
ADDRESS = r"(?:http|valkey)://([a-z-]+):"
REPLICAS = ("replica-a", "replica-b", "replica-c")
COMPOSE_PROGRAM = Path(sys.executable).parent / "docker-compose"


def data_sources() -> list[dict[str, Any]]:
    sources: list[dict[str, Any]] = yaml.safe_load(
        (ROOT / "grafana/provisioning/datasources/datasources.yaml").read_text()
    )["datasources"]
    return sources


def board_of(rule: dict[str, Any]) -> str:
    """Return the dashboard that shows what an alert is about."""
    name = "fleet" if rule["alert"].startswith("OtelSessionsFleet") else "sessions"
    return f"{DASHBOARDS[name]['uid']}/{name}"


class TestAlerts:
    @pytest.mark.parametrize("rule", ALERTS, ids=[rule["alert"] for rule in ALERTS])
    def test_an_alert_says_how_bad_it_is_and_what_to_do(self, rule: dict[str, Any]) -> None:
        link, _, anchor = rule["annotations"]["runbook_url"].partition("#")

        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["description"]
        assert link == "{{ $externalLabels.runbook }}"
        assert anchor == rule["alert"].lower()
        board, _, chosen = rule["annotations"]["dashboard_url"].partition("?")
        assert board == f"{{{{ $externalLabels.grafana }}}}/d/{board_of(rule)}"
        variables = {f"var-{each['name']}" for each in DASHBOARDS[board.rsplit("/", 1)[1]]["templating"]["list"]}
        assert {name for name, _ in parse_qsl(chosen)} <= variables
        assert bool(chosen) == (rule["alert"] != "OtelSessionsTelemetryAbsent")  # which may be about every job

    def test_the_runbook_begins_with_two_minutes_and_has_a_heading_for_each_alert(self) -> None:
        headings = re.findall(r"^## (.+)$", (ROOT / "grafana/RUNBOOK.md").read_text(), re.MULTILINE)

        assert headings == ["The first two minutes", *(rule["alert"] for rule in ALERTS)]

    def test_the_guide_has_a_row_for_each_alert(self) -> None:
        rows = re.findall(r"^\| `(OtelSessions\w+)` \|", (ROOT / "docs/how-to/grafana.md").read_text(), re.MULTILINE)

        assert rows == [rule["alert"] for rule in ALERTS]

    @pytest.mark.parametrize("rule", ALERTS, ids=[rule["alert"] for rule in ALERTS])
    def test_an_alert_has_cases_in_which_it_fires_and_in_which_it_does_not(self, rule: dict[str, Any]) -> None:
        cases = [case for case in CASES if case.alert == rule["alert"]]

        assert [case for case in cases if case.says is not None]
        assert [case for case in cases if case.says is None and "restart" not in case.name]
        assert [case for case in cases if "restart" in case.name or "start" in case.name]

    @pytest.mark.parametrize("rule", ALERTS, ids=[rule["alert"] for rule in ALERTS])
    def test_an_alert_looks_back_far_enough_for_an_export_a_minute(self, rule: dict[str, Any]) -> None:
        windows = re.findall(r"\[(\d+)(m|h)(?::\w+)?\]", rule["expr"])

        assert all(unit == "h" or int(number) >= 5 for number, unit in windows)

    @pytest.mark.parametrize("rule", ALERTS, ids=[rule["alert"] for rule in ALERTS])
    def test_an_alert_counts_the_first_value_with_which_a_series_begins(self, rule: dict[str, Any]) -> None:
        text = " ".join(rule["expr"].split())
        rising = set(re.findall(r"(?:increase|rate)\(\s*(\w+)", text))
        before = re.findall(r'last_over_time\( ?(?:(\w+)|{__name__=~"([^"]+)"})(?:{[^}]*})?\[1h\] offset 5m', text)

        assert "rate(" not in text
        for name in rising:
            assert any(re.fullmatch(one or other, name) for one, other in before), name

    def test_the_links_of_alerts_lead_to_this_stacks_grafana(self, compose: dict[str, Any]) -> None:
        links = yaml.safe_load((ROOT / "grafana/prometheus.yaml").read_text())["global"]["external_labels"]

        assert links == {"grafana": "${GRAFANA_URL}", "runbook": "${RUNBOOK_URL}"}
        environ = compose["prometheus"]["environment"]
        assert environ["GRAFANA_URL"] == "http://127.0.0.1:3000"
        assert environ["RUNBOOK_URL"] == f"http://127.0.0.1:3000/d/{DASHBOARDS['runbook']['uid']}/runbook"
        moved = composed(GRAFANA_PORT="3001", RUNBOOK_URL="https://wiki.example/us")["prometheus"]["environment"]
        assert (moved["GRAFANA_URL"], moved["RUNBOOK_URL"]) == ("http://127.0.0.1:3001", "https://wiki.example/us")


@pytest.mark.filterwarnings(
    "ignore:Prefer using dashboardv2:DeprecationWarning"
)  # file provisioning wants the old form
class TestMixin:
    def test_the_alerts_carry_the_links_of_ones_own_stack(self) -> None:
        files = mixin(runbook="https://wiki.example/us", grafana="https://grafana.example")

        rules = yaml.safe_load(files["alerts.yaml"])["groups"][0]["rules"]
        assert [rule["alert"] for rule in rules] == [rule["alert"] for rule in ALERTS]
        for rule in rules:
            assert rule["annotations"]["runbook_url"] == f"https://wiki.example/us#{rule['alert'].lower()}"
            assert (
                rule["annotations"]["dashboard_url"].partition("?")[0] == f"https://grafana.example/d/{board_of(rule)}"
            )
        assert "externalLabels" not in files["alerts.yaml"]

    def test_kubernetes_gets_the_same_rules_and_dashboards(self) -> None:
        files = mixin(runbook="https://wiki.example/us", grafana="https://grafana.example")

        rule = yaml.safe_load(files["alerts.prometheusrule.yaml"])
        assert (rule["apiVersion"], rule["kind"]) == ("monitoring.coreos.com/v1", "PrometheusRule")
        assert rule["spec"] == yaml.safe_load(files["alerts.yaml"])
        config = yaml.safe_load(files["dashboards.configmap.yaml"])
        assert config["metadata"]["labels"]["grafana_dashboard"] == "1"
        assert {name: json.loads(text) for name, text in config["data"].items()} == {
            f"{name}.json": json.loads(portable(json.dumps(dashboard))) for name, dashboard in DASHBOARDS.items()
        }
        assert len(files["dashboards.configmap.yaml"]) < 1024 * 1024  # what Kubernetes lets a ConfigMap hold

    def test_nothing_of_the_demo_is_in_a_dashboard_for_others(self) -> None:
        files = mixin(runbook="https://wiki.example/us", grafana="https://grafana.example")

        board = json.loads(files["dashboards/sessions.json"])
        assert "otel-sessions-load" not in json.dumps(board)
        assert "${logs}" not in json.dumps(board)
        variables = {variable["name"]: variable for variable in board["templating"]["list"]}
        assert "logs" not in variables
        assert variables["memory_limit"]["current"]["value"] == "0"  # draws no line
        assert '"name": "logs"' in files["dashboards/cleanup-passes.json"]

    @pytest.mark.parametrize(
        "url", ["grafana.example", "ftp://h", "https://", 'https://h/"x', "https://h/ x", "https://h/{{x"]
    )
    def test_a_link_that_is_none_is_refused(self, tmp_path: Path, url: str) -> None:
        links = ["--runbook", "https://h", "--grafana", url]
        command = [sys.executable, "-m", "grafana.mixin", *links, "--into", str(tmp_path)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

        assert done.returncode == 2
        assert "takes a URL like https://grafana.example" in done.stderr
        assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return composed()


def composed(**environ: str) -> dict[str, Any]:
    """Return the services as Compose makes them, with these variables set."""
    done = subprocess.run(
        [COMPOSE_PROGRAM, "--profile", "compare", "--profile", "fleet", "config", "--format", "json"],
        cwd=ROOT,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    services: dict[str, Any] = json.loads(done.stdout)["services"]
    return services


class TestCompose:
    def test_the_services_are_there(self, compose: dict[str, Any]) -> None:
        ours = {"upstream", "proxy", "load", "proxy-without-cleanup", "load-without-cleanup"}

        fleet = {*REPLICAS, "valkey", "balancer", "load-fleet"}

        assert set(compose) == ours | fleet | {"otel-collector", "prometheus", "jaeger", "loki", "grafana"}

    def test_every_image_is_pinned(self, compose: dict[str, Any]) -> None:
        for service in compose.values():
            assert re.fullmatch(r".+:v?\d+\.\d+\.\d+", service["image"])
        for image in re.findall(r"^FROM (\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE):
            assert image == "python:3.13-slim-bookworm"

    def test_the_images_are_of_the_versions_that_tests_run(self, compose: dict[str, Any]) -> None:
        """Grafana asks Jaeger's `/api/traces`, which a later Jaeger may drop. The queries' tests ask it."""

        def module(program: str, name: str) -> str:
            modules = (ROOT / f"tests/stack/tools/{program}/go.mod").read_text()
            return str(re.findall(rf"\b{name} v([\d.]+)", modules)[0])

        _, collector = compose["otel-collector"]["image"].rsplit(":", 1)
        second, jaeger, fix = compose["jaeger"]["image"].rsplit(":", 1)[1].split(".")
        major, minor, patch = compose["prometheus"]["image"].rsplit(":v", 1)[1].split(".")
        assert collector == module("collector", "go.opentelemetry.io/collector/otelcol")
        assert second == "2"  # each program counts in another way as a module: Jaeger 2.13.0 is 1.76.0
        assert f"1.{int(jaeger) + 63}.{fix}" == module("jaeger", "github.com/jaegertracing/jaeger")
        assert f"0.{major}{minor}.{patch}" == module("prometheus", "github.com/prometheus/prometheus")

    def test_grafana_is_not_of_a_release_that_leaks(self, compose: dict[str, Any]) -> None:
        version = tuple(int(part) for part in compose["grafana"]["image"].rsplit(":", 1)[1].split("."))

        assert version >= (13, 2, 3)

    def test_no_image_is_built_twice(self, compose: dict[str, Any]) -> None:
        built = [service["image"] for service in compose.values() if "build" in service]

        assert built == ["otel-sessions:0.1.0"]

    def test_nothing_is_reachable_from_other_machines(self, compose: dict[str, Any]) -> None:
        ports = [port for service in compose.values() for port in service.get("ports", [])]

        assert ports
        assert {port["host_ip"] for port in ports} == {"127.0.0.1"}

    def test_a_port_that_is_taken_is_changed_by_a_variable(self) -> None:
        names = [
            "GRAFANA_PORT",
            "PROMETHEUS_PORT",
            "JAEGER_PORT",
            "OTLP_GRPC_PORT",
            "OTLP_HTTP_PORT",
            "PROXY_PORTS",
            "FLEET_PORT",
        ]
        chosen = {name: str(9300 + number) for number, name in enumerate(names)}

        services = composed(**chosen)

        published = [port["published"] for service in services.values() for port in service.get("ports", [])]
        assert sorted(published) == sorted(chosen.values())
        assert "--web.external-url=http://127.0.0.1:9301" in services["prometheus"]["command"]

    def test_the_proxy_can_be_scaled(self, compose: dict[str, Any]) -> None:
        (port,) = compose["proxy"]["ports"]
        first, last = port["published"].split("-")

        assert int(last) - int(first) >= 2  # a port for each replica
        assert "OTEL_RESOURCE_ATTRIBUTES" not in compose["proxy"]["environment"]  # and an instance of its own

    def test_no_log_and_no_store_grows_without_a_bound(self, compose: dict[str, Any]) -> None:
        prometheus = yaml.safe_load((ROOT / "grafana/prometheus.yaml").read_text())

        for service in compose.values():
            assert service["logging"] == {"driver": "local", "options": {"max-size": "10m", "max-file": "2"}}
        assert set(prometheus["storage"]["tsdb"]["retention"]) == {"time", "size"}
        assert not [flag for flag in compose["prometheus"]["command"] if "retention" in flag]

    def test_selinux_lets_every_mount_be_read(self) -> None:
        services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
        mounts = [mount for service in services.values() for mount in service.get("volumes", [])]

        assert {mount.split(":")[-1] for mount in mounts if mount.startswith("./")} == {"ro,z"}

    @pytest.mark.parametrize("name", ["otel-collector", "jaeger", "loki"])
    def test_a_go_program_knows_its_memory_limit(self, compose: dict[str, Any], name: str) -> None:
        limit = int(compose[name]["environment"]["GOMEMLIMIT"].removesuffix("MiB")) * 1024 * 1024

        assert 0.75 < limit / int(compose[name]["mem_limit"]) < 0.85

    def test_grafana_downloads_nothing_and_has_memory_enough(self, compose: dict[str, Any]) -> None:
        settings = compose["grafana"]["environment"]

        assert settings["GF_PLUGINS_PREINSTALL_DISABLED"] == "true"
        assert settings["GF_SERVER_ENABLE_GZIP"] == "false"
        assert int(compose["grafana"]["mem_limit"]) == 1024 * 1024 * 1024
        used = {source["type"] for source in data_sources()}
        assert not used & set(settings["GF_PLUGINS_DISABLE_PLUGINS"].split(","))

        assert settings["GF_PLUGINS_PREINSTALL_AUTO_UPDATE"] == "false"  # an update leaves bundled sources unloaded

    def test_loki_is_asked_by_its_own_check_and_says_that_tests_do_not_run_it(self, compose: dict[str, Any]) -> None:
        sources = (ROOT / "grafana/provisioning/datasources/datasources.yaml").read_text()
        words = "not run in our tests"

        assert compose["loki"]["healthcheck"]["test"] == ["CMD", "/usr/bin/loki", "-health"]
        for text in ((ROOT / "docker-compose.yml").read_text(), (ROOT / "grafana/loki.yaml").read_text(), sources):
            assert words in text.lower()
        for dashboard in DASHBOARDS.values():
            for panel in (panel for panel in dashboard["panels"] if panel["type"] == "logs"):
                assert words in panel["description"]

    def test_prometheus_names_metrics_as_the_dashboards_do_and_ends_what_died(self, compose: dict[str, Any]) -> None:
        config = yaml.safe_load((ROOT / "grafana/prometheus.yaml").read_text())

        assert config["otlp"]["translation_strategy"] == "UnderscoreEscapingWithSuffixes"
        assert "service.name" in config["otlp"]["promote_resource_attributes"]
        assert [job["job_name"] for job in config["scrape_configs"]] == ["prometheus"]  # its own health
        assert "--query.lookback-delta=30s" in compose["prometheus"]["command"]

    def test_late_data_is_taken_for_as_long_as_the_collector_sends_it(self) -> None:
        prometheus = yaml.safe_load((ROOT / "grafana/prometheus.yaml").read_text())
        exporters = yaml.safe_load((ROOT / "grafana/otel-collector.yaml").read_text())["exporters"]

        retried = {exporter["retry_on_failure"]["max_elapsed_time"] for exporter in exporters.values()}
        assert retried == {"5m"}
        assert prometheus["storage"]["tsdb"]["out_of_order_time_window"] == "10m"

    def test_every_service_has_a_memory_limit_without_swap(self, compose: dict[str, Any]) -> None:
        for service in compose.values():
            assert int(service["mem_limit"]) == int(service["memswap_limit"])
        assert int(compose["proxy"]["mem_limit"]) == 256 * 1024 * 1024

    def test_every_file_that_is_mounted_exists_and_may_be_read_by_all(self, compose: dict[str, Any]) -> None:
        mounted = [
            Path(volume["source"])
            for service in compose.values()
            for volume in service.get("volumes", [])
            if volume["type"] == "bind"
        ]

        assert len(mounted) >= 6
        for source in mounted:
            for path in [source, *source.rglob("*")]:
                assert path.stat().st_mode & 0o004, path
                assert path.is_file() or path.stat().st_mode & 0o001, path

    def test_every_variable_that_a_configuration_uses_is_set_or_has_a_default(self, compose: dict[str, Any]) -> None:
        files = {"otel-collector": "otel-collector.yaml", "jaeger": "jaeger.yaml", "loki": "loki.yaml"}
        for service, file in files.items():
            text = (ROOT / "grafana" / file).read_text()
            for name, default in re.findall(r"\$\{(?:env:)?(\w+)(:-[^}]+)?\}", text):
                assert default or name in compose[service].get("environment", {})

    def test_the_addresses_in_the_configurations_are_services(self, compose: dict[str, Any]) -> None:
        folder = ROOT / "grafana"
        files = [folder / "otel-collector.yaml", folder / "provisioning/datasources/datasources.yaml"]
        hosts = {host for file in files for host in re.findall(ADDRESS, file.read_text())}
        for service in compose.values():
            settings = json.dumps([service.get("environment"), service["command"], service.get("healthcheck")])
            hosts |= set(re.findall(ADDRESS, settings))

        assert hosts <= set(compose)

    def test_no_proxy_waits_for_the_collector(self, compose: dict[str, Any]) -> None:
        def waited_for(name: str) -> set[str]:
            direct = set(compose[name].get("depends_on", {}))
            return direct.union(*(waited_for(other) for other in direct))

        for name in ("proxy", "proxy-without-cleanup", *REPLICAS):
            assert "otel-collector" not in waited_for(name)

    def test_who_is_waited_for_can_tell_its_health(self, compose: dict[str, Any]) -> None:
        for service in compose.values():
            for name, wait in service.get("depends_on", {}).items():
                if wait["condition"] == "service_healthy":
                    assert "healthcheck" in compose[name]

    def test_our_containers_are_read_only_without_privileges_and_handle_signals(self, compose: dict[str, Any]) -> None:
        ours = [service for service in compose.values() if service["image"].startswith("otel-sessions:")]
        assert len(ours) == 9
        for service in ours:
            assert service["read_only"]
            assert service["cap_drop"] == ["ALL"]
            assert service["init"]
        assert "USER 10001" in (ROOT / "Dockerfile").read_text()

    def test_the_twin_that_leaks_is_not_started_again(self, compose: dict[str, Any]) -> None:
        assert compose["proxy-without-cleanup"]["restart"] == "no"
        assert {service["restart"] for name, service in compose.items() if name != "proxy-without-cleanup"} == {
            "unless-stopped"
        }

    def test_grafana_lets_everybody_look_and_nobody_change(self, compose: dict[str, Any]) -> None:
        settings = compose["grafana"]["environment"]

        assert settings["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
        assert settings["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"] == "true"
        home = settings["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
        assert (ROOT / "grafana/dashboards" / Path(home).name).exists()

    def test_the_collector_limits_its_memory_first_and_below_its_container(self, compose: dict[str, Any]) -> None:
        config = yaml.safe_load((ROOT / "grafana/otel-collector.yaml").read_text())

        for pipeline in config["service"]["pipelines"].values():
            assert pipeline["processors"][0] == "memory_limiter"
        limit = config["processors"]["memory_limiter"]["limit_mib"] * 1024 * 1024
        assert limit < int(compose["otel-collector"]["mem_limit"])
        queues = [exporter["sending_queue"] for exporter in config["exporters"].values()]
        assert {queue["sizer"] for queue in queues} == {"bytes"}
        assert sum(queue["queue_size"] for queue in queues) < limit


class TestFleet:
    def test_without_its_profile_there_is_no_fleet(self) -> None:
        services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]

        for name in (*REPLICAS, "valkey", "balancer", "load-fleet"):
            assert services[name]["profiles"] == ["fleet"]

    @pytest.mark.parametrize("name", REPLICAS)
    def test_a_replica_has_settings_that_the_proxy_takes(self, compose: dict[str, Any], name: str) -> None:
        parser = argparse.ArgumentParser()
        add_arguments(parser)
        parser.add_argument("--dies-in-turn")
        settings = read(parser.parse_args(compose[name]["command"]), compose[name]["environment"])

        assert settings.fleet is not None
        assert settings.fleet.address == f"http://{name}:9001"
        assert settings.fleet.farewell
        assert unread_variables(compose[name]["environment"]) == []

    def test_the_replicas_differ_in_nothing_but_their_names_and_their_turns(self, compose: dict[str, Any]) -> None:
        turns = [compose[name]["command"][-1] for name in REPLICAS]
        alike = {
            json.dumps(compose[name]).replace(name, "replica").replace(turn, "turn")
            for name, turn in zip(REPLICAS, turns, strict=True)
        }

        assert turns == ["1/3", "2/3", "3/3"]
        assert len(alike) == 1

    def test_no_service_gets_dockers_socket(self, compose: dict[str, Any]) -> None:
        assert "docker.sock" not in json.dumps(compose)

    def test_valkey_evicts_no_session_and_keeps_them_on_disk(self, compose: dict[str, Any]) -> None:
        flags = set(compose["valkey"]["command"])

        assert {"--maxmemory-policy=noeviction", "--appendonly=yes"} <= flags
        (most,) = (int(flag.removeprefix("--maxmemory=").removesuffix("mb")) for flag in flags if "maxmemory=" in flag)
        assert most * 1024 * 1024 < int(compose["valkey"]["mem_limit"])
        assert {volume["target"] for volume in compose["valkey"]["volumes"]} == {"/data"}

    def test_the_balancer_asks_for_the_name_that_all_replicas_share(self, compose: dict[str, Any]) -> None:
        aliases = {alias for name in REPLICAS for alias in compose[name]["networks"]["default"]["aliases"]}
        config = (ROOT / "docker/nginx.conf").read_text()

        assert set(re.findall(r"http://(\w+):8080", config)) == aliases
        assert "hash" not in config
        assert "mcp-session-id" not in config

    def test_nginx_takes_the_balancers_configuration(self, tmp_path: Path) -> None:
        nginx = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
        if nginx is None:
            pytest.skip("no nginx")
        config = tmp_path / "nginx.conf"
        config.write_text((ROOT / "docker/nginx.conf").read_text().replace("/tmp/", f"{tmp_path}/"))  # noqa: S108  # not here

        done = subprocess.run(
            [nginx, "-t", "-e", "stderr", "-c", str(config)], capture_output=True, text=True, check=False
        )

        assert done.returncode == 0, done.stderr
        assert "warn" not in done.stderr

    @pytest.mark.parametrize("started", [0.0, 59.9, 100.0, 170.0, 1_764_384_000.5])
    def test_each_minute_exactly_one_replica_dies_and_none_at_once(self, started: float) -> None:
        deaths = set()
        for number in (1, 2, 3):
            now = started
            for _ in range(3):
                left = seconds_left((number, 3), now, 60.0)
                assert left >= 45
                now += left
                deaths.add(now)

        moments = sorted(deaths)
        assert len(moments) == 9
        assert {round(later - sooner) for sooner, later in itertools.pairwise(moments)} <= {60, 120}

    @pytest.mark.parametrize("said", ["", "1", "0/3", "4/3", "1/0", "-1/3", "a/b", "1/3/3"])
    def test_a_turn_that_is_none_is_refused(self, said: str) -> None:
        with pytest.raises(ValueError, match="a turn as 1/3"):
            read_turn(said)

    def test_a_process_whose_turn_has_come_dies_without_a_word(self) -> None:
        code = "import time\nfrom otel_sessions.demo.processes import mortal\nmortal._LEAST_SECONDS = 0\n"
        code += "mortal.die_in_turn((1, 1), every=0.5)\ntime.sleep(600)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)

        assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGKILL, b"", b"")


class Answers(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/well" else 503)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the base class's name
        pass


def probe(url: str) -> int:
    """Run the probe as the containers do."""
    command = [sys.executable, "-I", "-S", str(ROOT / "docker/probe.py"), url]
    return subprocess.run(command, capture_output=True, check=False).returncode


class TestProbe:
    @pytest.mark.parametrize(("path", "status"), [("well", 0), ("ill", 1)])
    def test_the_probe_asks_whether_a_service_is_well(self, path: str, status: int) -> None:
        server = HTTPServer(("127.0.0.1", 0), Answers)
        threading.Thread(target=server.handle_request, daemon=True).start()

        assert probe(f"http://127.0.0.1:{server.server_port}/{path}") == status
        server.server_close()

    def test_the_probe_tells_that_nobody_is_there(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]

        assert probe(f"http://127.0.0.1:{port}/well") == 1

    def test_what_the_image_copies_is_there_and_is_not_ignored(self) -> None:
        allowed = re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
        copied = re.findall(r"^COPY (?!--from)(.+) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
        names = [name for names in copied for name in names.split()]

        assert "docker/probe.py" in names
        for name in names:
            assert (ROOT / name).exists()
            assert name.split("/")[0] in allowed
