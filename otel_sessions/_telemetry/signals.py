"""Every metric and span of a manager, as one table: the contract with dashboards and alerts.

`instruments` makes the instruments from this table, and the page of signals shows it. The words of each attribute are
bounded, so `Metric.most_series` says how many time series one meter provider can have: fewer than the 2,000 that
OpenTelemetry's SDKs keep apart.
"""

from dataclasses import dataclass
from enum import StrEnum
from math import prod
from typing import Final

from otel_sessions._core.books import MAX_ERRORS
from otel_sessions._core.words import (
    OTHER,
    CleanupStage,
    EndReason,
    Forwarded,
    Occupancy,
    Outcome,
    RejectionReason,
    Trigger,
)

SCOPE: Final = "otel_sessions"
SCHEMA_URL: Final = "https://opentelemetry.io/schemas/1.44.0"
"""The version of OpenTelemetry's semantic conventions whose names are used: `error.type` and the `http` attributes."""
MAX_NAMES: Final = 100
"""How many names of managers are told apart for a meter provider. Further names count as `_OTHER`."""
MAX_ABORTED: Final = 300
"""How many kinds of aborted passes are told apart by their exception for a meter provider."""

MANAGER_NAME: Final = "otel_sessions.manager.name"
STATE: Final = "otel_sessions.session.state"
REASON: Final = "otel_sessions.session.end_reason"
REJECTION: Final = "otel_sessions.rejection.reason"
TRIGGER: Final = "otel_sessions.cleanup.trigger"
OUTCOME: Final = "otel_sessions.cleanup.outcome"
STAGE: Final = "otel_sessions.cleanup.stage"
EXAMINED: Final = "otel_sessions.cleanup.examined"
CLEANED: Final = "otel_sessions.cleanup.cleaned"
HOOK_ERRORS: Final = "otel_sessions.cleanup.hook_errors"
REMAINING: Final = "otel_sessions.cleanup.remaining"
FORWARDED: Final = "otel_sessions.fleet.outcome"
METHOD: Final = "http.request.method"
STATUS: Final = "http.response.status_code"
ERROR_TYPE: Final = "error.type"


class Kind(StrEnum):
    """The kind of an instrument. All are read during a collection, except histograms."""

    COUNTER = "counter"
    UP_DOWN_COUNTER = "up-down counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, kw_only=True, slots=True)
class Attribute:
    """An attribute of a metric or a span. `words` are the values that are known before anything happens.

    `further` says in plain words which other values there may be.
    """

    name: str
    words: tuple[str, ...] = ()
    further: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """One metric. `buckets` are the upper bounds of a histogram's buckets.

    Each name of a manager has the product of the words of `attributes`. `further` is the largest number of other
    combinations that all names together may have. A metric that is not of a manager has no name.
    """

    name: str
    kind: Kind
    unit: str
    description: str
    attributes: tuple[Attribute, ...] = ()
    buckets: tuple[float, ...] = ()
    further: int = 0
    is_of_a_manager: bool = True

    @property
    def most_series(self) -> int:
        """The largest number of time series with one meter provider."""
        names = MAX_NAMES + 1 if self.is_of_a_manager else 1
        return names * prod(len(attribute.words) for attribute in self.attributes) + self.further


def words_of(attribute: str, words: type[StrEnum]) -> Attribute:
    """Return an attribute whose values are the members of an enumeration."""
    return Attribute(name=attribute, words=tuple(word.value for word in words))


_REASON: Final = words_of(REASON, EndReason)
_TRIGGER: Final = words_of(TRIGGER, Trigger)
_OUTCOME: Final = words_of(OUTCOME, Outcome)
_FORWARDED: Final = words_of(FORWARDED, Forwarded)

