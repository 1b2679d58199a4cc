"""One run of a process in a fleet with a store: it sends what the replica has to say, and does what answers mean.

What always holds: nothing here waits for the store while a caller waits, but for `registered`, `ready` and `farewell`,
which end when the store is silent. A call that failed rests before it is sent again.
"""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import anyio

from otel_sessions._core.events import Event
from otel_sessions._core.exceptions import ConfigError, SessionExists, SessionNotFound, StoreUnavailable
from otel_sessions._core.loops import Home
from otel_sessions._core.session import Session
from otel_sessions._core.words import EndReason, LookupOutcome, OrphanOutcome
from otel_sessions._engine.sharing import Run

from .contact import Contact
from .lanes import Tally
from .members import Members
from .membership import Membership, Refused
from .orphan_hooks import OrphanHooks
from .orphans import Claimed, Settled
from .outage import Outage
from .registry import Entry, Registry, Standing
from .repairs import Repairs
from .replica import Event as ReplicaEvent
from .replica import Replica, Resynced
from .scripts import BEAT, LOOK, MEMBERS
from .store import Call, Keys, Value

_RESTS_IN_A_LEASE: Final = 15

_logger = logging.getLogger("otel_sessions")


@dataclass(kw_only=True)
class Counts:
    """What a process has counted over all its runs. Each count only grows."""

    orphans: Counter[OrphanOutcome] = field(default_factory=Counter)
    tally: Tally = field(default_factory=Tally)
    lookups: Counter[LookupOutcome] = field(default_factory=Counter)
    fenced: int = 0
    resets: int = 0


@dataclass(kw_only=True)
class Parts:
    """What one run is made of."""

    run: Run
    keys: Keys
    cap: int
    lease: float
    contact: Contact
    replica: Replica
    members: Members
    outage: Outage
    hooks: OrphanHooks
    repairs: Repairs
    counts: Counts
    refusal: Callable[[], Exception | None]
    """Why the store itself cannot be used, or None."""


