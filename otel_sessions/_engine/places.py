"""The places under the cap: counted in one step with each change, and handed on in order.

`reserved + live + closing <= max_sessions` at every moment. If the cap is lowered below this sum, no creator gets in
until the sum is lower. A freed place goes to the creator that has waited longest, so no creator overtakes another. The
place of a client's session goes first to a creator that waits for a place of this client (`clients`). `admission`
decides who may wait and who is refused.
"""

from collections.abc import Sequence
from typing import Generic

from otel_sessions._core.books import Books
from otel_sessions._core.config import SessionConfig
from otel_sessions._core.session import DataT, Session
from otel_sessions._core.words import RejectionReason

from .clients import Clients, Waiter


class Places(Generic[DataT]):
    """The places of one run of a manager. The cap itself is `books.limit`."""

    def __init__(self, config: SessionConfig, books: Books) -> None:
        self.clients: Clients[DataT] = Clients(config)
        self.taken = 0
        """The number of places that were taken since the run began."""
        self.over = False
        """Whether the run is over. Places that are given back then are not counted."""
        self._books = books
        self._waiters: dict[Waiter, None] = {}

    @property
    def limit(self) -> int | None:
        """How many places there may be, None without a limit."""
        return self._books.limit

    @property
    def free(self) -> int | None:
        """The number of free places, None without a cap. Below 0 while more are taken than a lowered cap allows."""
        limit = self._books.limit
        return None if limit is None else limit - self._books.active - self._books.reserved

    @property
    def is_full(self) -> bool:
        limit = self._books.limit
        return limit is not None and self._books.active + self._books.reserved >= limit

    @property
    def is_overfull(self) -> bool:
        """Whether more places are taken than a lowered cap allows. Then the end of one session frees no place."""
        free = self.free
        return free is not None and free < 0

    @property
    def missing(self) -> int:
        """How many places more would have to be free for an emergency pass to stop: a tenth of the cap, at least one.

        Below 0 if more are free.
        """
        return 0 if self._books.limit is None else missing(self._books.limit, self._books.active + self._books.reserved)

    def why_full(self) -> tuple[int, RejectionReason]:
        """Return the cap that is reached, and the reason of a refusal at it."""
        return self._books.limit or 0, RejectionReason.MAX_SESSIONS

    def retry_after(self, seconds: float | None) -> float | None:
        """Return the seconds until a place may be free, where an emergency pass may free one after `seconds`."""
        return seconds

    @property
    def waiting(self) -> int:
        """The number of creators that wait for the next free place."""
        return len(self._waiters)

    @property
    def coming(self) -> int:
        """The number of places that are about to be free for these creators."""
        return max(0, self._books.closing - self.clients.waiting + min(0, self.free or 0))

    def set_max_sessions(self, max_sessions: int | None) -> None:
        """Set the cap. Creators that wait get the places that a higher cap adds. A lower cap ends no session."""
        self._books.limit = max_sessions
        self.room_changed()

    def room_changed(self) -> None:
        """Let creators that wait in, as far as there is room now."""
        self._pass_on()

    def take(self, client: str | None) -> None:
        """Reserve a free place."""
        self.clients.enter(client)
        self._books.add_reserved()
        self.taken += 1

    def queue(self, client: str | None) -> Waiter:
        """Let a creator wait for the next free place."""
        self.clients.enter(client)
        waiter = Waiter(client, own=False)
        self._waiters[waiter] = None
        self._books.add_waiting()
        return waiter

    def queue_for_own(self, client: str) -> Waiter:
        """Let a creator wait for the place of one of its client's sessions."""
        waiter = Waiter(client, own=True)
        self.clients.queue(waiter)
        self._books.add_waiting()
        return waiter

    def give_back(self, client: str | None) -> None:
        """Give back a reserved place that did not become a session."""
        if self.over:
            return
        self._books.add_unreserved()
        if not self._hand_over(client):
            self.clients.leave(client)
            self._pass_on()

    def move(self, client: str | None, new_client: str | None) -> None:
        """Count a reserved place for another client."""
        self.clients.leave(client)
        self.clients.enter(new_client)

    def settle(self, session: Session[DataT]) -> None:
        """Note the session that a place has become."""
        if self.clients.evicts:
            self.clients.add(session)

    def freed(self, sessions: Sequence[Session[DataT]]) -> None:
        """Note that the places of removed sessions are free. The books do not count these sessions as active."""
        if self.clients.max_sessions_per_client is not None:
            for session in sessions:
                self.clients.remove(session)
                if not self._hand_over(session.client):
                    self.clients.leave(session.client)
        self._pass_on()

    def dismiss(self, waiter: Waiter) -> None:
        """Stop the waiting of a creator. Nothing happens if the creator does not wait."""
        if waiter in self._waiters:
            del self._waiters[waiter]
            self.clients.leave(waiter.client)
        elif self.clients.is_waiting(waiter):
            self.clients.discard(waiter)
        else:
            return
        self._books.add_answered()
        waiter.answered.set()

    def dismiss_uncovered(self) -> None:
        """Dismiss the creators for whom no place is about to be free, the latest creator first."""
        while len(self._waiters) > self.coming:
            self.dismiss(next(reversed(self._waiters)))

    def dismiss_all(self) -> None:
        """Dismiss all creators that wait, since the manager shuts down."""
        for waiter in [*reversed(self._waiters), *self.clients.all_waiters()]:
            self.dismiss(waiter)

    def end(self) -> None:
        """Take back the places that are still reserved, since the run is over."""
        self.over = True
        while self._books.reserved:
            self._books.add_unreserved()

    def _hand_over(self, client: str | None) -> bool:
        """Give a freed place to a creator that waits for a place of this client. Return whether a creator got it."""
        waiter = self.clients.next_waiter(client)
        if waiter is None or self.is_full:
            return False
        self.clients.discard(waiter)
        self._grant(waiter)
        return True

    def _pass_on(self) -> None:
        while self._waiters and not self.is_full:
            waiter = next(iter(self._waiters))
            del self._waiters[waiter]
            self._grant(waiter)

    def _grant(self, waiter: Waiter) -> None:
        self._books.add_answered()
        self._books.add_reserved()
        self.taken += 1
        waiter.granted = True
        waiter.answered.set()


def missing(limit: int, taken: int) -> int:
    """Return how many places more would have to be free for a tenth of the limit, at least one place, to be free."""
    return max(1, limit // 10) - (limit - taken)
