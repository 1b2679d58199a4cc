"""Random schedules over the small fleet, as a Hypothesis state machine: a failure shrinks to the steps that matter."""

import hypothesis.strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from otel_sessions.fleet.scripts import Script
from tests.fleet.stories import Stories
from tests.fleet.world import FORGETTING, SHARED, WRITES, Process

NUMBERS = st.integers(min_value=0, max_value=11)
PROCESSES = 3


class Machine(Stories):
    """What may happen. Hypothesis chooses the order."""

    def process(self, number: int) -> Process:
        return self.world.processes[number % len(self.world.processes)]

    @initialize(sessions=st.lists(st.integers(min_value=0, max_value=3), min_size=1, max_size=PROCESSES))
    def begin(self, sessions: list[int]) -> None:
        for number in sessions:
            self.world.start()
            process = self.world.processes[-1]
            for _ in range(3):
                self.world.now += 5250
                self.world.act(process)
            for _ in range(number):
                self.world.open(process, None)
            self.world.act(process)

    @rule(beats=st.integers(min_value=1, max_value=5))
    def time_passes(self, beats: int) -> None:
        self.live(beats)

    @precondition(lambda self: self.world.processes)
    @rule(number=NUMBERS)
    def act(self, number: int) -> None:
        self.world.act(self.process(number))

    @precondition(lambda self: self.world.processes)
    @rule(number=NUMBERS)
    def send(self, number: int) -> None:
        self.world.send(self.process(number))

    @precondition(lambda self: self.world.processes)
    @rule(number=NUMBERS, shared=st.sampled_from([None, None, *SHARED]), act=st.booleans())
    def open(self, number: int, shared: str | None, act: bool) -> None:
        process = self.process(number)
        if not process.is_paused:
            self.world.open(process, shared)
            if act:
                self.world.act(process)
            else:
                self.world.send(process)

    @precondition(lambda self: self.world.processes)
    @rule(number=NUMBERS, shared=st.sampled_from([None, *SHARED]))
    def open_and_wait(self, number: int, shared: str | None) -> None:
        process = self.process(number)
        if not process.is_paused:
            self.world.open(process, shared)
            self.world.open(process, None)
            self.world.act(process)

    @precondition(lambda self: self.world.processes)
    @rule(number=NUMBERS, which=NUMBERS, act=st.booleans())
    def end(self, number: int, which: int, act: bool) -> None:
        process = self.process(number)
        if not process.is_paused:
            self.world.end(process, which)
            if act:
                self.world.act(process)
            else:
                self.world.send(process)

    @precondition(lambda self: self.world.flights)
    @rule(which=NUMBERS)
    def deliver(self, which: int) -> None:
        self.world.deliver(self.world.flights[which % len(self.world.flights)])

    @rule(script=st.sampled_from(WRITES), which=st.integers(min_value=0, max_value=7))
    def deliver_again(self, script: Script, which: int) -> None:
        self.world.deliver_again(script, which)

    @precondition(lambda self: self.world.flights)
    @rule(which=NUMBERS)
    def give_up(self, which: int) -> None:
        self.world.give_up(self.world.flights[which % len(self.world.flights)])

    @precondition(lambda self: self.world.flights)
    @rule(which=NUMBERS)
    def lose(self, which: int) -> None:
        self.world.lose(self.world.flights[which % len(self.world.flights)])

    @rule(seconds=st.sampled_from([0.5, 2.0, 5.0, 5.0, 9.0, 14.0, 17.0]))
    def pass_time(self, seconds: float) -> None:
        self.world.now += int(seconds * 1000)

    @precondition(lambda self: self.world.processes)
    @rule(number=NUMBERS)
    def pause_or_resume(self, number: int) -> None:
        process = self.process(number)
        process.is_paused = not process.is_paused

    @precondition(lambda self: len(self.world.processes) > 1)
    @rule(number=NUMBERS)
    def crash(self, number: int) -> None:
        self.world.crash(self.process(number))

    @precondition(lambda self: len(self.world.processes) < PROCESSES)
    @rule()
    def start(self) -> None:
        self.world.start()

    @precondition(lambda self: any(process.orphans for process in self.world.processes))
    @rule(number=NUMBERS)
    def run_hook(self, number: int) -> None:
        busy = [process for process in self.world.processes if process.orphans]
        self.world.run_hook(busy[number % len(busy)])

    @rule()
    def stop_or_start_store(self) -> None:
        self.world.is_down = not self.world.is_down

    @rule()
    def save(self) -> None:
        self.world.save()

    @rule(how=st.sampled_from(FORGETTING))
    def forget(self, how: str) -> None:
        self.world.forget(how)

    @invariant()
    def everything_agrees(self) -> None:
        self.world.check()

    def teardown(self) -> None:
        self.world.calm_down()
