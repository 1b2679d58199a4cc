"""What a process may get wrong about itself, told on purpose: it was away, or it does not know what the store has done.

Each story is a rule, so it meets whatever happened before and comes after. It begins in a calm fleet.
"""

from collections.abc import Callable, Sequence
from typing import ClassVar

import hypothesis.strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from otel_sessions.fleet import scripts
from tests.fleet.valkey import Server
from tests.fleet.world import CAP, FORGETTING, SHARDS, SHARED, Flight, Process, World

BEAT = 5250
FEW = st.integers(min_value=0, max_value=2)
SOME = st.integers(min_value=1, max_value=2)


class Doubts(RuleBasedStateMachine):
    """A machine whose rules tell stories of processes in doubt. The test sets `server`."""

    server: ClassVar[Server]

    def __init__(self) -> None:
        super().__init__()
        self.world = World(self.server)

    def teardown(self) -> None:
        self.world.calm_down()

    def calm(self) -> tuple[Process, Process]:
        """Return two processes in a fleet in which nothing is left to do."""
        world = self.world
        world.is_down = False
        while len(world.processes) < 2:
            world.start()
        for process in world.processes:
            process.is_paused = process.is_refused = False
        for flight in list(world.flights):
            world.lose(flight)
        for beats in range(40):
            self.beat(*world.processes, hooks=True)
            if beats > SHARDS and world._is_calm():  # each shard was compared once
                break
        one, other = world.processes[:2]
        return one, other

    def beat(self, *processes: Process, beats: int = 1, hooks: bool = False) -> None:
        """Time passes, and these processes do what is to be done."""
        for _ in range(beats):
            self.world.now += BEAT
            for process in processes:
                self.world.act(process)
                while hooks and process.orphans:
                    self.world.run_hook(process)
            self.world.check()

    def open_some(self, process: Process, sessions: int = CAP) -> None:
        """Open so many sessions, if there is room."""
        for _ in range(sessions):
            self.world.open(process, None)
        self.world.act(process)
        self.world.check()

    def say(self, process: Process) -> list[Flight]:
        """Return what the process says now. Nothing of it has arrived."""
        before = set(self.world.flights)
        self.world.send(process)
        return [flight for flight in self.world.flights if flight not in before]

    def pass_on(self, flights: Sequence[Flight]) -> list[Flight]:
        """Let calls arrive, or answers. Return the answers that are on their way then."""
        before = set(self.world.flights)
        for flight in flights:
            self.world.deliver(flight)
            self.world.check()
        return [flight for flight in self.world.flights if flight not in before]

    def talk(self, process: Process, wanted: Callable[[Flight], bool]) -> list[Flight]:
        """Let the process say what it has to, and hear of what is wanted. Return the calls that have not arrived."""
        held: list[Flight] = []
        for _ in range(6):
            said = self.say(process)
            held += [flight for flight in said if not wanted(flight)]
            self.pass_on(self.pass_on([flight for flight in said if wanted(flight)]))
        return held

    def forget_members(self) -> None:
        """The fleet's own slot is empty, and the shards are as they were."""
        self.world.save()
        assert self.world._saved is not None
        for key in self.world.keys.fleet:
            self.world._saved.pop(key.encode(), None)
        self.world.forget("goes back")

    def see_the_death(self, survivor: Process) -> None:
        """So much time passes that a silent process is dead. The survivor hears of it, and no claim of it arrives."""
        for _ in range(4):
            self.world.now += BEAT
            self.drop(self.talk(survivor, self.is_for_the_fleet))

    def is_for_the_fleet(self, flight: Flight) -> bool:
        return flight.call.keys == self.world.keys.fleet

    def drop(self, flights: Sequence[Flight]) -> None:
        for flight in flights:
            self.world.lose(flight)

    @invariant()
    def visible_is_what_the_store_has_confirmed(self) -> None:
        for process in self.world.processes:
            for ref in process.replica.refs():
                if process.replica.is_visible(ref, self.world.local(process)):
                    assert (process.name, ref) in self.world._registered, "served before the store has it"

    @rule(sessions=SOME, away=st.integers(min_value=2, max_value=3), after=SOME)
    def answers_come_late(self, sessions: int, away: int, after: int) -> None:
        one, other = self.calm()
        self.open_some(one, sessions)
        self.world.now += BEAT
        answers = self.pass_on(self.say(one))
        self.beat(other, beats=away)
        self.pass_on(answers)
        self.beat(other, beats=after)

    @rule(sessions=FEW, hears=st.booleans())
    def places_go_back_under_pressure(self, sessions: int, hears: bool) -> None:
        """The store has given the places of one process to the other. The first does not know it yet."""
        one, other = self.calm()
        for _ in range(4):
            self.open_some(one)
            self.beat(one, other)
        for _ in range(len(one.replica) - sessions):
            self.world.end(one, 0)
        self.world.act(one)
        self.open_some(other)
        other.is_refused = True
        self.beat(other)
        self.beat(one)
        self.world.now += BEAT
        answers = self.pass_on(self.say(one))
        if hears:
            self.pass_on(answers)
        for _ in range(3):
            self.open_some(other)
            other.is_refused = True
            self.beat(other)
        for _ in range(CAP):
            self.world.open(one, None)
            self.world.check()

    @rule(sessions=SOME, hooks=st.booleans(), away=st.integers(min_value=3, max_value=5))
    def a_process_is_away(self, sessions: int, hooks: bool, away: int) -> None:
        """It comes back step by step: first it hears of the fleet only, then of its sessions."""
        one, other = self.calm()
        self.open_some(one, sessions)
        self.world.open(one, None)
        late = self.pass_on(self.say(one))
        one.is_paused = True
        self.beat(other, beats=away, hooks=hooks)
        one.is_paused = False
        held = self.talk(one, self.is_for_the_fleet)
        self.pass_on(late)
        self.visible_is_what_the_store_has_confirmed()
        self.world.check()
        self.pass_on(self.pass_on(held))
        self.open_some(one)
        self.beat(other)
        self.open_some(other)
        self.beat(one, other, beats=2)

    @rule(ends=st.booleans(), arrives=st.booleans(), survivor=st.sampled_from(["sees", "claims", "is away"]))
    def a_process_is_fenced_while_a_write_is_in_doubt(self, ends: bool, arrives: bool, survivor: str) -> None:
        """The other process sees the death, and may claim what is left."""
        one, other = self.calm()
        self.open_some(one, 2)
        self.world.open(one, None)
        if ends:
            self.world.end(one, 0)
        waits = self.say(one)
        if arrives:
            self.drop(self.pass_on(waits))
        self.world.open(one, None)
        before = set(one.replica.refs())
        one.is_paused = True
        if survivor == "sees":
            self.see_the_death(other)
        self.beat(other, beats=4 if survivor == "claims" else 0)
        self.world.now += 4 * BEAT
        one.is_paused = False
        if not arrives:
            self.pass_on(self.pass_on(waits))
        self.beat(one, beats=3)
        assert survivor == "claims" or before <= set(one.replica.refs()), "nobody has claimed what is lost"

    @rule(times=SOME, arrives=st.booleans())
    def a_process_is_fenced_again_and_again(self, times: int, arrives: bool) -> None:
        """Nobody else claims. So it keeps all that it has, also if it cleans before it takes over."""
        one, other = self.calm()
        self.open_some(one, 2)
        before = set(one.replica.refs())
        for _ in range(times):
            self.see_the_death(other)
            held = self.talk(one, self.is_for_the_fleet)
            answers = self.pass_on(held[::-1]) if arrives else held
            self.drop(answers)
        self.beat(one, beats=4)
        assert one.replica.has_rejoined(), "a process that is back waits for others"
        assert before <= set(one.replica.refs()), "nobody has claimed what is lost"

    @rule(sessions=SOME)
    def a_beat_arrives_again_late(self, sessions: int) -> None:
        one, other = self.calm()
        self.world.now += BEAT
        said = self.say(one)
        self.pass_on(self.pass_on(said))
        for _ in range(3):
            self.open_some(one)
            self.beat(one)
        copies = [Flight(one, flight.call) for flight in said]
        self.world.flights += copies
        self.pass_on(copies)
        self.open_some(other, sessions)

    @rule(shared=st.sampled_from(SHARED), sessions=FEW, again=st.booleans(), known=st.booleans())
    def the_store_goes_back_while_a_write_is_on_its_way(
        self, shared: str, sessions: int, again: bool, known: bool
    ) -> None:
        """The count may be the same then, and even the ids."""
        one, other = self.calm()
        self.world.open(one, shared)
        self.open_some(one, sessions)
        self.world.save()
        before = set(one.replica.refs())
        self.world.end(one, 0)
        self.world.act(one)
        self.world.open(one, shared if again and shared not in one.replica.refs() else None)
        waits = self.say(one)
        if known:
            self.pass_on(self.pass_on(waits))
            waits = []
        self.world.roll_back()
        self.world.reconnect()
        kept = before & set(one.replica.refs())
        self.pass_on(self.pass_on(waits))
        self.beat(one, other, beats=3)
        assert kept <= set(one.replica.refs()), "the store forgot what is lost"

    @rule(sessions=SOME, refused=st.booleans())
    def the_store_says_that_it_was_emptied(self, sessions: int, refused: bool) -> None:
        """A process hears first that it is no member any more. Until it has joined, it has no place for anybody."""
        one, other = self.calm()
        self.open_some(one, sessions)
        self.beat(one, other)
        before = set(one.replica.refs())
        self.world.empty()
        self.world.reconnect()
        if refused:
            self.world.now += BEAT
            self.pass_on(self.pass_on([flight for flight in self.say(one) if self.is_for_the_fleet(flight)]))
            assert not one.replica.has_room(self.world.local(one)), "room in no fleet"
            self.world.open(one, None)
            self.visible_is_what_the_store_has_confirmed()
        self.beat(one, other, beats=4)
        assert before <= set(one.replica.refs()), "the store forgot what is lost"

    @rule(sessions=SOME)
    def the_store_forgets_its_members_only(self, sessions: int) -> None:
        """A Cluster keeps members and sessions on different nodes. One process dies meanwhile."""
        one, other = self.calm()
        self.open_some(one, sessions)
        self.forget_members()
        self.world.crash(one)
        self.beat(other, beats=4)

    @rule(shared=st.sampled_from([None, *SHARED]), late=st.booleans())
    def a_put_arrives_again_after_the_end(self, shared: str | None, late: bool) -> None:
        one, other = self.calm()
        self.world.open(one, shared)
        self.visible_is_what_the_store_has_confirmed()
        said = self.say(one)
        self.pass_on(self.pass_on(said))
        for _ in range(len(one.replica)):
            self.world.end(one, 0)
        self.world.act(one)
        if late:
            self.beat(one, other)
        copies = [Flight(one, flight.call) for flight in said]
        self.world.flights += copies
        self.pass_on(copies)

    @rule(sessions=SOME)
    def a_survivor_has_heard_of_a_death_that_the_store_forgets(self, sessions: int) -> None:
        one, other = self.calm()
        self.open_some(one, sessions)
        self.world.save()
        one.is_paused = True
        self.see_the_death(other)
        self.world.roll_back()
        self.world.reconnect()
        one.is_paused = False
        self.beat(other)
        waits = self.talk(one, self.is_for_the_fleet)
        self.world.check()
        self.pass_on(self.pass_on(waits))
        self.beat(other, one)

    @rule(sessions=SOME, later=FEW, how=st.sampled_from(FORGETTING), claimed=st.booleans(), hooks=st.booleans())
    def the_store_forgets_while_a_process_is_cleaned(
        self, sessions: int, later: int, how: str, claimed: bool, hooks: bool
    ) -> None:
        """A survivor claims what the store has forgotten. Then the process comes back: it still has its sessions."""
        one, other = self.calm()
        self.open_some(one, sessions)
        self.world.save()
        self.open_some(one, later)
        before = set(one.replica.refs())
        one.is_paused = True
        claims: list[Flight] = []
        for _ in range(4):
            self.world.now += BEAT
            claims += self.talk(other, self.is_for_the_fleet)
        if claimed:
            self.pass_on(self.pass_on(claims))
            claims = self.say(other)
        self.world.forget(how)
        while claims:
            self.pass_on(self.pass_on(claims))
            claims = self.say(other)
        one.is_paused = False
        self.beat(one)
        self.beat(other, one, beats=3, hooks=hooks)
        self.beat(other, one, hooks=True)
        assert before <= set(one.replica.refs()) | self.world._hooked, "neither here nor told to a hook"

    @rule(late=st.booleans())
    def two_shards_refuse_a_process(self, late: bool) -> None:
        """The second refusal is of an epoch that the process has left already."""
        one, other = self.calm()
        for _ in range(3):
            self.open_some(one, 2)
            self.beat(one, other)
        for _ in range(len(one.replica)):
            self.world.end(one, 0)
        waits = self.say(one)
        one.is_paused = True
        self.beat(other, beats=4)
        one.is_paused = False
        answers = self.pass_on(waits)
        at_once = 1 if late else len(answers)
        self.pass_on(answers[:at_once])
        self.talk(one, self.is_for_the_fleet)
        epoch = one.replica.membership.epoch
        self.pass_on(answers[at_once:])
        assert one.replica.membership.epoch == epoch, "a refusal of a former epoch counts"
        self.beat(one, other, beats=2)

    @rule(writes=st.booleans())
    def a_process_that_lives_is_fenced(self, writes: bool) -> None:
        """The claim of a survivor comes late: it was sent before the store went back."""
        one, other = self.calm()
        epoch = one.replica.membership.epoch or 0
        keys = self.world.keys
        for shard in range(SHARDS):
            args = (*keys.shard(shard), keys.owned(shard, epoch), keys.claimed(shard, epoch))
            self.server.run(scripts.CLAIM, args, (epoch, 0, 1), self.world.now)
        self.world.now += BEAT
        if writes:
            self.world.open(one, None)
        answers = self.pass_on(self.say(one))
        self.pass_on([answer for answer in answers if not self.is_for_the_fleet(answer)])
        self.pass_on([answer for answer in answers if self.is_for_the_fleet(answer)])
        self.world.open(one, None)
        self.visible_is_what_the_store_has_confirmed()
        self.beat(one, other, beats=SHARDS)
        assert one.replica.membership.epoch != epoch, "a process does not know that it is fenced"

    @rule(sessions=SOME)
    def the_clocks_of_shards_run_ahead(self, sessions: int) -> None:
        """A shard calls a write late, though the process's lease runs on. The write waits for the next lease."""
        one, other = self.calm()
        self.beat(one, other)
        self.world.ahead = 3 * BEAT
        self.open_some(one, sessions)
        self.world.ahead = 0
        self.beat(one, other)
        assert one.replica.is_idle(), "a write waits for ever"

    @rule(sessions=SOME, step=FEW)
    def connections_are_lost_while_a_shard_is_compared(self, sessions: int, step: int) -> None:
        """The store went back. An audit has shown it, or a page of ids is on its way."""
        one, other = self.calm()
        self.world.save()
        self.open_some(one, sessions)
        self.world.forget("goes back")
        answers: list[Flight] = []
        for _ in range(step):
            self.pass_on(answers)
            answers = self.pass_on(self.say(one))
        self.world.reconnect()
        self.pass_on(answers)
        self.beat(one, other, beats=2)

    @rule(sessions=SOME, survivors=st.integers(min_value=2, max_value=4), apart=st.integers(min_value=1, max_value=2))
    def several_processes_suspect_an_owner_in_turn(self, sessions: int, survivors: int, apart: int) -> None:
        """The store has forgotten its members, and one of them has died. Nobody's suspicion prolongs its life."""
        one, _ = self.calm()
        self.open_some(one, sessions)
        while len(self.world.processes) <= survivors:
            self.world.start()
        self.calm()
        self.forget_members()
        epoch = one.replica.membership.epoch
        self.world.crash(one)
        others = self.world.processes
        for last in range(1, len(others) + 1):
            self.beat(*others[:last], beats=apart, hooks=True)
        self.beat(*others, beats=14, hooks=True)
        assert str(epoch) not in self.world._owners(), "a dead owner lives on in suspicion"
