"""The dashboards, as Grafana would load them: what each panel has, asks and shows; nothing is started."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from grafana import colors
from otel_sessions._core.words import (
    EndReason,
    FleetEndReason,
    Forwarded,
    LookupOutcome,
    MemberState,
    Occupancy,
    OrphanOutcome,
    Outcome,
    RejectionReason,
    Resync,
    Trigger,
)
from otel_sessions._telemetry.fleet_signals import METRICS as FLEET_METRICS
from otel_sessions._telemetry.signals import METRICS, Metric
from tests.stack.queries import DASHBOARDS, Query, all_panels, all_queries, first_screen, panels

pytestmark = pytest.mark.no_cover

ROOT = Path(__file__).parents[2]
QUERIES = list(all_queries())
PANELS = [(name, panel) for name, dashboard in DASHBOARDS.items() for panel in panels(dashboard)]
SHOWN = [f"{name}: {panel['title']}" for name, panel in PANELS]
SERIES = [(name, panel) for name, panel in PANELS if panel["type"] == "timeseries"]
SERIES_SHOWN = [f"{name}: {panel['title']}" for name, panel in SERIES]
WORDS = {
    "otel_sessions_session_end_reason": ((*EndReason, *FleetEndReason), colors.REASONS),
    "otel_sessions_rejection_reason": (RejectionReason, colors.REJECTIONS),
    "otel_sessions_session_state": (Occupancy, colors.STATES),
    "otel_sessions_fleet_member_state": (MemberState, colors.MEMBERS),
    "otel_sessions_fleet_orphan_outcome": (OrphanOutcome, colors.ORPHANS),
    "otel_sessions_fleet_resync_kind": (Resync, colors.RESYNCS),
    "otel_sessions_fleet_lookup_outcome": (LookupOutcome, colors.LOOKUPS),
    "otel_sessions_fleet_outcome": (Forwarded, colors.FORWARDED),
}
"""The words of each label that names curves, and their colors."""
ABOUT_ALL = ("alert", "sessions: annotation", "cleanup-passes: annotation", "fleet: annotation")
"""Where a query may be about every instance."""
TOTALS = re.compile(r"otel_sessions_fleet_(session_(created|cleaned|active|limit|granted)|members)\b")
"""What the store has counted for the whole fleet: it is the same at every instance."""


def of_the_living(text: str) -> str:
    """Return a query without what it asks to know which instances are there."""
    text = re.sub(r"\(time\(\) - .*?, 5, 450\)\)", "SILENT", text)
    return text.replace('otel_sessions_session_created_total{job=~"$job", instance=~"$instance"}', "EXPORTED")


def variables_of(text: str, place: str) -> set[str]:
    """Return under which variables a query has to ask."""
    text = of_the_living(text)
    if re.search("otel_sessions_(session|cleanup|lease|fleet)_", text):
        return {"job", "instance", "manager"}
    if "otelcol_" in text:
        return {"collector"}
    if "process_" in text or "cpython_" in text or "http_server_" in text:
        return {"job", "instance"}
    if "ALERTS" in text:
        return {"job", "instance", *(["collector"] if place.startswith("sessions") else [])}
    if "vector(" in text:
        return {"memory_limit"}
    if "trace_id=" in text or "'query': '$trace'" in text:
        return {"trace"}  # a trace is one of one instance's
    return {"service", "instance"} if text.startswith("{service_name=") else {"service", "trigger", "outcome"}


def curve_names(panel: dict[str, Any]) -> list[str]:
    return [target["legendFormat"] for target in panel["targets"]]


def color_of(panel: dict[str, Any], name: str) -> str | None:
    """Return the color that a panel's overrides give to a curve of this name."""
    for override in panel["fieldConfig"]["overrides"]:
        pattern = str(override["matcher"]["options"])
        if override["matcher"]["id"] == "byRegexp" and re.search(pattern.strip("/"), name):
            for having in override["properties"]:
                if having["id"] == "color":
                    return str(having["value"]["fixedColor"])
    return None


