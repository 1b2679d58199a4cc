"""Which process has a session, and what a manager asks of the fleet that its process belongs to.

A fleet is several processes that find each other's sessions. `otel_sessions.fleet` has the fleets. The engine knows
only what stands here. A manager without a fleet asks nothing.
"""

from collections.abc import Awaitable, Callable, Container, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

from opentelemetry.trace import TracerProvider

from otel_sessions._core.books import Books
from otel_sessions._core.fleet_state import FleetState
from otel_sessions._core.ids import without_hint
from otel_sessions._core.words import StoreOperation, StoreOutcome
from otel_sessions._telemetry.telemetry import Telemetry


@dataclass(frozen=True, kw_only=True, slots=True)
class Here:
    """This process has the session."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Peer:
    """Another process of the fleet: its `name`, and its `address` for forwarded requests.

    The address is a URL as `http://10.0.0.7:9001` or `https://gateway-1:9001`, or `unix:/run/gateway-1.sock`.
    """

    name: str
    address: str


class Fleet(Protocol):
    """The fleet of a process, as its manager sees it. It belongs to one manager."""

    @property
    def name(self) -> str:
        """The name of this process. It is the hint in the ids that this process makes."""

    def enter(self) -> None:
        """Begin with a run of the manager. Raises `ConfigError` if the fleet cannot work here."""

    def leave(self) -> None:
        """End with the run. Exchanges that are still being forwarded end, too. May be called again."""

    async def wait_quiet(self) -> None:
        """Wait until no exchange is being forwarded to another process."""

    def locate(self, session_id: str) -> Awaitable[Peer | None]:
        """Return the other process that an id leads to, or None if the id leads to no process of the fleet.

        The process may not have the session any more. Raises `PeerUnavailable` if the answer cannot be known now.
        """


class NotAnswered(Exception):
    """A process has not answered a question. The text says why."""


@runtime_checkable
class Asking(Protocol):
    """A fleet whose processes answer questions of admin tools. `ask` and `given` are as `inquiries.answer` takes."""

    async def others(self) -> Mapping[str, Peer | None]:
        """Return the other processes by name. None stands for a process that does not say its name now."""

    async def ask(self, peer: Peer, ask: str, given: Mapping[str, object]) -> dict[str, object]:
        """Return the answer of a process. Raises `NotAnswered`, and `ConfigError` if a keyword is wrong."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reports:
    """Where a fleet reports what it does during one run of a manager: the manager's name, books and tracer provider.

    A tracer provider that is None is the global provider.
    """

    manager: str
    books: Books
    tracer_provider: TracerProvider | None


@runtime_checkable
class Reporting(Protocol):
    """A fleet that has signals."""

    def report(self, reports: Reports) -> None:
        """Report to these from now on. Called right after each `enter`."""


Called: TypeAlias = Callable[[StoreOperation, StoreOutcome, float], None]
"""Takes what was asked of a store, what became of the call, and how many seconds the call took."""


@runtime_checkable
class Measured(Protocol):
    """A fleet with a store: it has a state, and calls that take time."""

    def state(self) -> FleetState:
        """Return what is known now. Called on any thread, also after the run; its counts never fall."""

    def measure(self, called: Called) -> None:
        """Tell `called` of each call to the store from now on, on the loop of the manager."""


def measure(fleet: Fleet | None, telemetry: Telemetry) -> None:
    """Report the state of a fleet with a store. Other fleets have no state."""
    if fleet is not None and isinstance(fleet, Measured):
        telemetry.join_fleet(fleet.state)
        fleet.measure(telemetry.store_called)


def enter(fleet: Fleet, reports: Reports) -> None:
    """Begin with a run of the manager. Raises what the fleet raises."""
    fleet.enter()
    if isinstance(fleet, Reporting):
        fleet.report(reports)


async def locate(session_id: str, here: Container[str], fleet: Fleet | None) -> Here | Peer | None:
    """Return which process has a session, from the ids that live here and the fleet. Raises `PeerUnavailable`.

    A hint of this process counts, too: an id that an app has made has no hint here, and its client's id has one.
    """
    if session_id in here or (fleet is not None and without_hint(fleet.name, session_id) in here):
        return Here()
    return None if fleet is None else await fleet.locate(session_id)
