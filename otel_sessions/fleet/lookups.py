"""Which process has a session whose id names no process: one question to the store, and a memory of answers.

What always holds: only owners are remembered, for one beat, and a bounded number of them. At most 64 questions are
under way.
"""

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

from otel_sessions._core.exceptions import PeerUnavailable, StoreUnavailable
from otel_sessions._core.words import LookupOutcome
from otel_sessions._engine.owners import Peer

from .members import Members

_MOST_REMEMBERED: Final = 4096
_MOST_UNDER_WAY: Final = 64
_AGAIN_SECONDS: Final = 1.0
_STORE: Final = "store"
"""In place of a process, in what a client is told to try again."""

Look: TypeAlias = Callable[[str], Awaitable[int | None]]
"""Returns the owner's epoch of what the store knows a session by. Raises `StoreUnavailable`."""


class Lookups:
    """Asks for owners. `span` is the number of seconds for which an owner is remembered."""

    def __init__(
        self,
        look: Look,
        members: Members,
        clock: Callable[[], float],
        span: float,
        outcomes: Counter[LookupOutcome],
    ) -> None:
        self._look: Final = look
        self._members: Final = members
        self._clock: Final = clock
        self._span: Final = span
        self._outcomes: Final = outcomes
        self._owners: Final[dict[str, tuple[float, Peer]]] = {}
        """When each owner was found. The first was found first."""
        self._under_way = 0

    async def find(self, ref: str) -> Peer | None:
        """Return the owner of a session. Raises `PeerUnavailable` if that cannot be said now."""
        found, peer = self._owners.get(ref, (0.0, None))
        if peer is not None and self._clock() - found < self._span:
            self._outcomes[LookupOutcome.CACHE] += 1
            return peer
        return await self.find_again(ref)

    async def find_again(self, ref: str) -> Peer | None:
        """Ask the store. Raises as `find`."""
        self._owners.pop(ref, None)
        if self._under_way >= _MOST_UNDER_WAY:
            self._outcomes[LookupOutcome.REFUSED] += 1
            raise PeerUnavailable(_STORE, _AGAIN_SECONDS)
        self._under_way += 1
        try:
            peer = await self._ask(ref)
        except PeerUnavailable:
            self._outcomes[LookupOutcome.REFUSED] += 1
            raise
        finally:
            self._under_way -= 1
        self._outcomes[LookupOutcome.NONE if peer is None else LookupOutcome.FOUND] += 1
        if peer is not None:
            self._remember(ref, peer)
        return peer

    async def find_by_name(self, name: str) -> Peer | None:
        """Return the process of a name, which may have joined after the last beat. Raises as `find`."""
        try:
            peer = await self._members.find_again(name)
        except StoreUnavailable as error:
            raise PeerUnavailable(_STORE, _AGAIN_SECONDS) from error
        if peer is not None:
            self._outcomes[LookupOutcome.HINT] += 1
        return peer

    async def _ask(self, ref: str) -> Peer | None:
        try:
            epoch = await self._look(ref)
            return None if epoch is None else await self._members.owner(epoch)
        except StoreUnavailable as error:
            raise PeerUnavailable(_STORE, _AGAIN_SECONDS) from error

    def _remember(self, ref: str, peer: Peer) -> None:
        if len(self._owners) >= _MOST_REMEMBERED:
            del self._owners[next(iter(self._owners))]
        self._owners[ref] = self._clock(), peer
