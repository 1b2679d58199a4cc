"""A process of a fleet with a store, whatever the store is: `SharedFleet` for the manager, `Forwarding` for requests.

What always holds: a run is made of parts of its own, and what is counted goes on from run to run.
"""

import logging
import secrets as random
import ssl
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_network
from typing import Any, Final, Protocol

from otel_sessions._core.config import check_seconds
from otel_sessions._core.events import Event
from otel_sessions._core.exceptions import ConfigError
from otel_sessions._core.fleet_state import FleetState
from otel_sessions._core.ids import hint_in
from otel_sessions._core.session import Session
from otel_sessions._core.words import EndReason, LookupOutcome
from otel_sessions._engine.owners import Called, Peer, Reports
from otel_sessions._engine.sharing import Run

from .addresses import check_name, random_name
from .contact import Contact
from .listening import ListeningPeers, Place
from .lookups import Lookups
from .members import Members, Networks
from .membership import Terms
from .orphan_hooks import OrphanHook, OrphanHooks
from .outage import Outage, check_policy
from .own_address import is_auto, own_place
from .peers import Secret
from .repairs import Repairs
from .replica import Replica
from .reporting import state_of
from .running import Counts, Parts, Running
from .store import Keys, Store, session_ref
from .store_tracing import StoreTracing

_BEATS_IN_A_LEASE: Final = 3
_SPARE_SHARE: Final = 4
"""Which part of the cap a process likes to have free at most. So the first process does not take all of it."""
_MOST_BYTES: Final = 512
_CLAIM_SECONDS: Final = 5.0
"""How much longer than its hook may take an orphan is claimed."""
_WARN_SECONDS: Final = 60.0

_logger = logging.getLogger("otel_sessions")