def words_in(panel: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Return each word that may end the name of one of the panel's curves, and its color."""
    for legend in curve_names(panel):
        for label, (words, known) in WORDS.items():
            if legend.endswith(f"{{{{{label}}}}}"):
                yield from ((word.value, known[word.value]) for word in words)


class TestEveryDashboard:
    def test_the_dashboards_are_as_their_description_makes_them(self) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "grafana.describe", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
        )

        assert (done.returncode, done.stdout) == (0, "as described\n"), done.stdout + done.stderr

    @pytest.mark.parametrize("name", DASHBOARDS)
    @pytest.mark.filterwarnings("ignore:Prefer using dashboardv2:DeprecationWarning")
    def test_a_dashboard_is_whole_after_a_way_through_grafanas_schema(self, name: str) -> None:
        from grafana_foundation_sdk.cog.encoder import JSONEncoder  # it warns when it is imported
        from grafana_foundation_sdk.models.dashboard import Dashboard

        read = Dashboard.from_json(json.loads(json.dumps(DASHBOARDS[name])))
        written = json.loads(json.dumps(read, cls=JSONEncoder))

        assert set(paths(DASHBOARDS[name])) - set(paths(written)) == set()

    @pytest.mark.parametrize("name", DASHBOARDS)
    def test_no_panel_overlaps_another_or_leaves_the_grid(self, name: str) -> None:
        taken: dict[tuple[int, int], int] = {}
        for panel in all_panels(DASHBOARDS[name]):
            grid = panel["gridPos"]
            assert grid["x"] >= 0
            assert grid["x"] + grid["w"] <= 24
            for x in range(grid["x"], grid["x"] + grid["w"]):
                for y in range(grid["y"], grid["y"] + grid["h"]):
                    assert taken.setdefault((x, y), panel["id"]) == panel["id"]

    @pytest.mark.parametrize("name", DASHBOARDS)
    def test_panels_have_ids_of_their_own(self, name: str) -> None:
        ids = [panel["id"] for panel in all_panels(DASHBOARDS[name])]

        assert len(set(ids)) == len(ids)

    @pytest.mark.parametrize("name", DASHBOARDS)
    def test_every_variable_is_used(self, name: str) -> None:
        text = json.dumps(DASHBOARDS[name])

        for variable in DASHBOARDS[name]["templating"]["list"]:
            assert f"${variable['name']}" in text or f"${{{variable['name']}}}" in text

    def test_links_and_sources_name_what_there_is(self) -> None:
        file = ROOT / "grafana/provisioning/datasources/datasources.yaml"
        sources = yaml.safe_load(file.read_text())["datasources"]
        text = json.dumps(sources) + json.dumps(DASHBOARDS)

        assert {source["uid"] for source in sources} == {"metrics", "traces", "logs"}
        assert "datasourceUid" not in text  # that link leads to Explore, which a Viewer may not open
        assert set(re.findall(r"/d/([\w-]+)", text)) <= {dashboard["uid"] for dashboard in DASHBOARDS.values()}
        for dashboard in DASHBOARDS.values():
            for variable in dashboard["templating"]["list"]:
                if variable["type"] == "datasource":
                    (source,) = [source for source in sources if source["uid"] == variable["current"]["value"]]
                    assert source["type"] == variable["query"]

    def test_each_heading_of_the_runbook_is_a_panel_to_which_links_lead(self) -> None:
        text = (ROOT / "grafana/RUNBOOK.md").read_text()
        shown = {panel["title"]: panel for panel in DASHBOARDS["runbook"]["panels"]}

        assert list(shown) == ["Which alert", *re.findall(r"^## (.+)$", text, re.MULTILINE)]
        contents = "".join(panel["options"]["content"] for panel in shown.values())
        without_links = re.sub(r"\]\([^)]*\)", "]", contents)
        whole = re.sub(r"\]\([^)]*\)", "]", text)
        assert [line for line in whole.splitlines() if not line.startswith("#") and line not in without_links] == []
        assert "](#" not in contents  # Grafana gives no ids to headings
        linked = re.findall(r"\[(\w+)\]\(/d/otel-sessions-runbook\?viewPanel=(\d+)\)", contents)
        assert {name for name, _ in linked} == {name for name in shown if name.startswith("OtelSessions")}
        assert all(shown[name]["id"] == int(number) for name, number in linked)

    def test_the_runbook_names_panels_rows_and_dashboards_that_there_are(self) -> None:
        text = " ".join((ROOT / "grafana/RUNBOOK.md").read_text().split())
        titles = {panel.get("title") for dashboard in DASHBOARDS.values() for panel in all_panels(dashboard)}
        titles |= {dashboard["title"] for dashboard in DASHBOARDS.values()}

        named = set(re.findall(r"(?<!\*)\*([A-Z][^*]+)\*(?!\*)", text))
        assert len(named) > 8
        assert named <= titles


