"""The names, units and buckets of every metric: the contract with dashboards and alerts.

The observed metrics of one collection read one `Snapshot`, so an export balances. The two histograms are recorded when
sessions and passes end.
"""

from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from typing import Final, TypeVar

from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation

from otel_sessions._version import __version__

from .providers import ProviderMetrics, Snapshot

SCOPE: Final = "otel_sessions"
MANAGER_NAME: Final = "otel_sessions.manager.name"
STATE: Final = "otel_sessions.session.state"
REASON: Final = "otel_sessions.cleanup.reason"
REJECTION: Final = "otel_sessions.rejection.reason"
TRIGGER: Final = "otel_sessions.cleanup.trigger"
OUTCOME: Final = "otel_sessions.cleanup.outcome"
ERROR_TYPE: Final = "error.type"
SESSION_BUCKETS: Final = (1, 5, 10, 30, 60, 300, 600, 1800, 3600, 14400, 43200, 86400)
CLEANUP_BUCKETS: Final = (0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10)


WordT = TypeVar("WordT", bound=StrEnum)

_Points = Iterable[tuple[float, dict[str, str]]]
_Read = Callable[[Snapshot], _Points]


def _created(snapshot: Snapshot) -> _Points:
    return [(snapshot.totals.created, {})]


def _cleaned(snapshot: Snapshot) -> _Points:
    return _by(REASON, snapshot.totals.cleaned)


def _rejected(snapshot: Snapshot) -> _Points:
    return _by(REJECTION, snapshot.totals.rejected)


def _errors(snapshot: Snapshot) -> _Points:
    return _by(ERROR_TYPE, snapshot.totals.errors)


def _active(snapshot: Snapshot) -> _Points:
    return _by(STATE, snapshot.totals.active)


def _reserved(snapshot: Snapshot) -> _Points:
    return [(snapshot.totals.reserved, {})]


def _overdue(snapshot: Snapshot) -> _Points:
    return [(snapshot.overdue, {})]


def _limit(snapshot: Snapshot) -> _Points:
    return [] if snapshot.limit is None else [(snapshot.limit, {})]


def _runs(snapshot: Snapshot) -> _Points:
    return [(n, {TRIGGER: run[0].value, OUTCOME: run[1].value}) for run, n in snapshot.totals.runs.items()]


def _by(attribute: str, counts: Mapping[WordT, int]) -> _Points:
    return [(count, {attribute: word.value}) for word, count in counts.items()]


_COUNTERS: Final[dict[tuple[str, str, str], _Read]] = {
    ("session.created", "{session}", "Sessions created."): _created,
    ("session.cleaned", "{session}", "Sessions cleaned, by end reason."): _cleaned,
    ("session.rejected", "{session}", "Sessions refused, by reason."): _rejected,
    ("cleanup.runs", "{run}", "Cleanup passes that have ended."): _runs,
    ("cleanup.errors", "{error}", "Errors during cleanup, by type."): _errors,
}
_UP_DOWN_COUNTERS: Final[dict[tuple[str, str, str], _Read]] = {
    ("session.active", "{session}", "Sessions that have not been cleaned yet, by state."): _active,
    ("session.reserved", "{session}", "Places that are reserved and are not sessions yet."): _reserved,
    ("session.limit", "{session}", "The cap on sessions."): _limit,
}
_GAUGES: Final[dict[tuple[str, str, str], _Read]] = {
    ("cleanup.overdue", "s", "How late the next interval pass is."): _overdue,
}


def create_instruments(metrics: ProviderMetrics, provider: MeterProvider) -> None:
    """Create every instrument with `provider`. The instruments report the managers registered in `metrics`."""
    meter = provider.get_meter(SCOPE, __version__)
    for create, instruments in (
        (meter.create_observable_counter, _COUNTERS),
        (meter.create_observable_up_down_counter, _UP_DOWN_COUNTERS),
        (meter.create_observable_gauge, _GAUGES),
    ):
        for (name, unit, description), read in instruments.items():
            create(f"{SCOPE}.{name}", [_observer(metrics, name, read)], unit, description)
    metrics.session_duration = meter.create_histogram(
        f"{SCOPE}.session.duration",
        "s",
        "How long sessions lived, by end reason.",
        explicit_bucket_boundaries_advisory=SESSION_BUCKETS,
    )
    metrics.cleanup_duration = meter.create_histogram(
        f"{SCOPE}.cleanup.duration",
        "s",
        "How long cleanup passes took, close hooks and exports included.",
        explicit_bucket_boundaries_advisory=CLEANUP_BUCKETS,
    )


def _observer(metrics: ProviderMetrics, name: str, read: _Read) -> Callable[[CallbackOptions], list[Observation]]:
    def callback(_: CallbackOptions) -> list[Observation]:
        return [
            Observation(value, {MANAGER_NAME: manager, **attributes})
            for manager, snapshot in metrics.snapshots(name).items()
            for value, attributes in read(snapshot)
        ]

    return callback