CREATED_SESSIONS: Final = Metric(
    name="otel_sessions.session.created", kind=Kind.COUNTER, unit="{session}", description="Sessions created."
)
CLEANED_SESSIONS: Final = Metric(
    name="otel_sessions.session.cleaned",
    kind=Kind.COUNTER,
    unit="{session}",
    description="Sessions cleaned, by end reason.",
    attributes=(_REASON,),
)
REJECTED_SESSIONS: Final = Metric(
    name="otel_sessions.session.rejected",
    kind=Kind.COUNTER,
    unit="{session}",
    description="Sessions refused, by reason.",
    attributes=(words_of(REJECTION, RejectionReason),),
)
ACTIVE_SESSIONS: Final = Metric(
    name="otel_sessions.session.active",
    kind=Kind.UP_DOWN_COUNTER,
    unit="{session}",
    description="Sessions that have not been cleaned yet, by state.",
    attributes=(words_of(STATE, Occupancy),),
)
RESERVED_PLACES: Final = Metric(
    name="otel_sessions.session.reserved",
    kind=Kind.UP_DOWN_COUNTER,
    unit="{session}",
    description="Places that are reserved and are not sessions yet.",
)
PENDING_CREATORS: Final = Metric(
    name="otel_sessions.session.pending",
    kind=Kind.UP_DOWN_COUNTER,
    unit="{request}",
    description="Creators that wait at the cap for a place.",
)
LIMIT: Final = Metric(
    name="otel_sessions.session.limit",
    kind=Kind.UP_DOWN_COUNTER,
    unit="{session}",
    description="The cap on sessions; 0 once the manager has ended, absent without a cap.",
)
SESSION_DURATION: Final = Metric(
    name="otel_sessions.session.duration",
    kind=Kind.HISTOGRAM,
    unit="s",
    description="How long sessions lived, by end reason.",
    attributes=(_REASON,),
    buckets=(
        *(1, 2, 5, 10, 15, 30, 45, 60, 90, 120, 300, 600, 1200, 1800, 2700),
        *(3600, 3900, 4500, 7200, 14400, 43200, 86400, 90000),
    ),
)
WAIT_TIME: Final = Metric(
    name="otel_sessions.session.wait_time",
    kind=Kind.HISTOGRAM,
    unit="s",
    description="How long creators waited at the cap, if they had to wait.",
    buckets=(0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10),
)
OLDEST_LEASE: Final = Metric(
    name="otel_sessions.lease.oldest",
    kind=Kind.GAUGE,
    unit="s",
    description="The age of the lease that has been held longest; 0 without a lease.",
)
CLEANUP_RUNS: Final = Metric(
    name="otel_sessions.cleanup.runs",
    kind=Kind.COUNTER,
    unit="{run}",
    description="Cleanup passes that have ended.",
    attributes=(_TRIGGER, _OUTCOME),
)
CLEANUP_ERRORS: Final = Metric(
    name="otel_sessions.cleanup.errors",
    kind=Kind.COUNTER,
    unit="{error}",
    description="Errors during cleanup, by stage and type.",
    attributes=(
        words_of(STAGE, CleanupStage),
        Attribute(name=ERROR_TYPE, words=(OTHER,), further="`timeout`, the class of an exception"),
    ),
    further=MAX_ERRORS,
)
CLEANUP_INTERVAL: Final = Metric(
    name="otel_sessions.cleanup.interval",
    kind=Kind.GAUGE,
    unit="s",
    description="The configured time between two interval passes; 0 once the manager has ended.",
)
CLEANUP_OVERDUE: Final = Metric(
    name="otel_sessions.cleanup.overdue",
    kind=Kind.GAUGE,
    unit="s",
    description="How late the next interval pass is; 0 on time.",
)
CLEANUP_DURATION: Final = Metric(
    name="otel_sessions.cleanup.duration",
    kind=Kind.HISTOGRAM,
    unit="s",
    description="How long cleanup passes took, close hooks and exports included.",
    attributes=(
        _TRIGGER,
        _OUTCOME,
        Attribute(name=ERROR_TYPE, words=(OTHER,), further="the class of an exception; only if the pass aborted"),
    ),
    buckets=(0.00001, 0.00005, 0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10),
    further=MAX_ABORTED,
)
FORWARDED_REQUESTS: Final = Metric(
    name="otel_sessions.fleet.forwarded",
    kind=Kind.COUNTER,
    unit="{request}",
    description="Requests and WebSockets passed on to another process of the fleet, by outcome.",
    attributes=(_FORWARDED,),
)

METRICS: Final = (
    *(CREATED_SESSIONS, CLEANED_SESSIONS, REJECTED_SESSIONS, ACTIVE_SESSIONS, RESERVED_PLACES, PENDING_CREATORS),
    *(LIMIT, SESSION_DURATION, WAIT_TIME, OLDEST_LEASE, CLEANUP_RUNS, CLEANUP_ERRORS, CLEANUP_INTERVAL),
    *(CLEANUP_OVERDUE, CLEANUP_DURATION, FORWARDED_REQUESTS),
)
"""All metrics of a manager. Each one also carries the name of the manager."""

SPAN: Final = "otel_sessions.cleanup"
"""The name of the span of a cleanup pass."""
SPAN_ATTRIBUTES: Final = (
    Attribute(name=MANAGER_NAME, further="the `name=` of the manager"),
    _TRIGGER,
    _OUTCOME,
    Attribute(name=EXAMINED, further="a number of sessions"),
    Attribute(name=CLEANED, further="a number of sessions"),
    Attribute(name=HOOK_ERRORS, further="a number of close hooks and exports"),
    Attribute(name=REMAINING, further="a number of sessions"),
    Attribute(name=ERROR_TYPE, further="the class of an exception; only if the pass aborted"),
)

FORWARD_SPAN: Final = "otel_sessions.fleet.forward"
"""The name of the client span of a request that is passed on to another process."""
TAKE_SPAN: Final = "otel_sessions.fleet.take"
"""The name of the server span of a request that another process has passed on."""
METHODS: Final = ("CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE")
"""The methods of RFC 9110 and RFC 5789. Other methods are `_OTHER`, as the conventions ask."""
_FORWARDING: Final = (
    Attribute(name=MANAGER_NAME, further="the `name=` of the manager"),
    Attribute(name=METHOD, words=(*METHODS, OTHER)),
    Attribute(name=STATUS, further="a status code; absent without an answer"),
)
FORWARD_ATTRIBUTES: Final = (
    *_FORWARDING,
    _FORWARDED,
    Attribute(name=ERROR_TYPE, further="a status code from 400 on, or the outcome if the owner has not answered"),
)
"""The attributes of the client span."""
TAKE_ATTRIBUTES: Final = (
    *_FORWARDING,
    Attribute(name=ERROR_TYPE, further="a status code from 500 on, or the class of an exception"),
)
"""The attributes of the server span."""