class ServedStore(Store, Protocol):
    """A store that keeps a connection while it is served."""

    refusal: ConfigError | None
    """Why the store that was found cannot be used, or None."""

    async def serve(self) -> None:
        """Keep the connection until this task is cancelled."""


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What all processes of a fleet agree on, and what this process adds."""

    name: str
    address: str
    max_sessions: int
    lease: float = 15.0
    outage: str = "open"
    start_share: int = 0
    shards: int = 16
    allow_peers: Sequence[str] | None = None

    def check(self) -> None:
        """Raise `ConfigError` if a value is wrong."""
        check_name(self.name)
        check_seconds("lease", self.lease)
        check_policy(self.outage)
        _check_count("max_sessions", self.max_sessions, 1)
        _check_count("start_share", self.start_share, 0)
        _check_count("shards", self.shards, 1)

    def place(self) -> Place | None:
        """Return where the process listens by itself, or None if its address leads to a listener of the app's own.

        Raises `ConfigError` if the address is wrong, or if no process that has the same networks would use it.
        """
        is_unix = is_auto(self.address) or self.address.startswith("unix:")
        if is_unix and self.allow_peers is not None:
            raise ConfigError(f"allow_peers are networks, and {self.address!r} is in none: leave one of the two out")
        return own_place(self.address)

    def networks(self) -> Networks | None:
        """Return `allow_peers` as networks. Raises `ConfigError` if a text is no network."""
        try:
            return None if self.allow_peers is None else [ip_network(text) for text in self.allow_peers]
        except ValueError as error:
            raise ConfigError(f"allow_peers takes networks as 10.0.0.0/8: {error}") from error


class StoreFleet(ListeningPeers):
    """A process of a fleet with a store. `new_store` makes the store of a run: it is given what is to be called after a
    connection was lost, and the time limit of a call in seconds."""

    needs_hints = False
    runs_on_asyncio_only = False

    def __init__(
        self,
        new_store: Callable[[Callable[[], None], float], ServedStore],
        setup: Setup,
        *,
        secret: Secret,
        describe: Callable[[Session[Any]], bytes] | None = None,
        on_orphan: OrphanHook | None = None,
        patience: float = 5.0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        setup.check()
        self._members = Members(setup.networks())
        super().__init__(self._members, setup.place(), name=None, secret=secret, patience=patience, tls=tls)
        self._new_store = new_store
        self._setup = setup
        self._keys = Keys(setup.name, setup.shards)
        self._describe = describe
        self._on_orphan = on_orphan
        self._running: Running | None = None
        self._counts = Counts()
        self._called: Called = lambda *_: None
        self._warned = float("-inf")

    def start_anew_after_fork(self) -> None:
        """Begin anew: the membership, the counts and the connections belong to the parent process."""
        super().start_anew_after_fork()
        self._running = None
        self._counts = Counts()

    # The run of the manager

    def _name_of_run(self) -> str:
        return random_name()  # the store may still know the last one

    def begin(self, run: Run) -> None:
        setup, limit = self._setup, self._setup.lease / _BEATS_IN_A_LEASE
        store = self._new_store(lambda: running.connection_was_lost(), limit)
        contact = Contact(store, run.clock, limit, lambda *about: self._called(*about))
        terms = Terms(
            process=self._name,
            address=setup.address if self._place is None else self._place.address_of(self._name),
            cap=setup.max_sessions,
            lease=setup.lease,
            spare=max(1, setup.max_sessions // _SPARE_SHARE),
        )
        span = run.close_timeout + _CLAIM_SECONDS
        replica = Replica(terms, self._keys, random.randbelow, span=span, tally=self._counts.tally)
        hooks = OrphanHooks(
            self._on_orphan, run, replica.settle, lambda *over: running.orphan_over(*over), lambda: running.wake()
        )
        outage = Outage(
            is_open=setup.outage == "open",
            start_share=setup.start_share,
            membership=replica.membership,
            is_silent=partial(contact.is_silent, self._keys.fleet[0]),
        )
        parts = Parts(
            run=run,
            keys=self._keys,
            cap=setup.max_sessions,
            lease=setup.lease,
            contact=contact,
            replica=replica,
            members=self._members,
            outage=outage,
            hooks=hooks,
            repairs=Repairs(self._spans, replica, self._counts.tally),
            counts=self._counts,
            refusal=lambda: store.refusal,
        )
        self._running = running = Running(parts)
        self._members.begin(running.read_members)
        self._lookups = Lookups(running.look, self._members, run.clock, limit, self._counts.lookups)
        run.start("fleet store", store.serve)
        running.start()

    async def ready(self) -> None:
        await self._now().ready()

    async def farewell(self) -> None:
        await self._now().farewell()

    def leave(self) -> None:
        running, self._running = self._running, None
        if running is not None:
            running.end()
        self._members.close()
        super().leave()

    # Sessions

    @property
    def grant(self) -> int:
        return 0 if self._running is None else self._running.grant

    def has_room(self, taken: int) -> bool:
        return self._running is not None and self._running.has_room(taken)

    @property
    def retry_after(self) -> float:
        """A beat: what others do not use comes back with their next beat."""
        return self._setup.lease / _BEATS_IN_A_LEASE

    def is_visible(self, session: Session[Any]) -> bool:
        return self._running is not None and self._running.is_visible(session)

    def register(self, session: Session[Any]) -> None:
        self._now().register(session, self._refs(session.id)[0], self._blob(session))

    async def registered(self, session: Session[Any]) -> None:
        await self._now().registered(session)

    def gone(self, session: Session[Any], reason: EndReason) -> None:
        if self._running is not None:
            self._running.gone(session, reason)

    def _now(self) -> Running:
        assert self._running is not None
        return self._running

    def _refs(self, session_id: str) -> list[str]:
        """Return what the store may know a session by: under the secret that signs, then under the older ones."""
        return [session_ref(session_id, key) for key in self.current_secrets().keys]

    def _blob(self, session: Session[Any]) -> bytes:
        """Return what `describe` says of a session. What is wrong with it must not cost the client the session."""
        if self._describe is None:
            return b""
        try:
            blob: object = self._describe(session)
        except Exception as error:
            self._warn("describe failed", error)
            return b""
        if isinstance(blob, bytes) and len(blob) <= _MOST_BYTES:
            return blob
        self._warn(f"describe returns at most {_MOST_BYTES} bytes", None)
        return b""

    def _warn(self, what: str, error: Exception | None) -> None:
        """Log, once a minute at most, that a session is registered without its blob."""
        now = time.monotonic()
        if now - self._warned >= _WARN_SECONDS:
            self._warned = now
            text = "a session is registered with an empty blob: %s"
            _logger.warning(text, what, exc_info=error, extra=Event.BLOB_LEFT_OUT.extra)

    # Peers

    async def locate(self, session_id: str) -> Peer | None:
        """Return the other process that has a session: by the hint of its id, else by a look into the store."""
        if self._running is None or self._is_mine(session_id):
            return None
        if (peer := await super().locate(session_id)) is not None:
            self._counts.lookups[LookupOutcome.HINT] += 1
            return peer
        if (peer := await self._look(session_id, self._lookups.find)) is not None:
            return peer
        # If the app makes ids, the store knows the session by an id without the hint.
        name = self._hinted(session_id)
        return None if name is None else await self._lookups.find_by_name(name)

    async def locate_again(self, session_id: str, wrong: Peer) -> Peer | None:
        """Return another process than `wrong`, from a fresh look, or None."""
        if self._running is None or self._is_mine(session_id):
            return None
        found = await self._look(session_id, self._lookups.find_again)
        return None if found == wrong else found

    def _is_mine(self, session_id: str) -> bool:
        return hint_in(session_id) == self._name

    async def _look(self, session_id: str, find: Callable[[str], Awaitable[Peer | None]]) -> Peer | None:
        for ref in self._refs(session_id):
            peer = await find(ref)
            if peer is not None:
                return None if peer.name == self._name else peer
        return None

    # Signals

    def report(self, reports: Reports) -> None:
        super().report(reports)
        self._tracing = self._spans = StoreTracing(reports)

    def measure(self, called: Called) -> None:
        """Tell `called` of each call to the store from now on."""
        self._called = called

    def state(self) -> FleetState:
        """Return what is known now. May be called on any thread."""
        return state_of(self._counts, self._running)


def _check_count(key: str, value: object, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(f"{key} takes a whole number of at least {least}, not {value!r}")
