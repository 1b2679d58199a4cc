"""A small fleet in virtual time on a real store: a network that misbehaves, and what must be true after every step."""

import random
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Final

from otel_sessions.fleet import scripts
from otel_sessions.fleet.lanes import News
from otel_sessions.fleet.membership import Terms
from otel_sessions.fleet.orphans import Claimed, Settled
from otel_sessions.fleet.replica import Replica, Resynced
from otel_sessions.fleet.scripts import Script
from otel_sessions.fleet.store import Argument, Call, Keys, Value, text
from tests.fleet.valkey import Dump, Server

CAP: Final = 6
LEASE: Final = 15.0
SPAN: Final = 10.0
SHARDS: Final = 2
READS: Final = (scripts.AUDIT, scripts.PAGE, scripts.MEMBERS, scripts.LOOK)
WRITES: Final = tuple(script for script in scripts.ALL if script not in READS)
FORGETTING: Final = ["is emptied", "starts empty", "goes back"]
SHARED: Final = ["0000ffff", "0001ffff"]
"""Ids that several processes use, as ids of an upstream may be."""


@dataclass(eq=False)
class Process:
    """One process. Its clock has a start and a rate of its own."""

    name: str
    replica: Replica
    rate: float
    is_paused: bool = False
    is_refused: bool = False
    """Somebody was refused a place since the last beat."""
    orphans: list[Claimed] = field(default_factory=list)
    untold: list[Claimed] = field(default_factory=list)
    """Orphans whose hook has run, and of which the store has not answered."""


@dataclass(eq=False)
class Flight:
    """A call on its way, or with `answer` its answer on the way back."""

    process: Process
    call: Call
    answer: list[Value] | None = None


