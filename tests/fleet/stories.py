"""What goes wrong rarely, told on purpose: each story is a rule, so it meets whatever happened before and comes after.

A story tells nothing of a script: it says what processes, network and store do. The world checks the rest.
"""

from collections.abc import Sequence
from typing import ClassVar

import hypothesis.strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from otel_sessions.fleet import scripts
from otel_sessions.fleet.scripts import Script
from tests.fleet.valkey import Server
from tests.fleet.world import CAP, SHARED, Flight, Process, World

BEAT = 5250
HOUR = 3_600_000
FEW = st.integers(min_value=0, max_value=3)
IDS = st.sampled_from(SHARED)


class Stories(RuleBasedStateMachine):
    """The rules of a machine that tell a story. The test sets `server`."""

    server: ClassVar[Server]

    def __init__(self) -> None:
        super().__init__()
        self.world = World(self.server)

    def live(self, beats: int, *, hooks: bool = False, but: Sequence[Process] = ()) -> None:
        """Time passes, and all processes but these do what is to be done."""
        for _ in range(beats):
            self.world.now += BEAT
            for process in self.world.processes:
                if process not in but:
                    self.world.act(process)
                    while hooks and process.orphans:
                        self.world.run_hook(process)

    def ready(self, number: int) -> list[Process]:
        """Return so many processes that have joined and beat, while everything works."""
        self.world.is_down = False
        for process in self.world.processes:
            process.is_paused = False
        while len(self.world.processes) < number:
            self.world.start()
        self.live(3, hooks=True)
        if self.world.forgot:
            self.mend()
        return self.world.processes[:number]

    def mend(self) -> None:
        """A store forgot before. The story begins when that is mended."""
        self.clean()
        for process in self.world.processes:
            for _ in range(len(process.replica) - process.replica.membership.grant):
                self.world.end(process, 0)
        self.clean(3)
        self.world.recover()

    def clean(self, beats: int = 12) -> None:
        """Whoever is dead gets cleaned up after."""
        self.live(beats, hooks=True)

    def fill(self, process: Process, sessions: int, shared: str | None = None) -> None:
        for _ in range(sessions):
            self.world.open(process, shared)
            self.world.act(process)

    def say(self, process: Process) -> list[Flight]:
        """Return what the process says now. Nothing of it has arrived."""
        before = set(self.world.flights)
        self.world.send(process)
        return [flight for flight in self.world.flights if flight not in before]

    def arrive(self, flights: Sequence[Flight]) -> None:
        for flight in flights:
            if flight in self.world.flights:
                self.world.deliver(flight)

    @rule(again=st.booleans(), copy=st.integers(min_value=0, max_value=1))
    def a_join_comes_late(self, again: bool, copy: int) -> None:
        one, _ = self.ready(2)
        if again:
            one.is_paused = True
            self.live(5, hooks=True)
            one.is_paused = False
            self.clean(7)
        self.fill(one, 1)
        self.world.deliver_again(scripts.JOIN, copy, of=one)
        self.live(1, but=[one])

    @rule(copy=FEW)
    def a_process_grows_and_a_beat_comes_late(self, copy: int) -> None:
        one, *_ = self.ready(1)
        for _ in range(3):
            self.fill(one, 3)
            self.live(1)
        self.world.deliver_again(scripts.BEAT, copy, of=one)

    @rule(sessions=FEW, script=st.sampled_from([scripts.PUT, scripts.END]))
    def a_late_copy_comes_after_an_end(self, sessions: int, script: Script) -> None:
        one, *_ = self.ready(1)
        self.fill(one, sessions + 1)
        self.world.end(one, -1)
        self.world.act(one)
        self.world.deliver_again(script, 0, of=one)

    @rule(sessions=st.integers(min_value=1, max_value=3), hooks=st.booleans(), beats=FEW, shared=IDS)
    def a_process_is_away_for_longer_than_its_lease(self, sessions: int, hooks: bool, beats: int, shared: str) -> None:
        one, other = self.ready(2)
        self.fill(one, sessions)
        self.fill(one, 1, shared)
        self.live(1)
        one.is_paused = True
        self.live(3, hooks=hooks)
        one.is_refused = other.is_refused = True
        self.live(beats, hooks=hooks)
        one.is_paused = False
        for _ in range(4):
            self.live(1, hooks=hooks)
            self.world.check()
            self.fill(other, CAP)
            self.world.check()

    @rule(sessions=FEW, ends=st.booleans(), shared=IDS)
    def a_process_pauses_while_its_call_is_on_its_way(self, sessions: int, ends: bool, shared: str) -> None:
        one, _ = self.ready(2)
        self.fill(one, sessions + 1)
        self.fill(one, 1, shared)
        if ends:
            self.world.end(one, sessions)
        else:
            self.world.open(one, None)
        calls = self.say(one)
        one.is_paused = True
        self.live(5)
        self.arrive(calls)
        self.world.check()
        one.is_paused = False
        self.live(3)

    @rule(sessions=st.integers(min_value=1, max_value=3))
    def answers_get_lost(self, sessions: int) -> None:
        one, *_ = self.ready(1)
        for _ in range(sessions):
            self.world.open(one, None)
        calls = self.say(one)
        self.arrive(calls)
        for flight in [flight for flight in self.world.flights if flight.process is one]:
            self.world.lose(flight)
        for call in calls:
            one.replica.failed(call.call)
        for _ in range(3):
            self.world.act(one)
            self.world.check()

    @rule(shared=IDS)
    def two_processes_have_the_same_id(self, shared: str) -> None:
        for process in self.ready(2):
            self.fill(process, 1, shared)
            self.world.check()

    @rule(sessions=st.integers(min_value=1, max_value=3), late=st.booleans(), crash=st.booleans())
    def a_survivor_stops_while_it_cleans(self, sessions: int, late: bool, crash: bool) -> None:
        one, other, third = self.ready(3)
        self.fill(one, sessions)
        self.world.crash(one)
        third.is_paused = True
        self.live(2)
        third.is_paused = False
        self.live(3)
        if not other.orphans:
            other, third = third, other
        self.world.check()
        if crash:
            other.is_paused = True
        self.live(3)
        other.is_paused = False
        while late and other.orphans:
            self.world.run_hook(other)
            self.world.act(other)
            self.world.check()

    @rule(shared=IDS)
    def an_id_dies_twice_and_a_settlement_comes_late(self, shared: str) -> None:
        one, other, _ = self.ready(3)
        self.fill(one, 1, shared)
        self.world.crash(one)
        self.clean(7)
        self.fill(other, 1, shared)
        self.world.crash(other)
        self.live(4)
        for copy in range(3):
            self.world.deliver_again(scripts.SETTLE, copy)
            self.world.check()

    @rule(puts=st.booleans())
    def a_call_arrives_hours_late(self, puts: bool) -> None:
        one, other, _ = self.ready(3)
        self.fill(one, 1)
        if puts:
            self.world.open(one, None)
        else:
            self.world.end(one, 0)
        calls = self.say(one)
        self.world.crash(one)
        self.clean()
        self.world.now += HOUR
        self.live(2, hooks=True)
        self.fill(other, 3)
        self.world.crash(other)
        self.clean()
        self.arrive([flight for flight in calls if flight.call.script in (scripts.PUT, scripts.END)])
        self.world.check()

    @rule(beats=st.integers(min_value=3, max_value=6), sessions=st.integers(min_value=1, max_value=2))
    def the_store_is_away(self, beats: int, sessions: int) -> None:
        """The processes live on. So nobody may clean up after them."""
        ready = self.ready(2)
        self.clean()
        for process in ready:
            self.fill(process, sessions)
        epochs = [process.replica.membership.epoch for process in ready]
        self.world.is_down = True
        for _ in range(beats):
            self.world.now += BEAT
            for process in ready:
                for flight in self.say(process):
                    self.world.lose(flight)
        self.world.is_down = False
        self.live(2)
        assert [process.replica.membership.epoch for process in ready] == epochs, "a store that was away killed them"

    @rule(late=st.booleans(), order=st.permutations([0, 1, 2]))
    def the_store_is_emptied(self, late: bool, order: list[int]) -> None:
        """Whoever has sessions gets its places back, before others get more."""
        ready = self.ready(3)
        self.clean()
        for process in ready:
            self.fill(process, 2)
        is_full = sum(len(process.replica) for process in self.world.processes) > CAP  # a store forgot before
        ready = [ready[place] for place in order if len(ready[place].replica)]
        self.world.empty()
        self.world.reconnect()
        if late:
            self.live(6, hooks=True, but=ready[:1])
            for process in ready[1:]:
                self.fill(process, CAP)
            self.live(2, hooks=True)
            return
        for _ in range(3):
            self.world.now += BEAT // 3
            for process in ready:
                process.replica.check_all()
                self.world.act(process)
                process.is_refused = True
                self.world.act(process)
                self.fill(process, CAP)
        together = sum(len(process.replica) for process in ready)
        assert is_full or together <= CAP, "those who came back first took the places of the others"

    @rule(shared=IDS, sessions=FEW)
    def the_store_goes_back_to_before_an_end(self, shared: str, sessions: int) -> None:
        one, *_ = self.ready(1)
        self.fill(one, 1, shared)
        self.fill(one, sessions)
        self.world.save()
        if shared in one.replica.refs():
            one.replica.end(shared, "closed")
        self.world.act(one)
        self.world.open(one, shared)
        calls = self.say(one)
        self.world.roll_back()
        self.world.reconnect()
        self.arrive(calls)
        self.live(2)

    @rule(hooks=st.booleans())
    def the_store_goes_back_to_before_a_burial(self, hooks: bool) -> None:
        one, _ = self.ready(2)
        self.fill(one, 1)
        self.world.save()
        self.world.crash(one)
        self.clean()
        self.world.roll_back()
        self.world.reconnect()
        for copy in range(3):
            self.world.deliver_again(scripts.BURY, copy)
            self.world.check()
        self.live(2, hooks=hooks)

    @rule(beats=st.integers(min_value=5, max_value=8))
    def the_store_is_emptied_while_all_live(self, beats: int) -> None:
        """One puts its sessions again before it knows that the store forgot its epoch. The other sees them."""
        one, other = self.ready(2)
        self.fill(one, 2)
        self.live(beats)
        self.world.empty()
        self.world.reconnect()
        self.world.act(one)
        for _ in range(4):
            self.world.now += BEAT // 2
            other.is_refused = True
            self.world.act(other)
            self.world.check()

    @rule(sessions=st.integers(min_value=1, max_value=3))
    def a_lease_ends(self, sessions: int) -> None:
        """Clocks run at different rates. Survivors look again and again."""
        one, other = self.ready(2)
        self.fill(one, sessions)
        self.live(1)
        one.is_paused = True
        self.live(2)
        self.world.now += BEAT - 1200
        for _ in range(8):
            self.world.now += 300
            other.is_refused = True
            self.world.act(other)
            self.world.check()

    @rule(away=st.integers(min_value=1, max_value=2), sessions=st.integers(min_value=1, max_value=2), steps=FEW)
    def a_lone_process_is_away(self, away: int, sessions: int, steps: int) -> None:
        """Nobody claims its sessions meanwhile. It keeps all."""
        one, *_ = self.ready(1)
        for process in self.world.processes[1:]:
            self.world.crash(process)
        self.clean()
        self.fill(one, sessions)
        self.world.open(one, None)
        self.step(one, answers=False)
        refs = set(one.replica.refs())
        for _ in range(away):
            self.world.now += 6 * BEAT
            for _ in range(steps):
                self.step(one)
            self.step(one, answers=False)
        self.clean()
        assert self.world.forgot or refs <= set(one.replica.refs()), "a process lost what nobody has claimed"

    @rule(sessions=st.integers(min_value=1, max_value=3))
    def a_process_comes_back_step_by_step(self, sessions: int) -> None:
        one, _ = self.ready(2)
        self.fill(one, sessions)
        one.is_paused = True
        self.live(5)
        one.is_paused = False
        for _ in range(6):
            self.step(one)

    @rule(sessions=FEW)
    def places_move_under_pressure(self, sessions: int) -> None:
        one, other = self.ready(2)
        for _ in range(3):
            self.fill(one, CAP)
            self.live(1)
        while len(one.replica) > sessions:
            one.replica.end(one.replica.refs()[0], "closed")
        for _ in range(4):
            self.world.now += BEAT
            other.is_refused = True
            for process in (other, one):
                self.step(process)
                self.step(process)
            self.fill(other, CAP)
            self.world.check()

    def step(self, process: Process, *, answers: bool = True) -> None:
        """The process says what it has to say, once. The answers arrive, or are lost."""
        self.arrive(self.say(process))
        self.world.check()
        for flight in [flight for flight in self.world.flights if flight.process is process]:
            if answers:
                self.world.deliver(flight)
            else:
                self.world.lose(flight)
        self.world.check()