def paths(value: object, prefix: str = "") -> Iterator[str]:
    """Return the place and the text of each value in a document of JSON."""
    if isinstance(value, dict):
        for name, part in value.items():
            yield from paths(part, f"{prefix}/{name}")
    elif isinstance(value, list):
        for number, part in enumerate(value):
            yield from paths(part, f"{prefix}/{number}")
    elif value is not None:
        yield f"{prefix}={value}"


class TestQueries:
    @pytest.mark.parametrize("query", QUERIES, ids=[f"{query.place}: {query.text[:40]}" for query in QUERIES])
    def test_a_query_asks_a_source_that_can_be_chosen_under_the_dashboards_variables(self, query: Query) -> None:
        if not query.place.startswith("alert"):
            uid = query.target.get("datasource", {"uid": "${metrics}"})["uid"]
            assert uid in ("${metrics}", "${traces}", "${logs}")
        if query.place.startswith(ABOUT_ALL) or "label_values" in query.text:
            return  # a variable narrows the next one
        asked = set(re.findall(r"\$([a-z]\w+)", query.text))
        assert asked - {"window"} == variables_of(query.text, query.place)

    def test_every_query_of_a_panel_has_a_letter_of_its_own(self) -> None:
        for _, panel in PANELS:
            letters = [target["refId"] for target in panel["targets"]]
            assert letters == [chr(ord("A") + number) for number in range(len(letters))]

    @pytest.mark.parametrize("query", QUERIES, ids=[f"{query.place}: {query.text[:40]}" for query in QUERIES])
    def test_a_window_is_the_readers_choice_or_long_enough_for_an_export_a_minute(self, query: Query) -> None:
        if query.store != "prometheus" or query.place.startswith("alert"):
            return
        windows = re.findall(r"\[([^\]:]+)", of_the_living(query.text))

        assert set(windows) <= {"$window", "$__interval", "5m", "15m"}
        assert ("$__interval" in windows) == (query.target.get("interval") == "$window")

    def test_what_is_counted_includes_the_first_value_of_a_series(self) -> None:
        increases = re.compile(r"increase\((\w+\{[^}]*\})\[(\$\w+)\]\)")
        counted = [query for query in QUERIES if "increase(" in query.text and not query.place.startswith("alert")]

        assert len(counted) > 30
        for query in counted:
            assert len(increases.findall(query.text)) == query.text.count("increase(")
            for series, window in increases.findall(query.text):
                begun = (
                    f"((last_over_time({series}[{window}]) unless (last_over_time({series}[{window}] offset {window})"
                )
                assert begun in query.text
                assert f") or increase({series}[{window}]))" in query.text

    def test_a_rate_that_misses_the_first_value_is_of_what_never_rests(self) -> None:
        missing = {query.place for query in QUERIES if re.search(r"\brate\(", query.text)}

        panels = {place for place in missing if not place.startswith("alert")}
        assert panels == {f"sessions: {title}" for title in ("CPU", "Garbage collections", "Into the collector and on")}

    def test_no_panel_asks_for_a_value_that_a_dead_instance_keeps(self) -> None:
        for query in QUERIES:
            of_curves = ": $" not in query.place and "annotation" not in query.place
            if query.store != "prometheus" or not of_curves or query.place.startswith("alert"):
                continue
            text = of_the_living(query.text)
            series = re.findall(r"((?:otel_sessions|otelcol|process|cpython|http)_\w+)\{[^}]*\}(\[?)", text)
            assert all(bracket for _, bracket in series), text
            counts_what_happened = "$__interval" in text
            assert not series or counts_what_happened or "SILENT" in text, text

    @pytest.mark.parametrize("name", sorted(set(DASHBOARDS) - {"runbook", "one-cleanup-pass"}))
    def test_marks_are_in_both_shapes_and_say_who_died(self, name: str) -> None:
        marks = {mark["name"]: mark for mark in DASHBOARDS[name]["annotations"]["list"]}

        assert {"Alerts", "Died"} <= set(marks)
        for mark in marks.values():
            assert mark["target"]["expr"] == mark["expr"]
            assert mark["target"]["refId"]
        assert "{{instance}}" in marks["Died"]["titleFormat"]

    def test_the_figure_of_alerts_says_which_alerts_fire_and_none_if_none_fires(self) -> None:
        figures = [panel for _, panel in PANELS if panel["title"] == "Alerts firing"]

        assert len(figures) == 2
        for panel in figures:
            (target,) = panel["targets"]
            assert target["legendFormat"] == "{{what}}"
            assert '"what", "$1", "alertname", "OtelSessions(.*)"' in target["expr"]
            assert 'or on () label_replace(vector(0), "what", "none"' in target["expr"]
            assert panel["options"]["textMode"] == "value_and_name"

    def test_a_dashboard_with_a_trace_is_opened_by_links_that_name_the_trace(self) -> None:
        traces = {name for name, panel in PANELS if panel["type"] == "traces"}
        file = ROOT / "grafana/provisioning/datasources/datasources.yaml"
        links = re.findall(r"/d/otel-sessions-one-pass[^\"\s]*", json.dumps(DASHBOARDS) + file.read_text())

        assert traces == {"one-cleanup-pass"}
        assert len(links) == 3
        assert all("?var-trace=" in link for link in links)

    def test_the_passes_listed_are_chosen_by_trigger_and_outcome(self) -> None:
        variables = {each["name"]: each for each in DASHBOARDS["cleanup-passes"]["templating"]["list"]}

        for name, words in (("trigger", Trigger), ("outcome", Outcome)):
            values = {option["text"]: option["value"] for option in variables[name]["options"]}
            everything, *chosen = values
            assert everything == variables[name]["current"]["text"] == f"any {name}"
            assert {text: values[text] for text in chosen} == {
                word.value: f"otel_sessions.cleanup.{name}={word.value}" for word in words
            }

    @pytest.mark.parametrize("metric", [*METRICS, *FLEET_METRICS], ids=lambda metric: str(metric.name))
    def test_every_metric_of_ours_is_on_a_dashboard(self, metric: Metric) -> None:
        name = metric.name.replace(".", "_")

        assert [query for query in QUERIES if name in query.text and not query.place.startswith("alert")]


