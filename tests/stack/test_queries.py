"""Every query of every panel, variable, annotation and alert, asked of the real stores.

After a run in which nothing goes wrong each has an answer, or is one of those that must be empty then; those have one
after things did go wrong. The table of all of them is printed at the end.
"""

import contextlib
import json
import math
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tests.waiting import until

from .backends import Stack
from .conftest import FLEET_STORY, TABLE, Comparison, Story, start_prometheus
from .queries import ALERTS, EVERYTHING, Query, all_queries, filled, label_query
from .sparse import TIMES, write_blocks

pytestmark = pytest.mark.stack

RESTARTING = "OtelSessionsRestarting"
"""It is right about these tests, which start and kill one proxy after another, in whatever order they run."""
ALL = [query for query in all_queries() if query.place != f"alert {RESTARTING}"]
NAMES = [f"{query.place}: {query.text}" for query in ALL]
EMPTY_WHEN_ALL_IS_WELL = (
    "sessions: annotation Alerts",
    "sessions: annotation Died",
    "cleanup-passes: annotation Alerts",
    "cleanup-passes: annotation Died",
    "fleet: annotation Alerts",
    "fleet: annotation Died",
    "alert OtelSessionsLeaking",
    "alert OtelSessionsCleanupStalled",
    "alert OtelSessionsCleanupErrors",
    "alert OtelSessionsInstanceDied",
    "alert OtelSessionsTelemetryAbsent",
    "alert OtelSessionsTelemetryLost",
    "alert OtelSessionsFleetBooksDoNotBalance",
    "alert OtelSessionsFleetMembershipEnding",
    "alert OtelSessionsFleetResyncs",
    "alert OtelSessionsFleetDeadNotCleaned",
    "alert OtelSessionsFleetStoreFailing",
    "alert OtelSessionsFleetClock",
)
ALWAYS_EMPTY_HERE = (  # their answers are in test_alerts: two take hours, and one must never have any
    "alert OtelSessionsPilingUp",
    "alert OtelSessionsLeaseHeld",
    "alert OtelSessionsBooksDoNotBalance",
)
EMPTY_PARTS_WHEN_ALL_IS_WELL = ("exporter_send_failed", "{{instance}}, NO CAP", "{{instance}} GONE with")
"""What a query asks for or is called that is one of several of its panel."""
BY_AGE = "sessions: Memory, change in 5 min"
"""A panel with a query for old instances, and one for young ones: one of them has an answer."""
WELL = f"story|{FLEET_STORY}"
"""The instances of the run that goes well."""
TAGS = re.compile(r"(\S+?)=(\S+)")


