"""Which managers' books are reported to which meter provider.

Each provider has one `ProviderMetrics`, however many managers there are. A manager that is gone leaves its totals
there, so no counter falls and no series vanishes. `ProviderMetrics` holds books, never managers. `instruments` decides
which instruments read the books.
"""

import threading
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, Protocol

from opentelemetry import metrics as otel_metrics
from opentelemetry.metrics import Histogram, MeterProvider, NoOpHistogram, NoOpMeterProvider

from otel_sessions._core.books import MAX_ERRORS, Books, Error, Totals
from otel_sessions._core.fleet_state import FleetState
from otel_sessions._core.forks import forks
from otel_sessions._core.words import OTHER, StoreOperation, StoreOutcome, Trigger

from .fleet_signals import MAX_FAILING, STORE_DURATION
from .signals import CLEANUP_DURATION, MAX_ABORTED, MAX_NAMES, SESSION_DURATION, WAIT_TIME


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """All that is exported about the managers of one name.

    `limit` is None while a manager of this name has no cap. `overdue`, `oldest_lease` and `interval` are in seconds; of
    several managers, each one is the largest. `fleet` is None without a fleet that has a store.
    """

    totals: Totals
    limit: int | None = 0
    overdue: float = 0.0
    oldest_lease: float = 0.0
    interval: float = 0.0
    fleet: FleetState | None = None

    def __add__(self, other: "Snapshot") -> "Snapshot":
        return Snapshot(
            totals=self.totals + other.totals,
            limit=None if self.limit is None or other.limit is None else self.limit + other.limit,
            overdue=max(self.overdue, other.overdue),
            oldest_lease=max(self.oldest_lease, other.oldest_lease),
            interval=max(self.interval, other.interval),
            fleet=other.fleet
            if self.fleet is None
            else self.fleet
            if other.fleet is None
            else self.fleet + other.fleet,
        )


class Owner(Protocol):
    """The object whose books are reported while it lives. `interval` is the time between passes, in seconds."""

    interval: float

    def overdue(self) -> float:
        """Return how late the next interval pass is, in seconds."""

    def oldest_lease(self) -> float:
        """Return the age of the lease that has been held longest, in seconds; 0 without a lease."""

    def fleet_state(self) -> FleetState | None:
        """Return the state of a fleet with a store, or None if it cannot be known. Asked only after `join_fleet`."""

    def has_lost_its_loop(self) -> bool:
        """Return whether the loop of the manager is closed."""


@dataclass(eq=False, slots=True)
class Registration:
    """One manager's books and the name on its metrics. The owner, which stands for the manager, may go at any moment.

    `closed` says that the manager is not running. Its books are still read: a pass that was cut off by the end may be
    counted a moment later.
    """

    name: str
    books: Books
    metrics: "ProviderMetrics"
    owner: "weakref.ref[Owner]"
    closed: bool = True
    in_fleet: bool = False
    """Whether the owner is asked for the state of a fleet."""
    fleet: FleetState | None = None
    """The last state of the fleet that is known."""

    def open(self) -> None:
        """Note that the manager runs."""
        self.closed = False

    def close(self) -> None:
        """Note that the manager has ended. The counts of its fleet are read now: the manager may be gone at once."""
        self.closed = True
        self._fleet_of(self.owner())

    def join_fleet(self) -> None:
        """Report the state of a fleet with a store from now on."""
        self.in_fleet = True

    def forget(self) -> None:
        """Begin anew in a forked process: the counts belong to the parent process."""
        self.in_fleet, self.fleet = False, None
        self.go_on_in(Books(self.books.limit))
        self.close()

    def go_on_in(self, books: Books) -> None:
        """Read `books` from now on."""
        self.books = books

    def snapshot(self) -> Snapshot:
        owner = self.owner()
        fleet = self._fleet_of(owner)
        if owner is None or self.closed or owner.has_lost_its_loop():
            left = Snapshot(totals=self.books.totals().settled(), fleet=None if fleet is None else fleet.settled())
            return self.metrics.told_apart(self.name, left)
        snapshot = Snapshot(
            totals=self.books.totals(),
            limit=self.books.limit,
            overdue=owner.overdue(),
            oldest_lease=owner.oldest_lease(),
            interval=owner.interval,
            fleet=fleet,
        )
        return self.metrics.told_apart(self.name, snapshot)

    def _fleet_of(self, owner: Owner | None) -> FleetState | None:
        if owner is not None and self.in_fleet:
            self.fleet = owner.fleet_state() or self.fleet
        return self.fleet