class World:
    """Everything there is. A method is a step; `check` says what must be true after it."""

    def __init__(self, server: Server) -> None:
        self.server = server
        server.send("FLUSHALL")
        self.keys = Keys("f", SHARDS)
        self.now = 1_700_000_000_000
        self.processes: list[Process] = []
        self.flights: list[Flight] = []
        self.sent: dict[str, deque[Flight]] = {script.name: deque(maxlen=8) for script in WRITES}
        """The last writes by script that were delivered: late copies of them may arrive."""
        self.is_down = False
        self.ahead = 0
        """By how many milliseconds the clocks of the shards are ahead of the clock of the fleet's own slot."""
        self._dice = random.Random(1)  # noqa: S311 - nonces and epochs' digits, not the schedule
        self._saved: Dump | None = None
        self._made = 0
        self._started = 0
        self.forgot = False
        self._state: dict[str, Any] = {}
        self._epochs: dict[bytes, tuple[object, ...]] = {}
        self._present: set[tuple[str, str]] = set()
        self._gone: set[tuple[str, str]] = set()
        self._claimed: dict[tuple[str, str], tuple[int, int]] = {}
        """The last token of each session that was claimed, and when the claim runs out."""
        self._hooked: set[str] = set()
        self._lost: set[str] = set()
        self._registered: set[tuple[str, str]] = set()
        """Sessions that a process knows to be in the store. What was only asked for may never have come there."""
        self._left: set[str] = set()
        self._former: list[Call] = []
        """The calls that were on their way when the store forgot."""
        self._late: set[tuple[str, str, Argument]] = set()
        """Processes and shards, with the deadlines that were too late there."""

    def local(self, process: Process) -> float:
        return (self.now - 1_600_000_000_000) / 1000 * process.rate

    # What processes do

    def start(self) -> None:
        self._started += 1
        name = f"p{self._started}"
        terms = Terms(process=name, address="http://a", cap=CAP, lease=LEASE, spare=2)
        replica = Replica(terms, self.keys, self._dice.randrange, span=SPAN)
        self.processes.append(Process(name, replica, rate=self._dice.choice([0.96, 1.0, 1.04])))

    def crash(self, process: Process) -> None:
        self.processes.remove(process)
        if self.forgot:
            self._forgive({claimed.ref for claimed in process.orphans})

    def open(self, process: Process, shared: str | None) -> None:
        if shared in process.replica.refs():
            return
        if not process.replica.has_room(self.local(process)):
            process.is_refused = True
            return
        self._made += 1
        ref = shared or f"{self._made:08x}"
        self._registered.discard((process.name, ref))
        process.replica.register(ref, b"blob")

    def end(self, process: Process, number: int) -> None:
        now = self.local(process)
        if visible := [ref for ref in process.replica.refs() if process.replica.is_visible(ref, now)]:
            ref = visible[number % len(visible)]
            self._left.add(ref)
            process.replica.end(ref, "closed")

    def run_hook(self, process: Process) -> None:
        claimed = process.orphans.pop(0)
        self._hooked.add(claimed.ref)
        if process.replica.settle(claimed):
            process.untold.append(claimed)

    def send(self, process: Process) -> None:
        if not process.is_paused:
            calls = process.replica.calls(self.local(process), refused=process.is_refused, room=100)
            process.is_refused &= not any(call.script is scripts.BEAT for call in calls)
            self._check_said(process, calls)
            self.flights += [Flight(process, call) for call in calls]

    def _check_said(self, process: Process, calls: list[Call]) -> None:
        """Whoever has no lease writes nothing, nor does a party speak twice at once, or again for a deadline."""
        replica = process.replica
        parties = [id(party) for party in replica._under_way.values()]
        assert len(set(parties)) == len(parties), "a party has two calls under way"
        for call in calls:
            if call.script in (scripts.PUT, scripts.END, scripts.RECLAIM):
                assert replica.membership.is_living(self.local(process)), "a process writes after its lease"
                said = process.name, call.keys[0], call.args[2]
                assert call.script is scripts.END or said not in self._late, "a write is repeated that comes late again"

    def act(self, process: Process) -> None:
        """All that the process wants to say is said and answered at once, as long as it has anything to say."""
        for _ in range(6):
            before = set(self.flights)
            self.send(process)
            if not (mine := [flight for flight in self.flights if flight not in before]):
                return
            for flight in mine:
                self.deliver(flight)
            for flight in [
                flight for flight in self.flights if flight.answer is not None and flight.process is process
            ]:
                self.deliver(flight)

    def give_up(self, flight: Flight) -> None:
        """The process waits no longer. The message may still arrive."""
        flight.process.replica.failed(flight.call)

    def lose(self, flight: Flight) -> None:
        self.give_up(flight)
        self.flights.remove(flight)

    # What the network and the store do

    def deliver(self, flight: Flight) -> None:
        if flight.answer is None and not self.is_down:
            self.flights.remove(flight)
            if flight.call.script not in READS:
                self.sent[flight.call.script.name].append(flight)
            self.flights.append(Flight(flight.process, flight.call, self._run(flight)))
        elif flight.answer is not None and not flight.process.is_paused:
            self.flights.remove(flight)
            if flight.process in self.processes:
                self._hear(flight)

    def deliver_again(self, script: Script, number: int, of: Process | None = None) -> None:
        """A late copy of a message arrives. The answer does not. Number 0 is the last one of this script."""
        sent = [flight for flight in self.sent[script.name] if of in (None, flight.process)]
        if sent and not self.is_down:
            self._run(sent[-1 - number % len(sent)])

    def _run(self, flight: Flight) -> list[Value]:
        call = flight.call
        ahead = 0 if call.keys == self.keys.fleet else self.ahead
        answer = self.server.run(call.script, call.keys, call.args, self.now + ahead)
        before, self._state = self._state, self.server.all()
        if not self.forgot:
            self._check_lives()
        if call.script is scripts.JOIN and answer[0] == b"OK":
            join = call.args[:2]
            assert self._epochs.setdefault(bytes(answer[1]), join) == join, "an epoch is used twice"
        if call.script in (scripts.PUT, scripts.END, scripts.RECLAIM):
            fenced = before.get(call.keys[2], [])[::2]
            assert str(call.args[0]) not in fenced or before == self._state, "a fenced epoch changes something"
        check = {scripts.CLAIM: self._check_claim, scripts.SETTLE: self._check_settled, scripts.PUT: self._check_put}
        if call.script in check and answer[0] == b"OK":
            check[call.script](call, answer, self._records(before, call))
        return answer

    @staticmethod
    def _records(state: dict[str, Any], call: Call) -> dict[str, list[str]]:
        flat = state.get(call.keys[0], [])
        return {ref: text.split(" ", 4) for ref, text in zip(flat[::2], flat[1::2], strict=True)}

    def _check_claim(self, call: Call, answer: list[Value], before: dict[str, list[str]]) -> None:
        """Nobody claims what another survivor has claimed, until that claim runs out. The token grows.

        A store that went back may name an owner as living, while a claim of its sessions is on the way. Nothing is
        guaranteed of their sight then.
        """
        if str(call.args[0]) in self._table(self.keys.fleet[1]) and any(call is former for former in self._former):
            return
        for at in range(2, len(answer), 5):
            session = text(answer[at]), text(answer[at + 3])
            turn, ends = self._claimed.get(session, (1, 0))
            assert int(answer[at + 1]) > turn, "two claims have the same token"
            assert ends < self.now, "a session is claimed while another's claim runs"
            self._claimed[session] = int(answer[at + 1]), self.now + int(call.args[2])

    def _check_settled(self, call: Call, answer: list[Value], before: dict[str, list[str]]) -> None:
        """Only the last claimer of a dead owner's session ends it."""
        for ref, turn, counted in zip(call.args[1::3], call.args[2::3], answer[1:], strict=True):
            expected = [str(call.args[0]), str(turn)]
            assert not int(counted) or before[str(ref)][:2] == expected, "settled by another than its last claimer"

    def _check_put(self, call: Call, answer: list[Value], before: dict[str, list[str]]) -> None:
        """Whoever hears that a session is registered has it in the store."""
        after = self._records(self._state, call)
        for ref, nonce, owner in zip(call.args[3::3], call.args[4::3], answer[1:], strict=True):
            record = after[str(ref)]
            assert int(owner) or [record[0], record[3]] == [str(call.args[0]), str(nonce)], "registered, but not there"

    def _hear(self, flight: Flight) -> None:
        assert flight.answer is not None
        if flight.answer[0] == b"LATE" and flight.call in flight.process.replica._under_way:
            self._late.add((flight.process.name, flight.call.keys[0], flight.call.args[2]))
        for event in flight.process.replica.answer(flight.call, flight.answer, self.local(flight.process)):
            if isinstance(event, Claimed):
                flight.process.orphans.append(event)
            elif isinstance(event, Settled):
                flight.process.untold.remove(event.claimed)
            elif isinstance(event, Resynced):
                pass
            elif event[1] is News.REGISTERED:
                self._registered.add((flight.process.name, event[0]))
            elif event[1] is News.LOST and (flight.process.name, event[0]) in self._registered:
                self._lost.add(event[0])

    def save(self) -> None:
        self._saved = self.server.save()

    def roll_back(self) -> None:
        self.now += 1
        self.server.restore(self._saved or {})
        self._state = self.server.all()
        self.forgot = True
        self._gone, self._claimed = set(), {}
        self._present = set()
        self._forgive(self._lost)
        self._former = [flight.call for flights in (self.flights, *self.sent.values()) for flight in flights]

    def _forgive(self, refs: set[str]) -> None:
        """Only whoever had claimed these sessions knew of them, if the store forgot its claim, and has died."""
        known = {claimed.ref for process in self.processes for claimed in process.orphans}
        known |= {ref for shard in range(SHARDS) for ref in self._table(self.keys.shard(shard)[0])}
        self._lost -= refs - known

    def empty(self) -> None:
        self._saved = None
        self.roll_back()

    def reconnect(self) -> None:
        """All processes notice that their connections were lost."""
        for process in self.processes:
            process.replica.check_all()

    def forget(self, how: str) -> None:
        """The store forgets in one of the ways of `FORGETTING`. If it is emptied while it runs, connections stay."""
        if how == "goes back":
            self.roll_back()
        else:
            self.empty()
        if how != "is emptied":
            self.reconnect()

    def recover(self) -> None:
        """If all is mended that a store forgot, everything must be true again from here on."""
        for flight in list(self.flights):
            self.lose(flight)
        self.sent = {name: deque(maxlen=8) for name in self.sent}
        within = all(len(process.replica) <= process.replica.membership.grant for process in self.processes)
        self.forgot = not (within and self._is_calm())

    # What must be true

    def check(self) -> None:
        records = self._check_shards()
        self._check_grants()
        self._check_sight(records)
        if not self.forgot:
            self._check_cap(records)
            self._check_owners(records)

    def _table(self, key: str) -> dict[str, str]:
        flat = self._state.get(key, [])
        return dict(zip(flat[::2], flat[1::2], strict=True))

    def _check_shards(self) -> dict[str, list[str]]:
        """Invariant 1: the books balance; count, set and digest of each owner agree with its records."""
        everything: dict[str, list[str]] = {}
        for shard in range(SHARDS):
            s, w, f, b = map(self._table, self.keys.shard(shard))
            records = {ref: text.split(" ", 4) for ref, text in s.items()}
            everything |= records
            assert int(b.get("created", 0)) == sum(map(int, b.values())) - int(b.get("created", 0)) + len(records), (
                "books"
            )
            owners = {key.rpartition(":")[2] for key in self._state if key.startswith(f"{{f.{shard}}}:o:")} | set(w)
            for owner in owners | {record[0] for record in records.values()}:
                mine = {ref: int(record[3]) for ref, record in records.items() if record[0] == owner}
                row = f"{len(mine)} {sum(mine.values()) % 2**52}"
                assert w.get(owner, "0 0 0").rpartition(" ")[0] == row, "count or digest is wrong"
                owned = set(self._state.get(self.keys.owned(shard, int(owner)), []))
                claimed = set(self._table(self.keys.claimed(shard, int(owner))))
                assert owned | claimed == set(mine), "a set is wrong"
                assert not owned & claimed, "claimed, and not"
                assert not claimed or owner in f, "claimed without a fence"
        return everything

    def _rows(self) -> dict[str, list[str]]:
        return {key[2:]: row.split(" ") for key, row in self._table(self.keys.fleet[0]).items() if key[:2] == "p:"}

    def _check_grants(self) -> None:
        """Invariant 2, in the store."""
        fleet = self._table(self.keys.fleet[3])
        granted = int(fleet.get("granted", 0))
        assert granted == sum(int(row[4]) for row in self._rows().values()), "granted is not the sum of the grants"
        assert 0 <= granted <= CAP, "more is granted than there is"
        rows = {row[1] for row in self._rows().values()}
        assert set(self._table(self.keys.fleet[1])) <= rows, "a living epoch has no process"

    def _check_sight(self, records: dict[str, list[str]]) -> None:
        """Invariant 3: no session is visible twice, nor after a claim."""
        seen: set[str] = set()
        for process in self.processes:
            for ref in process.replica.refs():
                if process.replica.is_visible(ref, self.local(process)):
                    nonce = str(process.replica._held[ref].put.nonce)
                    assert (ref, nonce) not in self._claimed, "served after a claim"
                    assert self.forgot or ref not in seen, "served by two"
                    seen.add(ref)

    def _check_cap(self, records: dict[str, list[str]]) -> None:
        """Invariant 2, in the processes. What the store forgot may take it beyond the cap."""
        rows = self._rows()
        living = [process for process in self.processes if process.replica.membership.is_living(self.local(process))]
        epochs = set()
        for process in living:
            member = process.replica.membership
            epochs.add(str(member.epoch))
            row = rows.get(process.name)
            if row and row[1] == str(member.epoch):
                assert member.grant <= int(row[4]), "a grant that the store does not know"
        orphans = [ref for ref, record in records.items() if record[0] not in epochs and ref not in self._left]
        mine = {ref for process in living for ref in process.replica.refs()}
        assert len(mine) + len(set(orphans) - mine) <= CAP, "more sessions than the cap"

    def _check_lives(self) -> None:
        """Invariant 4: what ended stays ended."""
        tables = [self._table(self.keys.shard(shard)[0]) for shard in range(SHARDS)]
        present = {(ref, record.split(" ", 4)[3]) for table in tables for ref, record in table.items()}
        self._gone |= self._present - present
        assert not present & self._gone, "an ended session came back"
        self._present = present

    def _check_owners(self, records: dict[str, list[str]]) -> None:
        """Invariant 6: every record has an owner that the fleet knows."""
        known = set(self._table(self.keys.fleet[1])) | set(self._table(self.keys.fleet[2]))
        owners = {record[0] for record in records.values()} | self._owners()
        assert owners <= known, "an owner that nobody will clean up after"

    def _owners(self) -> set[str]:
        return {owner for shard in range(SHARDS) for owner in self._table(self.keys.shard(shard)[1])}

    def calm_down(self) -> None:
        """Everything works from now on. In the end the store has exactly the sessions of the processes."""
        self.is_down = False
        if not self.processes:
            self.start()
        for process in self.processes:
            process.is_paused = False
        for flight in list(self.flights):
            self.lose(flight)
        for _ in range(40):
            self.now += 5000
            for process in self.processes:
                self.act(process)
                while process.orphans:
                    self.run_hook(process)
            self.check()
            if self._is_calm():
                break
        self._check_end()

    def _is_calm(self) -> bool:
        try:
            self._check_end()
        except AssertionError:
            return False
        return True

    def _check_end(self) -> None:
        records = self._check_shards()
        mine = {
            ref: [str(process.replica.membership.epoch), str(process.replica._held[ref].put.nonce)]
            for process in self.processes
            for ref in process.replica.refs()
        }
        assert {ref: [record[0], record[3]] for ref, record in records.items()} == mine, "store and processes differ"
        assert self._table(self.keys.fleet[2]) == {}, "a dead epoch is not buried"
        living = set(self._table(self.keys.fleet[1]))
        fenced = {epoch for shard in range(SHARDS) for epoch in self._table(self.keys.shard(shard)[2])}
        assert not living & fenced, "a living epoch is fenced, and does not know it"
        assert set(self._rows()) == {process.name for process in self.processes}, "a row is left"
        untold = [claimed for process in self.processes for claimed in process.untold]
        assert not untold, f"the store was not told of a hook: {untold}"
        lost = self._lost - self._hooked
        assert not lost, f"lost without a hook: {lost}"
