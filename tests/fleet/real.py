"""A real store as tests see it from outside: what it has counted, and slots that are moved."""

import contextlib
from collections import Counter
from collections.abc import Sequence

from tests.fleet.processes import KEYS
from tests.fleet.servers import Program
from tests.fleet.valkey import StoreError


def books(*servers: Program) -> Counter[str]:
    """Return what all shards have counted, with `active` for the records. Each shard is read where it answers.

    Empty if a shard answers nowhere.
    """
    total = Counter[str]()
    for shard in range(KEYS.shards):
        found = next(filter(None, (_shard(server, shard) for server in servers)), None)
        if found is None:
            return Counter()
        total.update(found)
    return total


def balance(*servers: Program) -> bool:
    """Return whether each session that was created is active or counted as ended, and counted once."""
    total = books(*servers)
    return total["created"] > 0 and total["created"] == total.total() - total["created"]


def _shard(server: Program, shard: int) -> Counter[str] | None:
    records, _, _, ended = KEYS.shard(shard)
    with contextlib.suppress(StoreError, OSError):
        flat, active = server.send("HGETALL", ended), server.send("HLEN", records)
        counts = {word.decode(): int(count) for word, count in zip(flat[::2], flat[1::2], strict=True)}
        return Counter({**counts, "active": active})
    return None


def move_slot(key: str, source: Program, target: Program, everybody: Sequence[Program]) -> None:
    """Move the slot of a key to another master of a Cluster, key by key."""
    slot = source.send("CLUSTER", "KEYSLOT", key)
    names = [server.send("CLUSTER", "MYID").decode() for server in (source, target)]
    target.send("CLUSTER", "SETSLOT", slot, "IMPORTING", names[0])
    source.send("CLUSTER", "SETSLOT", slot, "MIGRATING", names[1])
    while keys := source.send("CLUSTER", "GETKEYSINSLOT", slot, 10):
        source.send("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)
    for server in (target, source, *everybody):
        server.send("CLUSTER", "SETSLOT", slot, "NODE", names[1])


def owner_of(key: str, servers: Sequence[Program]) -> Program:
    """Return the master of a Cluster that has the slot of a key."""
    for server in servers:
        with contextlib.suppress(StoreError):
            server.send("EXISTS", key)
            return server
    raise AssertionError("no master has the slot")
