"""How each fault is brought about. Each waits for what the fault is about, never for speed."""

import signal
import time
from itertools import pairwise

from tests.fleet.servers import Program
from tests.waiting import until

from .journal import Kind
from .stage import Stage
from .stores import master_of, slot_of

# Processes of the fleet


def killed(stage: Stage) -> None:
    victim = stage.all[0]
    victim.kill()
    stage.until(lambda: stage.are_cleaned(victim))


def paused_for_less_than_its_lease(stage: Stage) -> None:
    victim = stage.all[0]
    victim.signal(signal.SIGSTOP)
    time.sleep(stage.orders.lease / 3)
    victim.signal(signal.SIGCONT)


def paused_for_longer(stage: Stage) -> None:
    victim = stage.all[0]
    victim.signal(signal.SIGSTOP)
    stage.until(lambda: stage.are_cleaned(victim))
    victim.signal(signal.SIGCONT)


def survivor_killed_while_cleaning(stage: Stage) -> None:
    victim = stage.all[0]
    victim.kill()
    stage.until(lambda: any(one.has(Kind.ORPHAN) > one.has(Kind.CLEANED) for one in stage.living()))
    survivor = max(stage.living(), key=lambda one: one.has(Kind.ORPHAN) - one.has(Kind.CLEANED))
    survivor.kill()
    stage.until(lambda: stage.are_cleaned(victim, survivor))


def cut_off(stage: Stage) -> None:
    network, victim = stage.place.network, stage.all[0]
    assert network is not None
    network.cut()
    stage.until(lambda: stage.are_cleaned(victim))
    network.heal()


def cut_off_while_open(stage: Stage) -> None:
    """The process goes on serving and making. What it has made meanwhile is put on its return."""
    network, victim = stage.place.network, stage.all[0]
    assert network is not None
    before = victim.journal.sessions(Kind.MADE)
    network.cut()
    stage.until(lambda: before <= stage.settled())
    network.heal()


def deployed(stage: Stage) -> None:
    for old in list(stage.all):
        new = stage.start()
        stage.more(Kind.READY, 1, new)
        stage.leave(old)
        stage.more(Kind.MADE, 5, new)


# The store


def paused(stage: Stage) -> None:
    (node,) = stage.place.nodes
    node.pause()
    _outlast(stage)
    node.go_on()


def stopped(stage: Stage) -> None:
    (node,) = stage.place.nodes
    node.kill()
    _outlast(stage)
    node.start()


def flushed(stage: Stage) -> None:
    (node,) = stage.place.nodes
    node.send("FLUSHALL")


def rolled_back(stage: Stage) -> None:
    (node,) = stage.place.nodes
    node.send("SAVE")
    stage.more(Kind.MADE, 10)
    stage.more(Kind.ENDED, 10)
    node.kill()
    node.start()


def failed_over(stage: Stage) -> None:
    """The server with the fleet's own slot dies. The last one is its replica."""
    first, replica = stage.place.nodes[0], stage.place.nodes[-1]
    assert master_of(stage.orders.fleet) == 0
    first.kill()
    stage.until(lambda: b"role:master" in replica.send("INFO", "replication"))


def nothing(stage: Stage) -> None:
    """The clocks have been wrong from the start. A process dies, since cleaning goes by the clocks, too."""
    stage.more(Kind.MADE, 20)
    killed(stage)


def moved(stage: Stage) -> None:
    """Move the slots of the fleet and of a shard to another master and back, key by key."""
    fleet = stage.orders.fleet
    for tag in (fleet, f"{fleet}.0"):
        home = master_of(tag)
        for source, target in pairwise((home, (home + 1) % 3, home)):
            _move(stage, slot_of(tag), stage.place.nodes[source], stage.place.nodes[target])
            stage.more(Kind.MADE, 5)


def _outlast(stage: Stage) -> None:
    """Wait until the outage has outlasted all leases."""
    if stage.orders.policy == "closed":
        stage.more(Kind.BLIND, 1)
    else:
        time.sleep(2 * stage.orders.lease)
        stage.more(Kind.SERVED, 1)


def _move(stage: Stage, slot: int, source: Program, target: Program) -> None:
    target.send("CLUSTER", "SETSLOT", slot, "IMPORTING", source.send("CLUSTER", "MYID").decode())
    source.send("CLUSTER", "SETSLOT", slot, "MIGRATING", target.send("CLUSTER", "MYID").decode())
    while keys := source.send("CLUSTER", "GETKEYSINSLOT", slot, 1):
        source.send("MIGRATE", "127.0.0.1", target.port, keys[0], 0, 5000)
        time.sleep(stage.orders.lease / 20)  # the load meets a slot that is half here and half there
    name = target.send("CLUSTER", "MYID").decode()
    for node in (target, source, *stage.place.nodes):
        until(lambda node=node: _knows(node, slot, name), bool)  # type: ignore[misc]


def _knows(node: Program, slot: int, owner: str) -> bool:
    """Tell a server who has a slot now. A replica learns it from its master."""
    if b"role:master" in node.send("INFO", "replication"):
        node.send("CLUSTER", "SETSLOT", slot, "NODE", owner)
    return True