class _Collection(threading.local):
    """The collection that runs on this thread: its one snapshot, and the instruments that have read the snapshot."""

    snapshots: dict[str, Snapshot]

    def __init__(self) -> None:
        self.snapshots = {}
        self.readers: set[str] = set()


class _Known:
    """The first `most` things that were seen. They are told apart for good; later things are not."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._things: set[tuple[str, ...]] = set()

    def tells_apart(self, *thing: str) -> bool:
        if thing not in self._things:
            if len(self._things) >= self._most:
                return False
            self._things.add(thing)
        return True


class ProviderMetrics:
    """The books that one meter provider reports. Its histograms are attributes.

    The names of managers and the classes of exceptions come from outside. Each is told apart until there are too many,
    and is `_OTHER` after that, so the number of time series is bounded.
    """

    def __init__(self) -> None:
        self.session_duration: Histogram = NoOpHistogram(SESSION_DURATION.name)
        self.cleanup_duration: Histogram = NoOpHistogram(CLEANUP_DURATION.name)
        self.wait_time: Histogram = NoOpHistogram(WAIT_TIME.name)
        self.store_duration: Histogram = NoOpHistogram(STORE_DURATION.name)
        self.registered: dict[Registration, None] = {}
        self.departed: dict[str, Snapshot] = {}
        self._names = _Known(MAX_NAMES)
        self._errors = _Known(MAX_ERRORS)
        self._aborted = _Known(MAX_ABORTED)
        self._failing = _Known(MAX_FAILING)
        self._collection = _Collection()
        self._creating = threading.Lock()
        self._created = False

    def start_anew_after_fork(self) -> None:
        """Drop the counts of the parent process, and take a new lock, which no thread of the parent holds."""
        self._creating = threading.Lock()
        self._collection = _Collection()
        self.departed.clear()
        for registration in self.registered:
            registration.forget()

    def create_instruments_once(self, create: "Callable[[ProviderMetrics], None]") -> None:
        """Create the instruments, unless they exist already.

        This method has its own lock: a collection holds the SDK's lock while it calls `snapshots`, and creating an
        instrument needs the SDK's lock, too.
        """
        with self._creating:
            if not self._created:
                self._created = True
                create(self)

    def reported_name(self, name: str) -> str:
        """Return the name under which a manager is reported: its own, or `_OTHER` after the first hundred names."""
        return name if self._names.tells_apart(name) else OTHER

    def aborted_by(self, name: str, trigger: Trigger, error_type: str) -> str:
        """Return the `error.type` under which the duration of an aborted pass is recorded."""
        return error_type if self._aborted.tells_apart(name, trigger, error_type) else OTHER

    def called_as(self, name: str, operation: StoreOperation, outcome: StoreOutcome) -> str:
        """Return the operation under which the duration of a call to a store is recorded."""
        if outcome is StoreOutcome.ANSWERED or self._failing.tells_apart(name, operation):
            return operation.value
        return OTHER

    def told_apart(self, name: str, snapshot: Snapshot) -> Snapshot:
        """Return a snapshot whose errors are those that are told apart; the others count as `_OTHER`."""
        errors: dict[Error, int] = {}
        for (stage, error_type), count in snapshot.totals.errors.items():
            is_known = error_type == OTHER or self._errors.tells_apart(name, stage, error_type)
            error = (stage, error_type if is_known else OTHER)
            errors[error] = errors.get(error, 0) + count
        return replace(snapshot, totals=replace(snapshot.totals, errors=errors))

    def add_departed(self, name: str, snapshot: Snapshot) -> None:
        _add(self.departed, name, self.told_apart(name, snapshot))

    def snapshots(self, instrument: str) -> dict[str, Snapshot]:
        """Return a snapshot for each name: one snapshot for all the instruments of one collection.

        An instrument that asks again on the same thread is in a new collection.
        """
        collection = self._collection
        if not collection.readers or instrument in collection.readers:
            collection.snapshots = _registry.read(self)
            collection.readers = set()
        collection.readers.add(instrument)
        return collection.snapshots


class _Registry:
    """The metrics of all providers, under one lock.

    A garbage collection may drop a manager at any point, also inside the lock. So the finalizer only appends the
    manager's registration to `_departed`. The next thread that takes the lock settles the registration.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._metrics: weakref.WeakKeyDictionary[MeterProvider, ProviderMetrics] = weakref.WeakKeyDictionary()
        self._proxied: ProviderMetrics | None = None
        self._departed: deque[Registration] = deque()

    def enter(self, owner: Owner, name: str, books: Books, provider: MeterProvider) -> Registration:
        """Report `books` as they are while `owner` lives, and as they were left after that."""
        current = global_provider()
        with self._lock:
            self._settle()
            self._unify(current)
            metrics = self._metrics.get(provider)
            if metrics is None:
                metrics = self._metrics[provider] = ProviderMetrics()
                if is_proxy(provider):
                    self._proxied = metrics
            registration = Registration(metrics.reported_name(name), books, metrics, weakref.ref(owner))
            metrics.registered[registration] = None
        finalizer = weakref.finalize(owner, self._departed.append, registration)
        finalizer.atexit = False
        return registration

    def read(self, metrics: ProviderMetrics) -> dict[str, Snapshot]:
        current = global_provider()
        with self._lock:
            self._settle()
            self._unify(current)
            snapshots, registered = dict(metrics.departed), list(metrics.registered)
        for registration in registered:
            _add(snapshots, registration.name, registration.snapshot())
        return snapshots

    def start_anew_after_fork(self) -> None:
        """Take a new lock in a forked process, where a thread that may hold the old lock does not run."""
        self._lock = threading.Lock()
        for metrics in {*self._metrics.values(), *(registration.metrics for registration in self._departed)}:
            metrics.start_anew_after_fork()

    def _settle(self) -> None:
        while self._departed:
            registration = self._departed.popleft()
            del registration.metrics.registered[registration]
            registration.metrics.add_departed(registration.name, registration.snapshot())

    def _unify(self, current: MeterProvider) -> None:
        """Join the managers registered with the API's proxy to the provider that has become the global provider.

        The API's proxy passes its instruments on to the global provider. If that provider has our instruments already,
        it drops the proxy's callbacks in silence. So the proxy's managers move to the provider's metrics.
        """
        proxied = self._proxied
        if proxied is None or is_proxy(current):
            return
        metrics = self._metrics.setdefault(current, proxied)
        if metrics is proxied:
            return
        for registration in list(proxied.registered):
            del proxied.registered[registration]
            registration.name, registration.metrics = metrics.reported_name(registration.name), metrics
            metrics.registered[registration] = None
        for name, snapshot in proxied.departed.items():
            metrics.add_departed(metrics.reported_name(name), snapshot)
        proxied.departed.clear()


def global_provider() -> MeterProvider:
    """Return the API's global provider, or a no-op provider if the configured provider cannot be loaded."""
    try:
        return otel_metrics.get_meter_provider()
    except Exception:  # the API has logged the error
        return _NO_PROVIDER


def _add(snapshots: dict[str, Snapshot], name: str, snapshot: Snapshot) -> None:
    snapshots[name] = snapshots[name] + snapshot if name in snapshots else snapshot


def is_proxy(provider: MeterProvider) -> bool:
    """Return whether this is the API's proxy, which forwards its instruments when a global provider is set."""
    return hasattr(provider, "on_set_meter_provider")


_NO_PROVIDER: Final = NoOpMeterProvider()
_registry = _Registry()
enter = _registry.enter
forks.add(_registry)