class TestPanels:
    @pytest.mark.parametrize(("dashboard", "panel"), PANELS, ids=SHOWN)
    def test_a_panel_has_a_description_a_unit_thresholds_and_queries(
        self, dashboard: str, panel: dict[str, Any]
    ) -> None:
        defaults = panel["fieldConfig"]["defaults"]

        assert panel["description"].endswith(".")
        assert defaults["unit"]
        assert not defaults["unit"].startswith("suffix: ")  # Grafana sets a space of its own
        assert defaults["thresholds"]["steps"]
        assert panel["targets"]

    @pytest.mark.parametrize(("dashboard", "panel"), SERIES, ids=SERIES_SHOWN)
    def test_thresholds_of_more_than_one_step_can_be_seen(self, dashboard: str, panel: dict[str, Any]) -> None:
        defaults = panel["fieldConfig"]["defaults"]
        style = defaults["custom"].get("thresholdsStyle", {}).get("mode", "off")

        color = defaults.get("color", {})

        many = len(defaults["thresholds"]["steps"]) > 1
        assert many == (style != "off" or color.get("mode") == "thresholds")
        if color.get("mode") == "thresholds":
            assert color["seriesBy"] == "max"  # by default the last value decides, and what is over looks good

    @pytest.mark.parametrize(("dashboard", "panel"), SERIES, ids=SERIES_SHOWN)
    def test_a_legend_is_for_people_and_names_the_instance(self, dashboard: str, panel: dict[str, Any]) -> None:
        repeated = panel["title"] in in_a_row_for_each_instance(dashboard)

        for target in panel["targets"]:
            legend = target["legendFormat"]
            assert legend
            assert legend != "__auto"
            if "unaccounted" not in panel["title"].lower() and TOTALS.search(target["expr"]):
                assert legend.startswith("{{job}}/{{otel_sessions_manager_name}} ")
                assert target["expr"].startswith("max by (job, otel_sessions_manager_name")
            elif "vector(" not in target["expr"]:
                assert repeated or legend.startswith("{{instance}}")
                assert re.search(r"by \([^)]*instance", target["expr"]) or "sum" not in target["expr"]

    @pytest.mark.parametrize(("dashboard", "panel"), SERIES, ids=SERIES_SHOWN)
    def test_what_is_stacked_is_of_one_instance(self, dashboard: str, panel: dict[str, Any]) -> None:
        stacking = panel["fieldConfig"]["defaults"]["custom"].get("stacking", {}).get("mode", "none")

        assert stacking == "none" or panel["title"] in in_a_row_for_each_instance(dashboard)

    @pytest.mark.parametrize(("dashboard", "panel"), SERIES, ids=SERIES_SHOWN)
    def test_a_word_has_the_same_color_on_every_panel(self, dashboard: str, panel: dict[str, Any]) -> None:
        for word, color in words_in(panel):
            assert color_of(panel, word) == color_of(panel, f"proxy-1/mcp {word}") == color

    def test_every_word_that_a_manager_reports_has_a_color(self) -> None:
        for words, known in WORDS.values():
            assert {word.value for word in words} <= set(known)
        (passes,) = [panel for _, panel in SERIES if panel["title"] == "Passes, by trigger and outcome"]
        for trigger in Trigger:
            assert color_of(passes, f"{trigger}: success") == colors.TRIGGERS[trigger]
            for outcome in set(Outcome) - {Outcome.SUCCESS}:
                assert color_of(passes, f"{trigger}: {outcome}") == colors.OUTCOMES[outcome]

    def test_a_total_of_the_fleet_is_the_largest_of_the_instances_and_never_their_sum(self) -> None:
        asked = [query for query in QUERIES if query.place.startswith("fleet: ") and TOTALS.search(query.text)]

        assert len(asked) > 8
        for query in asked:
            if "naccounted" in query.place:
                assert "sum by (job, instance, otel_sessions_manager_name)" in query.text
            else:
                assert "sum" not in query.text

    def test_the_first_screen_tells_the_story(self) -> None:
        first = first_screen()

        assert [panel["title"] for panel in first] == [
            *("Memory now", "Memory, change in 5 min", "Active of cap", "Created so far"),
            *("Unaccounted for", "Alerts firing", "Memory of every instance", "Active sessions and the cap"),
        ]
        assert max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in first) <= 18  # what a laptop shows


def in_a_row_for_each_instance(dashboard: str) -> set[str]:
    """Return the titles of the panels in rows that repeat for each instance."""
    titles, repeats = set(), False
    for panel in DASHBOARDS[dashboard]["panels"]:
        if panel["type"] == "row":
            repeats = panel.get("repeat") == "instance"
        elif repeats:
            titles.add(panel["title"])
    return titles