class Running:
    """The run. All of it is on the manager's loop."""

    def __init__(self, parts: Parts) -> None:
        self.parts: Final = parts
        self._run: Final = parts.run
        self._replica: Final = parts.replica
        self._member: Final[Membership] = parts.replica.membership
        self._registry: Final = Registry()
        self._rest: Final = parts.lease / _RESTS_IN_A_LEASE
        self._woken = anyio.Event()
        self._heard = anyio.Event()
        """Set whenever a call was answered or has failed."""
        self._home: Final = Home()
        self._is_over = False
        self._is_leaving = False
        self._refused = False
        self._refusal: str | None = None
        self._joins = 1
        self._resets = 0
        self._grant = 0
        self._is_reading = False
        self.dead_since: dict[int, float] = {}
        """When each dead epoch was first heard of."""

    def start(self) -> None:
        self._run.start("fleet", self._pump)
        self._run.start("fleet clock", self._tick)
        self.wake()

    def end(self) -> None:
        """Send nothing more, and let nobody wait."""
        self._is_over = True
        self.parts.repairs.end()
        if not self._home.is_closed():
            self._tell_all()
            self.wake()

    def wake(self) -> None:
        """Ask the replica soon what it has to say. What is registered until then goes in one batch."""
        self._woken.set()

    def orphan_over(self, claimed: Claimed, outcome: OrphanOutcome) -> None:
        """Count what became of an orphan."""
        self.parts.counts.orphans[outcome] += 1
        self.parts.repairs.end_orphan(claimed.owner, outcome)

    def connection_was_lost(self) -> None:
        """Compare with the store, which may have lost its last writes."""
        self._replica.check_all()
        self.wake()

    # What the manager asks

    @property
    def grant(self) -> int:
        return 0 if self._is_over or self._is_leaving else self.parts.outage.grant(self._run.clock())

    def has_room(self, taken: int) -> bool:
        if taken < self.grant:
            return True
        self._refused = True
        self.wake()
        return False

    def is_visible(self, session: Session[Any]) -> bool:
        return self._registry.join_of(session) == self._member.joins and self.parts.outage.serves(self._run.clock())

    def register(self, session: Session[Any], ref: str, blob: bytes) -> None:
        self._registry.add(session, ref)
        self._replica.register(ref, blob)
        self.wake()

    async def registered(self, session: Session[Any]) -> None:
        """Wait for the store, as `SharedFleet.registered` says."""
        entry = self._registry.entry(session)
        while entry is not None and entry.standing is Standing.WAITING:
            if self._is_over or self._registry.entry(session) is None:
                break
            if self._is_silent_for(entry):
                self._decide(entry)
            else:
                await entry.wait()
        match entry:
            case Entry(standing=Standing.SERVED):
                return
            case Entry(standing=Standing.TAKEN):
                raise SessionExists(session.id)
            case _:
                raise SessionNotFound(session.id, session.end_reason)

    def gone(self, session: Session[Any], reason: EndReason) -> None:
        if self._home.is_closed():
            return  # nobody waits, and nothing can be sent
        ref = self._registry.remove(session)
        if ref is not None:
            self._replica.end(ref, reason)
            self.wake()

    async def ready(self) -> None:
        """Wait for the first grant, or until the store does not answer. Raises `ConfigError` if the fleet refuses."""
        while not (self._is_over or self._member.deadline or self._refusal or self.is_silent()):
            await self._heard.wait()
        if self._refusal is not None:
            raise ConfigError(self._refusal)
        if (unfit := self.parts.refusal()) is not None:
            raise unfit

    async def farewell(self) -> None:
        """Tell the store all, compare once more, and leave.

        As soon as a part of the store is silent, leave without: other processes clean up what the store still has.
        """
        self._is_leaving = True
        await self._wait_idle()
        if self._member.deadline:
            self._replica.check_all()
            self.wake()
            await self._wait_idle()
        if self._is_over or self.is_silent():
            return
        self._is_over = True
        if (call := self._member.leave()) is not None:
            await self._try(call)

    async def _wait_idle(self) -> None:
        while self.parts.contact.is_whole and not (self._replica.is_idle() or self._is_over):
            await self._heard.wait()

    # What peers ask

    def is_silent(self) -> bool:
        """Return whether the store does not answer for the fleet itself."""
        return self.parts.contact.is_silent(self.parts.keys.fleet[0])

    async def look(self, ref: str) -> int | None:
        """Return the owner's epoch of a session, or None. Raises `StoreUnavailable`."""
        shard = self.parts.keys.shard(self.parts.keys.shard_of(ref))
        if self.parts.contact.is_silent(shard[0]):
            raise StoreUnavailable
        answer = await self.parts.contact.ask(Call(script=LOOK, keys=shard, args=(ref,)))
        return int(answer[1]) if len(answer) > 1 else None

    async def read_members(self) -> Sequence[Value]:
        """Return the store's table of members. Raises `StoreUnavailable`."""
        if self.is_silent():
            raise StoreUnavailable
        return await self.parts.contact.ask(Call(script=MEMBERS, keys=self.parts.keys.fleet, args=()))

    # The work

    async def _pump(self) -> None:
        while True:
            await self._woken.wait()
            if self._is_over:
                return
            self._woken = anyio.Event()
            self._guarded(self._send_all)

    async def _tick(self) -> None:
        """Wake at least so often that a process which stood still notices soon."""
        while True:
            await anyio.sleep(min(1.0, self._rest))
            self.wake()

    def _send_all(self) -> None:
        now, room = self._run.clock(), 0 if self._is_leaving else self.parts.hooks.room
        for call in self._replica.calls(now, taken=self._run.taken, refused=self._refused, room=room):
            if call.script is BEAT:
                self._refused = False
            self._run.start(f"fleet {call.script.name}", partial(self._send, call))

    async def _send(self, call: Call) -> None:
        answer = await self._try(call)
        if answer is None:
            self._tell_all()
            await anyio.sleep(self._rest)
            self._replica.failed(call)
        elif not self._guarded(partial(self._take, call, answer)):
            await anyio.sleep(self._rest)
        self._tell()
        self.wake()

    async def _try(self, call: Call) -> Sequence[Value] | None:
        try:
            return await self.parts.contact.ask(call)
        except StoreUnavailable:
            return None

    def _guarded(self, step: Callable[[], None]) -> bool:
        """Do a step. Log an error and return False: neither a clock nor an answer that is wrong ends the run."""
        try:
            step()
        except Exception as error:
            _logger.error("a step of the fleet failed", exc_info=error, extra=Event.FLEET_STEP_FAILED.extra)
            return False
        return True

    def _take(self, call: Call, answer: Sequence[Value]) -> None:
        now = self._run.clock()
        try:
            events = self._replica.answer(call, answer, now)
        except Refused as refusal:
            self._note_refusal(str(refusal))
            return
        if call.keys == self.parts.keys.fleet:
            self._note_membership(now)
        self._note_losses()
        ends: dict[EndReason, list[str]] = {}
        for event in events:
            if (due := self._happened(event, now)) is not None:
                ends.setdefault(due[1], []).append(due[0])
        if ends:
            self._run.end(ends)
        self.parts.repairs.look()

    def _happened(self, event: ReplicaEvent, now: float) -> tuple[str, EndReason] | None:
        match event:
            case Claimed():
                within = self.parts.repairs.begin_orphan(event.owner)
                self.parts.hooks.begin(event, self._member.store_time(now), within)
            case Settled():
                self.parts.hooks.settled(event)
            case Resynced():
                self.parts.repairs.resynced(event)
            case _:
                return self._registry.learn(*event, self._replica.join_of_lanes)
        return None

    def _note_refusal(self, why: str) -> None:
        if self._refusal != why:
            self._refusal = why
            _logger.error("this process cannot join: %s", why, extra=Event.FLEET_REFUSED.extra)

    def _note_membership(self, now: float) -> None:
        member = self._member
        if member.epoch is not None:
            self._refusal = None
        self.dead_since = {dead: self.dead_since.get(dead, now) for dead in member.dead}
        if member.places() > self._grant:
            self._run.room_changed()
        self._grant = member.places()
        if member.deadline and self.parts.members.is_outdated(member.version) and not self._is_reading:
            self._is_reading = True
            self._run.start("fleet members", self._read_members)

    async def _read_members(self) -> None:
        try:
            await self.parts.members.read()
        except StoreUnavailable:
            pass  # the next beat tries again
        finally:
            self._is_reading = False

    def _note_losses(self) -> None:
        """Count the memberships that were lost, and the times that the store forgot."""
        counts, resets = self.parts.counts, self._replica.shards.resets
        if self._member.joins > self._joins:
            counts.fenced += self._member.joins - self._joins
            self.parts.repairs.begin_rejoin()
            _logger.warning(
                "the fleet counted this process as dead; it joins anew, and ends the sessions that others have claimed",
                extra=Event.FLEET_FENCED.extra,
            )
        counts.resets += resets - self._resets
        self._joins, self._resets = self._member.joins, resets

    def _is_silent_for(self, entry: Entry) -> bool:
        keys = self.parts.keys
        return self.is_silent() or self.parts.contact.is_silent(keys.shard(keys.shard_of(entry.ref))[0])

    def _decide(self, entry: Entry) -> None:
        """Let a session be served without the store, or raise `StoreUnavailable`, as the policy says."""
        if not self.parts.outage.is_open:
            raise StoreUnavailable(retry_after=self._rest)
        self._registry.let(entry, self._member.joins)

    def _tell(self) -> None:
        heard, self._heard = self._heard, anyio.Event()
        heard.set()

    def _tell_all(self) -> None:
        self._tell()
        self._registry.tell_waiting()
