"""Peers that are known by a name in the DNS. Each address of the name is asked for the name of its process.

One round asks all addresses at once. An unknown name starts a round, once a second at most. All that wait for a round
wait for the same one.
"""

import asyncio
import logging
import socket
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

from otel_sessions._core.events import Event
from otel_sessions._core.exceptions import PeerUnavailable
from otel_sessions._engine.owners import Peer

from .addresses import Address, is_name
from .peers import Ask

_ROUND_SECONDS: Final = 1.0
_MOST_ADDRESSES: Final = 256
_MOST_WAITING: Final = 64

_logger = logging.getLogger("otel_sessions")


class Resolved:
    """The processes at the addresses of a host."""

    def __init__(self, host: Address) -> None:
        self._host = host
        self._ask: Ask | None = None
        self._known: dict[str, Peer] = {}
        self._silent: list[str] = []
        self._round: asyncio.Task[None] | None = None
        self._last = -_ROUND_SECONDS
        self._waiting = 0

    def open(self, ask: Ask) -> None:
        self._ask = ask
        # The former run may have ended with its loop.
        self._known, self._round, self._waiting, self._last = {}, None, 0, -_ROUND_SECONDS

    def close(self) -> None:
        if self._round is not None:
            self._round.cancel()
            self._round = None

    async def find(self, name: str) -> Peer | None:
        """Return the process of a name. Raises `PeerUnavailable` if too many wait for a round already."""
        return self._known.get(name) or await self.find_again(name)

    async def find_again(self, name: str) -> Peer | None:
        """Return the process of a name after a new round. Raises as `find`."""
        await self._wait_for_round(name)
        return self._known.get(name)

    async def everyone(self) -> Mapping[str, Peer | None]:
        """Return all processes after a new round. An address that does not say a name stands for its process."""
        with suppress(PeerUnavailable):  # what is known already will do
            await self._wait_for_round("")
        return {**self._known, **dict.fromkeys(self._silent)}

    async def _wait_for_round(self, name: str) -> None:
        if self._waiting >= _MOST_WAITING:
            raise PeerUnavailable(name, _ROUND_SECONDS)
        self._waiting += 1
        try:
            if self._round is None:
                self._round = asyncio.create_task(self._ask_all(), name="otel-sessions peers")
            await asyncio.wait([self._round])
        finally:
            self._waiting -= 1

    async def _ask_all(self) -> None:
        """Ask all addresses. A second must have passed since the last round."""
        loop = asyncio.get_running_loop()
        try:
            await asyncio.sleep(self._last + _ROUND_SECONDS - loop.time())
            self._last = loop.time()
            addresses = await self._addresses()
            found = await asyncio.gather(*map(self._ask_one, addresses))
            self._known = {peer.name: peer for peer in found if peer is not None}
            self._silent = [address for address, peer in zip(addresses, found, strict=True) if peer is None]
        except OSError as error:
            host = self._host.text
            _logger.warning("the peers at %s cannot be found: %s", host, error, extra=Event.PEERS_NOT_FOUND.extra)
        finally:
            self._round = None

    async def _ask_one(self, address: str) -> Peer | None:
        assert self._ask is not None
        name = await self._ask(address)
        return Peer(name=name, address=address) if is_name(name) and name is not None else None

    async def _addresses(self) -> list[str]:
        """Return the addresses that the host has now. Raises `OSError`."""
        host = self._host
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host.host, host.port, type=socket.SOCK_STREAM)
        hosts = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        if len(hosts) > _MOST_ADDRESSES:
            _logger.warning(
                "%s has %d addresses; the first %d count",
                *(host.text, len(hosts), _MOST_ADDRESSES),
                extra=Event.PEERS_NOT_FOUND.extra,
            )
        return [_written(host, each) for each in hosts[:_MOST_ADDRESSES]]


def _written(host: Address, address: str) -> str:
    bracketed = f"[{address}]" if ":" in address else address
    return f"{'https' if host.is_tls else 'http'}://{bracketed}:{host.port}{host.path.decode('ascii').rstrip('/')}"
