"""What panels say of one instance among others: a real Prometheus, made-up samples, a short and a long export."""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

import pytest

from .alert_case import EXPORTS, MINUTE, Value, ramp, restarted, steps
from .backends import Stack
from .conftest import start_prometheus
from .made_up import MIB, Instance, every, write_made_up
from .queries import Query, all_queries

pytestmark = pytest.mark.stack

AGE: Final = 20 * MINUTE
"""For how long old instances have been there, in seconds."""
QUERIES: Final = [
    query for query in all_queries() if query.store == "prometheus" and not query.place.startswith("alert")
]
OF_INCREASES: Final = [
    query
    for query in QUERIES
    if "increase(" in query.text
    and "by (le" not in query.text  # their names are not those of instances
    and not query.place.endswith((": Created", ": Calls to the store", ": Passes"))
]


def named(query: Query) -> str:
    return f"{query.place} {query.target.get('legendFormat', '')}"


def memory(*changes: tuple[float, float | None]) -> dict[str, Value]:
    """Return the memory of a process, by its MiB from each second on."""
    sizes = [(since, None if size is None else size * MIB) for since, size in changes]
    return {"memory": steps(*sizes)}


@dataclass(frozen=True, kw_only=True)
class Told:
    stack: Stack
    end: float
    seconds: int
    """Between two exports."""

    def says(self, query: Query) -> dict[str, float]:
        """Return the largest value of each instance at the end."""
        found: dict[str, float] = {}
        window = {"window": f"{5 * self.seconds}s" if self.seconds < MINUTE else "5m"}
        for labels, value in self.stack.instant(query.filled(job=".*", instance=".*", **window), self.end).items():
            of = dict(pair.split("=", 1) for pair in labels.split(","))
            name = of.get("instance", of.get("job", ""))
            found[name] = max(value, found.get(name, value))
        return found


def instances(end: float, seconds: int) -> Iterator[Instance]:
    def one(name: str, values: dict[str, Value], age: float = AGE) -> Instance:
        return Instance(name=name, exports=every(seconds, since=end - age, until=end), values=values)

    lately = AGE - 2 * MINUTE
    yield one("steady", memory((0, 100)))
    yield one("grown", memory((0, 50), (lately, 100)))
    yield one("halved", memory((0, 200), (lately, 100)))
    yield one("behind-a-gap", memory((0, 100), (AGE - 7 * MINUTE, None), (AGE - 4 * MINUTE, 100)))
    yield one("young", memory((0, 40), (MINUTE, 80)), age=3 * MINUTE)
    yield one("new", memory((0, 40)), age=0)
    yield one("restarted", {**memory((0, 190), (lately, 50)), "process_cpu": restarted(ramp(60), lately)})
    first = steps((0, None), (AGE - seconds, 1))
    yield one("first", {"created_total$": ramp(60), "_(total|count|sum|bucket)$": first})
    again = steps((0, 1), (AGE - 14 * MINUTE, None), (AGE - seconds, 1))  # a process that began anew has no such series
    yield one("again", {"created_total$": ramp(60), "_(total|count|sum|bucket)$": again})
    gap = steps((0, 1), (AGE - 14 * MINUTE, None), (AGE - seconds, 1))
    yield one("behind-a-gap-of-all", {".": gap})
    yield Instance(name="gone", exports=every(seconds, since=end - AGE, until=end - 4 * MINUTE))


@pytest.fixture(scope="module", params=list(EXPORTS.values()), ids=list(EXPORTS))
def told(request: pytest.FixtureRequest, stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    end = float(int(time.time()) - 15 * MINUTE)
    folder = tmp_path_factory.mktemp("verdicts")
    write_made_up(instances(end, request.param), folder / "prometheus")
    with contextlib.ExitStack() as started:
        prometheus = start_prometheus(started, folder)
        yield Told(stack=replace(stack, prometheus=prometheus), end=end, seconds=request.param)


def the(panel: str, legend: str) -> Query:
    (query,) = [query for query in QUERIES if query.place == panel and query.target.get("legendFormat") == legend]
    return query


def test_the_change_of_memory_is_that_of_each_instance(told: Told) -> None:
    old = told.says(the("sessions: Memory, change in 5 min", "{{instance}}"))
    young = told.says(the("sessions: Memory, change in 5 min", "{{instance}}, since its start"))

    assert old["steady"] == old["behind-a-gap"] == 0
    assert old["grown"] == pytest.approx(0.5, rel=0.3)  # delta extrapolates
    assert old["halved"] == pytest.approx(-1, rel=0.3)
    assert old["gone"] == 99
    assert young["young"] == pytest.approx(0.5, rel=0.4)
    assert (young["new"], young["restarted"]) == (97, 98)
    assert not old.keys() & young.keys()
    assert old.keys() | young.keys() >= {
        "steady",
        "grown",
        "halved",
        "behind-a-gap",
        "young",
        "new",
        "restarted",
        "gone",
    }


@pytest.mark.parametrize("query", OF_INCREASES, ids=named)
def test_the_first_value_of_a_counter_is_an_increase(told: Told, query: Query) -> None:
    said = told.says(query)

    assert said["first"] > 0
    assert said["again"] > 0
    assert not said.get("behind-a-gap-of-all", 0) > 0
