"""Which processes are members of the fleet, and where, from the store's table of members.

What always holds: the table here is one answer of the store. It is read again when a beat names another version, and
when a hint or a session names a process that is not in it: the process may have joined after the last beat.
"""

import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Final, TypeAlias

import anyio

from otel_sessions._core.events import Event
from otel_sessions._core.exceptions import ConfigError, StoreUnavailable
from otel_sessions._engine.owners import Peer

from .addresses import is_name, read_address
from .peers import Ask
from .store import Value, text

Networks: TypeAlias = Sequence[IPv4Network | IPv6Network]
Read: TypeAlias = Callable[[], Awaitable[Sequence[Value]]]
"""Asks the store for its members. Raises `StoreUnavailable`."""

_logger = logging.getLogger("otel_sessions")


class Members:
    """The processes of a fleet. With `networks`, only addresses in these networks are used."""

    def __init__(self, networks: Networks | None) -> None:
        self._networks: Final = networks
        self._refused: set[str] = set()
        self.begin(_not_now)

    def begin(self, read: Read) -> None:
        """Begin with a run of the manager."""
        self._read = read
        self._reading = anyio.Lock()
        self._reads = 0
        self._version = -1
        self._by_name: dict[str, Peer] = {}
        self._by_epoch: dict[int, Peer] = {}

    def open(self, ask: Ask) -> None:
        """Do nothing: the store is asked, and no peer."""

    def close(self) -> None:
        self.begin(_not_now)

    def is_outdated(self, version: int) -> bool:
        """Return whether the store had another table when it named this version."""
        return version != self._version

    async def read(self) -> None:
        """Read the table. Raises `StoreUnavailable`."""
        answer = await self._read()
        rows = list(self._rows(answer[2:]))
        self._version = int(answer[1])
        self._by_name = {peer.name: peer for _, peer in rows}
        self._by_epoch = dict(rows)

    async def find(self, name: str) -> Peer | None:
        """Return the process of this name, or None. The store is not asked."""
        return self._by_name.get(name)

    async def find_again(self, name: str) -> Peer | None:
        """Return the process of this name, or None. The store is asked if it is not known. Raises `StoreUnavailable`.

        All who wait for an answer share the next question.
        """
        known = self._reads
        async with self._reading:
            if name not in self._by_name and self._reads == known:
                self._reads += 1
                await self.read()
        return self._by_name.get(name)

    async def everyone(self) -> Mapping[str, Peer | None]:
        """Return all processes, as the last answer of the store has them. The store is not asked."""
        return self._by_name

    async def owner(self, epoch: int) -> Peer | None:
        """Return the living process of this number, or None. Raises `StoreUnavailable` if that cannot be said now."""
        if epoch not in self._by_epoch:
            await self.read()  # it may have joined after the last beat
        return self._by_epoch.get(epoch)

    def _rows(self, values: Sequence[Value]) -> Iterator[tuple[int, Peer]]:
        for at in range(0, len(values), 3):
            peer = Peer(name=text(values[at]), address=text(values[at + 1]))
            if self._is_allowed(peer):
                yield int(values[at + 2]), peer

    def _is_allowed(self, peer: Peer) -> bool:
        """Whoever writes to the store must not steer requests to any place."""
        if is_name(peer.name) and self._is_allowed_address(peer.address):
            return True
        if peer.address not in self._refused:
            self._refused = {*list(self._refused)[-1023:], peer.address}
            _logger.warning(
                "the store has a process %r at %r, which is not allowed",
                *(peer.name, peer.address),
                extra=Event.PEER_UNUSABLE.extra,
            )
        return False

    def _is_allowed_address(self, address: str) -> bool:
        try:
            where = read_address(address)
            return self._networks is None or (
                where.socket is None and any(ip_address(where.host) in network for network in self._networks)
            )
        except (ConfigError, ValueError):  # no address, or a host name where networks are given
            return False


async def _not_now() -> Sequence[Value]:
    raise StoreUnavailable("the fleet does not run")