@dataclass(frozen=True, kw_only=True)
class Answer:
    """How many series, traces or lines a query got, and one of them: of numbers the largest."""

    rows: int
    sample: str


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Asks a query about an instance, or about all, within a stretch of time."""

    stack: Stack
    instance: str
    start: float
    end: float
    window: str = "30s"
    step: float = 1.0

    def ask(self, query: Query) -> Answer:
        if query.place == BY_AGE:
            return max(map(self._prometheus, (each for each in ALL if each.place == BY_AGE)), key=lambda it: it.rows)
        return {"prometheus": self._prometheus, "jaeger": self._jaeger, "loki": self._loki}[query.store](query)

    def _prometheus(self, query: Query) -> Answer:
        text = query.filled(instance=self.instance, window=self.window)
        if labels := label_query(text):
            values = self.stack.ask(f"label/{labels[1]}/values", **{"match[]": labels[0]})
            return Answer(rows=len(values), sample=", ".join(values))
        found = self.stack.series(text, self.start, self.end, self.step)
        about = [points for labels, points in found.items() if self._is_about(labels)]
        numbers = [[value for _, value in points if not math.isnan(value)] for points in about]
        largest = [max(values) for values in numbers if values]
        return Answer(rows=len(largest), sample=f"{max(largest):.6g}" if largest else "")

    def _jaeger(self, query: Query) -> Answer:
        target = query.target
        if target.get("queryType") != "search":
            spans = self.stack.trace(target["query"].replace("$trace", self._trace()))
            return Answer(rows=len(spans), sample=spans[0]["operationName"] if spans else "")
        asked = {name: filled(str(value), EVERYTHING) for name, value in target.items()}
        found = self.stack.search_traces(
            service=asked["service"],
            operation=asked["operation"],
            tags=json.dumps(dict(TAGS.findall(asked["tags"]))),  # Grafana translates them in the same way
            limit=asked["limit"],
        )
        return Answer(rows=len(found), sample=found[0]["traceID"] if found else "")

    def _loki(self, query: Query) -> Answer:
        if self.stack.loki is None:
            pytest.skip("this query needs the program loki, which is not here; put one on the PATH")
        found = self.stack.ask_loki(query.filled(trace=self._trace()), self.start, self.end)
        return Answer(rows=len(found), sample=found[0] if found else "")

    def _is_about(self, labels: str) -> bool:
        """Return whether a series is about the instance, or about no one in particular."""
        instances = re.findall(r"(?:^|,)instance=([^,]*)", labels)
        if RESTARTING in labels:
            return False
        return all(re.fullmatch(self.instance, instance) or instance == "otel-collector" for instance in instances)

    def _trace(self) -> str:
        metric = 'otel_sessions_cleanup_duration_seconds_bucket{instance="story"}'
        return self.stack.exemplars(metric, self.start, time.time())[-1]


@pytest.fixture(scope="module")
def well(stack: Stack, story: Story) -> Asked:
    return Asked(stack=stack, instance=WELL, start=story.start, end=story.end)


@pytest.fixture(scope="module")
def sparse(stack: Stack, story: Story, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asked]:
    """The run that went well, told by a program that exports every 60 s. A reader chooses the window of 5 minutes."""
    folder = tmp_path_factory.mktemp("sparse")
    write_blocks(stack, folder / "prometheus", start=story.start, end=story.end)
    with contextlib.ExitStack() as started:
        told = replace(stack, prometheus=start_prometheus(started, folder))
        start = story.end - (story.end - story.start) * TIMES
        yield Asked(stack=told, instance=WELL, start=start, end=story.end, window="5m", step=15.0)


@pytest.fixture(scope="module")
def ill(
    stack: Stack, story: Story, comparison: Comparison, troubled: dict[str, Any], troubled_fleet: None, lossy: None
) -> Asked:
    """From before anything was exported to the end of everything that went wrong."""
    firing = 'ALERTS{alertstate="firing"}'
    until(lambda: stack.instant(firing), bool, seconds=60)
    died = (
        'ALERTS{alertstate="firing", alertname="OtelSessionsInstanceDied"}'  # the proxies of the comparison are killed
    )
    until(lambda: stack.instant(died), bool, seconds=90)
    return Asked(stack=stack, instance=".*", start=stack.started, end=time.time())


@pytest.fixture(scope="module")
def table(report: Path, request: pytest.FixtureRequest) -> Iterator[list[str]]:
    rows: list[str] = []
    yield rows
    text = "\n".join(sorted(rows)) + "\n"
    (report / "queries.txt").write_text(text)
    request.config.stash[TABLE] = text


def row(query: Query, answer: Answer | None, when: str) -> str:
    found = "no Loki here: not asked" if answer is None else f"{answer.rows} x {answer.sample[:44]}"
    return f"{query.place:<52.52} | {' '.join(query.text.split()):<100.100} | {when:<4} | {found}"


def as_fired(query: Query) -> Query:
    """Return what asks whether an alert fires, where it may hold for a while before: on a busy machine it does."""
    for rule in ALERTS:
        if query.place == f"alert {rule['alert']}" and "for" in rule and expected_empty(query):
            return replace(query, target={"expr": f'ALERTS{{alertstate="firing", alertname="{rule["alert"]}"}}'})
    return query


def expected_empty(query: Query) -> bool:
    named = f"{query.text} {query.target.get('legendFormat')}"
    return query.place in (*EMPTY_WHEN_ALL_IS_WELL, *ALWAYS_EMPTY_HERE) or any(
        part in named for part in EMPTY_PARTS_WHEN_ALL_IS_WELL
    )


@pytest.mark.parametrize("query", ALL, ids=NAMES)
def test_a_query_has_an_answer_after_a_run_that_went_well_or_says_that_it_has_none(
    query: Query, well: Asked, table: list[str]
) -> None:
    if query.store == "loki" and well.stack.loki is None:
        table.append(row(query, None, ""))
    answer = well.ask(as_fired(query))
    if expected_empty(query):
        assert answer.rows == 0
    else:
        table.append(row(query, answer, "well"))
        assert answer.rows > 0


@pytest.mark.parametrize(
    "query",
    [query for query in ALL if expected_empty(query) and query.place not in ALWAYS_EMPTY_HERE],
    ids=lambda query: query.place,
)
def test_what_is_empty_when_all_is_well_has_an_answer_when_it_is_not(
    query: Query, ill: Asked, table: list[str]
) -> None:
    answer = ill.ask(query)

    table.append(row(query, answer, "ill"))
    assert answer.rows > 0
    assert float(answer.sample) > 0


@pytest.mark.parametrize(
    "query",
    [query for query in ALL if query.store == "prometheus" and not query.place.startswith("alert")],
    ids=lambda query: f"{query.place}: {query.text}",
)
def test_a_query_has_the_same_kind_of_answer_if_a_program_exports_once_a_minute(
    query: Query, sparse: Asked, table: list[str]
) -> None:
    answer = sparse.ask(query)

    table.append(row(query, answer, "60 s"))
    assert (answer.rows == 0) == expected_empty(query)


def found(stack: Stack, place: str, legend: str, instance: str, start: float, end: float) -> set[float]:
    """Return the numbers that a panel's query of this legend has had."""
    (query,) = [query for query in ALL if query.place == place and query.target.get("legendFormat") == legend]
    series = stack.series(query.filled(instance=instance, window="30s"), start, end)
    return {round(value, 6) for points in series.values() for _, value in points}


