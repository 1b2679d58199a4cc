"""Runs of the demo as they might have been, for what is computed from them."""

from collections.abc import Mapping
from dataclasses import replace

from otel_sessions import EndReason
from otel_sessions.demo.limits import usual_limits, without_cleanup
from otel_sessions.demo.load.clients import LoadOptions
from otel_sessions.demo.load.counts import ClientCounts, Snapshot
from otel_sessions.demo.processes.readings import Reading
from otel_sessions.demo.result.history import History, Sample, State
from otel_sessions.demo.result.verdict import MIB

CLIENTS = 16
REASONS: Mapping[str, int] = {reason.value: 0 for reason in EndReason}


def reading(created: int, active: int, memory: int = 50 * MIB, **cleaned: int) -> Reading:
    return Reading(
        created=created,
        active=active,
        peak_active=8,
        cleaned={**REASONS, **cleaned},
        rejected={"max_sessions": 3},
        passes=4,
        errors=0,
        overstaying=0,
        memory=memory,
    )


def sample(elapsed: float, reading: Reading, abandoned: int = 0, **counts: int) -> Sample:
    counted = {"requests": round(elapsed * 10), "rejected": 3, "told_to_wait": 3, **counts}
    return Sample(elapsed=elapsed, reading=reading, counts=Snapshot(abandoned=abandoned, **counted))


GOOD = History(
    limits=usual_limits(CLIENTS),
    start=reading(0, 0),
    samples=[
        sample(1.0, reading(9, 6, closed=3)),
        sample(4.0, reading(12, 8, closed=4), abandoned=2),
        sample(20.0, reading(14, 8, closed=4, idle_timeout=2), abandoned=2),
    ],
    last=reading(14, 0, closed=4, idle_timeout=2, shutdown=8),
    counts=ClientCounts(opened=14, closed=4, abandoned=2, rejected=3, told_to_wait=3, requests=200),
)
LEAKING = History(
    limits=without_cleanup(GOOD.limits),
    start=reading(0, 0),
    samples=[
        sample(1.0, reading(9, 6, closed=3)),
        sample(20.0, reading(60, 40, 200 * MIB, closed=20), abandoned=30),
    ],
    last=reading(60, 0, 60 * MIB, closed=20, shutdown=40),
    counts=ClientCounts(opened=60, closed=20, abandoned=30, rejected=3, requests=300),
)
OVER = State(
    ours=GOOD,
    twin=LEAKING,
    duration=20.0,
    elapsed=20.0,
    stage=None,
    load=LoadOptions(clients=CLIENTS, rate=1.0, seed=1),
)
ALONE = replace(OVER, twin=None)


def with_samples(history: History, *samples: Sample) -> History:
    return replace(history, samples=samples)
