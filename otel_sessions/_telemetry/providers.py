"""Which managers' books are reported to which meter provider.

One board for each provider, however many managers there are; a manager that is gone leaves its totals on the board, so
counters never fall and series never vanish. Boards hold books, never managers. What is not decided here: which
instruments read a board (`telemetry`).
"""

import threading
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from opentelemetry import metrics
from opentelemetry.metrics import Histogram, MeterProvider, NoOpHistogram, NoOpMeterProvider

from otel_sessions._core.books import Books, Totals
from otel_sessions._core.forks import forks

MAX_NAMES: Final = 100
OTHER_NAME: Final = "_OTHER"


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """All that a board says about the managers of one name. `limit` is None while one of them has no cap."""

    totals: Totals
    limit: int | None = 0
    overdue: float = 0.0

    def __add__(self, other: "Row") -> "Row":
        return Row(
            totals=self.totals + other.totals,
            limit=None if self.limit is None or other.limit is None else self.limit + other.limit,
            overdue=max(self.overdue, other.overdue),
        )


class Owner(Protocol):
    """Whose books are reported, while it lives."""

    def overdue(self) -> float:
        """Return by how many seconds the next interval pass is late."""

    def has_lost_its_loop(self) -> bool:
        """Return whether nothing of the manager can run any more."""


@dataclass(eq=False, slots=True)
class Entry:
    """One manager's books on a board, under the name that the board gave it; its owner may be gone at any moment.

    `closed` says that the manager has ended, until it is entered again. Its books are still read for as long as it is
    there: a pass that it cut off may be counted a moment later.
    """

    name: str
    books: Books
    board: "Board"
    owner: "weakref.ref[Owner]"
    closed: bool = True

    def open(self) -> None:
        """Note that the manager runs."""
        self.closed = False

    def close(self) -> None:
        """Note that the manager has ended."""
        self.closed = True

    def go_on_in(self, books: Books) -> None:
        """Read other books from now on."""
        self.books = books

    def row(self) -> Row:
        owner = self.owner()
        if owner is None or self.closed or owner.has_lost_its_loop():
            return Row(totals=self.books.totals().settled())
        return Row(totals=self.books.totals(), limit=self.books.limit, overdue=owner.overdue())


class _Collection(threading.local):
    """The collection that runs on this thread: its one snapshot, and which instruments have read it."""

    rows: dict[str, Row]

    def __init__(self) -> None:
        self.rows = {}
        self.readers: set[str] = set()


class Board:
    """The books that one meter provider reports. `session_duration` and `cleanup_duration` are its histograms."""

    def __init__(self) -> None:
        self.session_duration: Histogram = NoOpHistogram("otel_sessions.session.duration")
        self.cleanup_duration: Histogram = NoOpHistogram("otel_sessions.cleanup.duration")
        self.live: dict[Entry, None] = {}
        self.left: dict[str, Row] = {}
        self._names: set[str] = set()
        self._collection = _Collection()
        self._equipping = threading.Lock()
        self._equipped = False

    def start_anew_after_fork(self) -> None:
        """Count nothing that the parent has counted, under a lock that no thread of the parent holds."""
        self._equipping = threading.Lock()
        self._collection = _Collection()
        self.left.clear()
        for entry in self.live:
            entry.go_on_in(Books(entry.books.limit))
            entry.close()

    def equip(self, create: "Callable[[Board], None]") -> None:
        """Create the instruments, once.

        Under a lock of its own: a collection holds the SDK's lock when it asks for `rows`, and creating needs that one.
        """
        with self._equipping:
            if not self._equipped:
                self._equipped = True
                create(self)

    def fold(self, name: str) -> str:
        """Return the name under which a manager is reported: its own, or `_OTHER` past the first hundred names."""
        if name not in self._names:
            if len(self._names) >= MAX_NAMES:
                return OTHER_NAME
            self._names.add(name)
        return name

    def leave(self, name: str, row: Row) -> None:
        self.left[name] = self.left[name] + row if name in self.left else row

    def rows(self, instrument: str) -> dict[str, Row]:
        """Return a row for each name: one snapshot for all the instruments of one collection.

        An instrument that asks again on the same thread is in a new collection.
        """
        collection = self._collection
        if not collection.readers or instrument in collection.readers:
            collection.rows = _registry.read(self)
            collection.readers = set()
        collection.readers.add(instrument)
        return collection.rows


class _Registry:
    """All boards, under one lock. A garbage collection may drop a manager at any point, inside the lock too, so that
    only appends its entry to `_departed`; whoever takes the lock next settles it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._boards: weakref.WeakKeyDictionary[MeterProvider, Board] = weakref.WeakKeyDictionary()
        self._proxied: Board | None = None
        self._departed: deque[Entry] = deque()

    def enter(self, owner: Owner, name: str, books: Books, provider: MeterProvider) -> Entry:
        """Report `books` as they are for as long as `owner` lives, and as they were left from then on."""
        current = global_provider()
        with self._lock:
            self._settle()
            self._unify(current)
            board = self._boards.get(provider)
            if board is None:
                board = self._boards[provider] = Board()
                if _is_proxy(provider):
                    self._proxied = board
            entry = Entry(board.fold(name), books, board, weakref.ref(owner))
            board.live[entry] = None
        finalizer = weakref.finalize(owner, self._departed.append, entry)
        finalizer.atexit = False
        return entry

    def read(self, board: Board) -> dict[str, Row]:
        current = global_provider()
        with self._lock:
            self._settle()
            self._unify(current)
            rows, live = dict(board.left), list(board.live)
        for entry in live:
            row = entry.row()
            rows[entry.name] = rows[entry.name] + row if entry.name in rows else row
        return rows

    def start_anew_after_fork(self) -> None:
        """Take a lock of its own in a forked process, where the thread that may hold the parent's does not run."""
        self._lock = threading.Lock()
        for board in {*self._boards.values(), *(entry.board for entry in self._departed)}:
            board.start_anew_after_fork()

    def _settle(self) -> None:
        while self._departed:
            entry = self._departed.popleft()
            del entry.board.live[entry]
            entry.board.leave(entry.name, entry.row())

    def _unify(self, current: MeterProvider) -> None:
        """Make one of the board behind the API's proxy and the board of the provider that has become the global one.

        The proxy's instruments become the provider's own. Where that one had some already, it keeps those and drops
        the proxy's callbacks in silence: then the older board takes over what is on the proxy's.
        """
        proxied = self._proxied
        if proxied is None or _is_proxy(current):
            return
        board = self._boards.setdefault(current, proxied)
        if board is proxied:
            return
        for entry in list(proxied.live):
            del proxied.live[entry]
            entry.name, entry.board = board.fold(entry.name), board
            board.live[entry] = None
        for name, row in proxied.left.items():
            board.leave(board.fold(name), row)
        proxied.left.clear()


def global_provider() -> MeterProvider:
    """Return the API's global provider; one that does nothing if the configured one cannot be loaded."""
    try:
        return metrics.get_meter_provider()
    except Exception:  # the API has logged it
        return _NO_PROVIDER


def _is_proxy(provider: MeterProvider) -> bool:
    """Return whether this is the API's stand-in, which passes every instrument on once a global provider is set."""
    return hasattr(provider, "on_set_meter_provider")


_NO_PROVIDER: Final = NoOpMeterProvider()
_registry = _Registry()
enter = _registry.enter
forks.add(_registry)
