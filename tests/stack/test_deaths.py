"""When an instance that died looks dead, and that a living one never does: a real Prometheus, and made-up samples."""

import contextlib
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

import pytest

from .backends import Stack
from .conftest import start_prometheus
from .made_up import Instance, every, write_made_up
from .queries import Query, all_queries

pytestmark = pytest.mark.stack

MINUTE: Final = 60.0
SHORTEST: Final = 5.0
"""The seconds of silence that every instance has."""
NOT_OF_INSTANCES: Final = ("label_values", "ALERTS", "vector($memory_limit)")
SAYING_WHO_IS_GONE: Final = ("Memory now", "Memory, change in 5 min", "GONE with", "annotation")
ASKED: Final = [
    query
    for query in all_queries()
    if query.store == "prometheus"
    and not query.place.startswith("alert")
    and not any(part in query.text for part in NOT_OF_INSTANCES)
]


def named(query: Query) -> str:
    return f"{query.place} {query.target.get('legendFormat', '')}"


COUNTS: Final = [query for query in ASKED if "$__interval" in query.text and "by (job, instance" in query.text]
"""They count what happened, also at an instance that is gone by now."""
SHOWN: Final = [
    query
    for query in ASKED
    if "$__interval" not in query.text
    and not any(part in named(query) for part in (*SAYING_WHO_IS_GONE, "NO CAP"))  # all instances here have a cap
]
SAYING: Final = {named(query): query for query in ASKED if any(part in named(query) for part in SAYING_WHO_IS_GONE)}

Points = dict[float, float]


@dataclass(frozen=True, kw_only=True)
class Told:
    """A Prometheus that was told of instances, some of which died right after an export, at `death`."""

    stack: Stack
    death: float
    instances: dict[str, Instance]

    def points(self, query: Query, *, window: str = "5m") -> dict[str, Points]:
        """Return the largest value that a query has of each instance, for each second around the deaths."""
        text = query.filled(job=".*", instance=".*", window=window)
        start, end = self.death - MINUTE, self.death + 9 * MINUTE
        found: dict[str, Points] = {}
        for labels, points in self.stack.series(text, start, end).items():
            of = dict(pair.split("=", 1) for pair in labels.split(","))
            seen = found.setdefault(of.get("instance", of.get("job", "")), {})
            seen |= {when: max(value, seen.get(when, value)) for when, value in points}
        return found


def instances(death: float) -> Iterator[Instance]:
    """Each exports every 2, 10 or 60 s, some of them unevenly. The dead ones died at once, the new ones began later."""
    later, uneven = death + 10 * MINUTE, (0.0, 0.12, 0.03, 0.18, 0.07)
    for name, seconds in (("fast", 2.0), ("middling", 10.0), ("slow", MINUTE)):
        delays, since = [seconds * share for share in uneven], death - 20 * MINUTE
        yield Instance(name=f"{name}-dead", exports=every(seconds, since=since, until=death))
        yield Instance(name=f"{name}-young-dead", exports=every(seconds, since=death - 2 * seconds, until=death))
        yield Instance(
            name=f"{name}-living", exports=every(seconds, since=death - 20 * MINUTE, until=later, late=delays)
        )
        yield Instance(name=f"{name}-new", exports=every(seconds, since=death + 10, until=later, late=delays))


@pytest.fixture(scope="module", params=["30s", "5m"])
def told(request: pytest.FixtureRequest, stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    """At the lookback of Compose's Prometheus, and at the usual one."""
    death = float(int(time.time()) - 15 * 60)
    made = list(instances(death))
    folder = tmp_path_factory.mktemp("deaths")
    write_made_up(made, folder / "prometheus")
    with contextlib.ExitStack() as started:
        prometheus = start_prometheus(started, folder, lookback=request.param)
        told = replace(stack, prometheus=prometheus)
        yield Told(stack=told, death=death, instances={each.name: each for each in made})


@pytest.mark.parametrize("query", SHOWN, ids=named)
def test_a_dead_instance_ends_two_of_its_exports_later_and_a_living_one_never(told: Told, query: Query) -> None:
    found = told.points(query)
    takes_two_samples = re.search(r"\brate\(", query.text) is not None

    for name, instance in told.instances.items():
        moments = found[name].keys()
        if "dead" in name:
            assert told.death in moments
            assert max(moments) <= told.death + max(SHORTEST, 2 * instance.interval), name
        else:
            since = instance.exports[1 if takes_two_samples else 0]
            lived = [told.death + second for second in range(-60, 9 * 60) if told.death + second >= since]
            assert [moment - told.death for moment in lived if moment not in moments] == [], name


@pytest.mark.parametrize("query", COUNTS, ids=named)
def test_what_happened_until_the_death_is_counted_and_nothing_after_it(told: Told, query: Query) -> None:
    found = told.points(query)

    for name, instance in told.instances.items():
        if name.endswith("-dead"):
            assert told.death in found[name]
            assert max(found[name]) <= instance.exports[-1] + 5 * MINUTE, name


def gone(told: Told, what: str, value: float | None = None, *, window: str = "5m") -> dict[str, tuple[float, float]]:
    """Return when a query that tells of the dead has called which instance gone, by a value or at all: from, to."""
    query = SAYING[what]
    found = {
        name: [when - told.death for when, number in points.items() if value in (None, number)]
        for name, points in told.points(query, window=window).items()
    }
    return {name: (min(moments), max(moments)) for name, moments in found.items() if moments}


DEAD: Final = {
    f"{speed}-{age}dead": (since, 9 * 60)
    for speed, since in (("fast", 6), ("middling", 21), ("slow", 121))
    for age in ("", "young-")
}
"""From when to when each dead instance is called gone, in seconds after its death."""


@pytest.mark.parametrize(
    ("what", "value"),
    [
        ("sessions: Memory now {{instance}}", 0),
        ("sessions: Memory, change in 5 min {{instance}}", 99),
        ("sessions: Active of cap {{instance}} GONE with", None),
    ],
)
def test_the_figures_call_exactly_the_dead_instances_gone(told: Told, what: str, value: float | None) -> None:
    assert gone(told, what, value) == DEAD


@pytest.mark.parametrize("window", ["1m", "5m"])
def test_a_mark_says_when_an_instance_died_whatever_the_window_is(told: Told, window: str) -> None:
    assert gone(told, "sessions: annotation Died ", window=window) == DEAD