def test_the_panels_that_give_a_verdict_say_what_is_the_case(stack: Stack, story: Story, ill: Asked) -> None:
    def said(title: str, legend: str, instance: str) -> set[float]:
        return found(stack, f"sessions: {title}", legend, instance, ill.start, ill.end)

    assert max(said("Active of cap", "{{instance}}, of {{cap}}", "story")) == 1.0
    assert max(said("Active of cap", "{{instance}}, of {{cap}}", "bounded")) == 1.0
    assert not said("Active of cap", "{{instance}}, of {{cap}}", "leaking")
    assert max(said("Active of cap", "{{instance}}, NO CAP", "leaking")) > 100
    assert not said("Active of cap", "{{instance}}, NO CAP", "bounded")
    assert len(said("Active of cap", "{{instance}} GONE with", "leaking")) == 1
    assert not said("Active of cap", "{{instance}} GONE with", "story")  # it ended in order
    assert said("Unaccounted for", NAMED, ".*") == {0.0}
    assert 0.0 in said("Memory now", "{{instance}}", "leaking")  # which is called "gone"


NAMED = "{{instance}}/{{otel_sessions_manager_name}}"


@pytest.mark.parametrize("title", ["Errors, by stage and type", "Errors since the start, by stage and type"])
def test_the_errors_of_managers_in_trouble_are_in_the_panels_of_errors(stack: Stack, ill: Asked, title: str) -> None:
    (errors,) = [query for query in ALL if query.place == f"sessions: {title}"]
    series = stack.series(errors.filled(manager="troubled", instance="trouble"), ill.start, ill.end)

    of = "instance=trouble,job=otel-sessions-proxy,otel_sessions_cleanup_stage"
    assert {labels for labels, points in series.items() if max(value for _, value in points) > 0} == {
        f"error_type={kind},{of}={stage},otel_sessions_manager_name=troubled"
        for stage, kind in (("hook", "ValueError"), ("hook", "timeout"), ("sink", "OSError"), ("pass", "OSError"))
    }
