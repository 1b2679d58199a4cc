"""What the fleet asks of a store: run one script. And what a call to it is: a script, its keys and its arguments.

Everything above this module decides which calls to make and reads their answers. It needs no client library.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final, Protocol, TypeAlias

from .scripts import Script

Value: TypeAlias = bytes | int
Argument: TypeAlias = bytes | str | int

_LONGEST_KEY: Final = 64
"""Bytes; what BLAKE2b takes as a key."""


class Store(Protocol):
    """A Valkey or Redis, or what stands in for one."""

    async def run(self, script: Script, keys: Sequence[str], args: Sequence[Argument]) -> Sequence[Value]:
        """Run a script at the node that holds `keys`, and return its answer: a flat list.

        It may run the script more than once, and late: every script bears that. Raises `StoreUnavailable` if there was
        no answer; the script may have run all the same.
        """
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Call:
    """One run of a script. The argument `now` is left to whoever sends the call. A call is equal only to itself."""

    script: Script
    keys: tuple[str, ...]
    args: tuple[Argument, ...]


class Keys:
    """The names of a fleet's keys. All keys of a call share a hash tag, so they are in one slot."""

    def __init__(self, name: str, shards: int) -> None:
        self.shards: Final = shards
        self.fleet: Final = tuple(f"{{{name}}}:{part}" for part in "mldg")
        self._tags: Final = [f"{{{name}.{shard}}}" for shard in range(shards)]

    def shard(self, shard: int) -> tuple[str, ...]:
        """Return the four keys of a shard that belong to no owner."""
        return tuple(f"{self._tags[shard]}:{part}" for part in "swfb")

    def owned(self, shard: int, epoch: int) -> str:
        """Return the key of the ids that an owner has in a shard."""
        return f"{self._tags[shard]}:o:{epoch}"

    def claimed(self, shard: int, epoch: int) -> str:
        """Return the key of the ids of a dead owner that survivors have claimed."""
        return f"{self._tags[shard]}:c:{epoch}"

    def settled(self, shard: int) -> str:
        """Return the key of the nonces of orphans whose hooks have run."""
        return f"{self._tags[shard]}:x"

    def shard_of(self, ref: str) -> int:
        """Return the shard of a session."""
        return int(ref[:8], 16) % self.shards


def session_ref(session_id: str, secret: bytes) -> str:
    """Return what the store knows a session by: BLAKE2b-128 of its id, keyed with the fleet's secret, in hexadecimal.

    So whoever reads the store learns no id.
    """
    key = secret if len(secret) <= _LONGEST_KEY else blake2b(secret).digest()
    return blake2b(session_id.encode(), digest_size=16, key=key).hexdigest()


def raw(value: Value) -> bytes:
    """Return one value of an answer as bytes."""
    return value if isinstance(value, bytes) else b"%d" % value


def text(value: Value) -> str:
    """Return one value of an answer as a text."""
    return raw(value).decode()


def numbers(values: Sequence[Value]) -> list[int]:
    """Return a part of an answer that holds numbers only."""
    return [int(value) for value in values]
