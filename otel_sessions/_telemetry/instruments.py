"""The instruments of a meter provider, made from the tables in `signals` and `fleet_signals`.

The observed metrics of one collection read one `Snapshot`, so an export balances. The histograms are recorded when
sessions and passes end, when a creator has waited, and when the store of a fleet was called.
"""

from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from typing import Final, TypeVar

from opentelemetry.metrics import CallbackOptions, Histogram, Meter, MeterProvider, Observation

from otel_sessions._core.fleet_state import FleetState
from otel_sessions._version import __version__

from . import fleet_signals, signals
from .fleet_instruments import READS as FLEET_READS
from .fleet_instruments import Points
from .providers import ProviderMetrics, Snapshot
from .signals import SCHEMA_URL, SCOPE, Kind, Metric

WordT = TypeVar("WordT", bound=StrEnum)

Observe = Callable[[CallbackOptions], Iterable[Observation]]
_Read = Callable[[Snapshot], Points]


def _created(snapshot: Snapshot) -> Points:
    return [(snapshot.totals.created, {})]


def _cleaned(snapshot: Snapshot) -> Points:
    return _by(signals.REASON, snapshot.totals.cleaned)


def _rejected(snapshot: Snapshot) -> Points:
    return _by(signals.REJECTION, snapshot.totals.rejected)


def _active(snapshot: Snapshot) -> Points:
    return _by(signals.STATE, snapshot.totals.active)


def _reserved(snapshot: Snapshot) -> Points:
    return [(snapshot.totals.reserved, {})]


def _pending(snapshot: Snapshot) -> Points:
    return [(snapshot.totals.waiting, {})]


def _limit(snapshot: Snapshot) -> Points:
    return [] if snapshot.limit is None else [(snapshot.limit, {})]


def _oldest_lease(snapshot: Snapshot) -> Points:
    return [(snapshot.oldest_lease, {})]


def _runs(snapshot: Snapshot) -> Points:
    return [
        (count, {signals.TRIGGER: trigger.value, signals.OUTCOME: outcome.value})
        for (trigger, outcome), count in snapshot.totals.runs.items()
    ]


def _errors(snapshot: Snapshot) -> Points:
    return [
        (count, {signals.STAGE: stage.value, signals.ERROR_TYPE: error_type})
        for (stage, error_type), count in snapshot.totals.errors.items()
    ]


def _interval(snapshot: Snapshot) -> Points:
    return [(snapshot.interval, {})]


def _overdue(snapshot: Snapshot) -> Points:
    return [(snapshot.overdue, {})]


def _forwarded(snapshot: Snapshot) -> Points:
    return _by(signals.FORWARDED, snapshot.totals.forwarded)


def _by(attribute: str, counts: Mapping[WordT, int]) -> Points:
    return [(count, {attribute: word.value}) for word, count in counts.items()]


def _of_fleet(read: Callable[[FleetState], Points]) -> _Read:
    """Return what reads the state of a fleet. A manager without a store has no points."""
    return lambda snapshot: [] if snapshot.fleet is None else read(snapshot.fleet)


_READS: Final[Mapping[Metric, _Read]] = {
    signals.CREATED_SESSIONS: _created,
    signals.CLEANED_SESSIONS: _cleaned,
    signals.REJECTED_SESSIONS: _rejected,
    signals.ACTIVE_SESSIONS: _active,
    signals.RESERVED_PLACES: _reserved,
    signals.PENDING_CREATORS: _pending,
    signals.LIMIT: _limit,
    signals.OLDEST_LEASE: _oldest_lease,
    signals.CLEANUP_RUNS: _runs,
    signals.CLEANUP_ERRORS: _errors,
    signals.CLEANUP_INTERVAL: _interval,
    signals.CLEANUP_OVERDUE: _overdue,
    signals.FORWARDED_REQUESTS: _forwarded,
    **{metric: _of_fleet(read) for metric, read in FLEET_READS.items()},
}


def meter_of(provider: MeterProvider) -> Meter:
    """Return the meter of this package."""
    return provider.get_meter(SCOPE, __version__, SCHEMA_URL)


def observed(meter: Meter, metric: Metric, observe: Observe) -> None:
    """Create the instrument of a metric that is read by `observe` during each collection."""
    create = {
        Kind.COUNTER: meter.create_observable_counter,
        Kind.UP_DOWN_COUNTER: meter.create_observable_up_down_counter,
        Kind.GAUGE: meter.create_observable_gauge,
    }[metric.kind]
    create(metric.name, [observe], metric.unit, metric.description)


def histogram(meter: Meter, metric: Metric) -> Histogram:
    """Create a histogram."""
    return meter.create_histogram(
        metric.name, metric.unit, metric.description, explicit_bucket_boundaries_advisory=metric.buckets
    )


def create_instruments(metrics: ProviderMetrics, provider: MeterProvider) -> None:
    """Create every instrument with `provider`. The instruments report the managers registered in `metrics`."""
    meter = meter_of(provider)
    for metric, read in _READS.items():
        observed(meter, metric, _observer(metrics, metric.name, read))
    metrics.session_duration = histogram(meter, signals.SESSION_DURATION)
    metrics.cleanup_duration = histogram(meter, signals.CLEANUP_DURATION)
    metrics.wait_time = histogram(meter, signals.WAIT_TIME)
    metrics.store_duration = histogram(meter, fleet_signals.STORE_DURATION)


def _observer(metrics: ProviderMetrics, name: str, read: _Read) -> Observe:
    def callback(_: CallbackOptions) -> list[Observation]:
        return [
            Observation(value, {signals.MANAGER_NAME: manager, **attributes})
            for manager, snapshot in metrics.snapshots(name).items()
            for value, attributes in read(snapshot)
        ]

    return callback
