"""The sessions of this process by what the fleet knows of them, and who waits until the store has them.

What always holds: a session may be served only under the join at which the store had it, or at which the outage policy
let it go without. So a process that had to join anew serves nothing until it has taken it over.
"""

from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

import anyio

from otel_sessions._core.session import Session
from otel_sessions._core.words import EndReason

from .lanes import News


class Standing(Enum):
    """What the fleet says of a session."""

    WAITING = "waiting"
    """The store has not answered for it."""
    SERVED = "served"
    TAKEN = "taken"
    """Another process has its id."""
    LOST = "lost"
    """Others have claimed it."""


@dataclass(eq=False, slots=True)
class Entry:
    """One session. `join` is the join under which it may be served. `known` says that the store had it once."""

    session: Session[Any]
    ref: str
    standing: Standing = Standing.WAITING
    join: int = 0
    known: bool = False
    waiting: int = 0
    """How many tasks wait for it."""
    changed: anyio.Event = field(default_factory=anyio.Event)

    async def wait(self) -> None:
        """Wait until something was learned of the session, or until the store did not answer."""
        self.waiting += 1
        try:
            await self.changed.wait()
        finally:
            self.waiting -= 1

    def tell(self) -> None:
        """Wake all who wait for it."""
        changed, self.changed = self.changed, anyio.Event()
        changed.set()


class Registry:
    """All sessions of this process, from `add` until `remove`."""

    def __init__(self) -> None:
        self._of_session: Final[dict[Session[Any], Entry]] = {}
        self._of_ref: Final[dict[str, Entry]] = {}
        self._waited_for: Final[dict[str, Entry]] = {}

    def add(self, session: Session[Any], ref: str) -> None:
        entry = Entry(session=session, ref=ref)
        self._of_session[session] = self._of_ref[ref] = self._waited_for[ref] = entry

    def remove(self, session: Session[Any]) -> str | None:
        """Forget a session. Return what the store knows it by, or None if it was not here."""
        entry = self._of_session.pop(session, None)
        if entry is None:
            return None
        del self._of_ref[entry.ref]
        self._waited_for.pop(entry.ref, None)
        entry.tell()
        return entry.ref

    def entry(self, session: Session[Any]) -> Entry | None:
        return self._of_session.get(session)

    def join_of(self, session: Session[Any]) -> int:
        """Return the join under which a session may be served, or 0 while there is no such join."""
        entry = self._of_session.get(session)
        return 0 if entry is None else entry.join

    def let(self, entry: Entry, join: int) -> None:
        """Let a session be served though the store has not answered for it."""
        entry.standing, entry.join = Standing.SERVED, join
        self._waited_for.pop(entry.ref, None)

    def learn(self, ref: str, news: News, join: int) -> tuple[str, EndReason] | None:
        """Note what a lane has learned. Return the id and the reason of a session that must end here, or None.

        A session that the store had has its hook run by whoever claimed it: here it is only `fenced`. If the store may
        never have had it, nobody else runs its hook: it has `failed`, and its own hook does all.
        """
        entry = self._of_ref[ref]
        self._waited_for.pop(ref, None)
        entry.tell()
        if news is News.REGISTERED:
            entry.standing, entry.join, entry.known = Standing.SERVED, join, True
            return None
        entry.standing, entry.join = Standing.TAKEN if news is News.TAKEN else Standing.LOST, 0
        if entry.waiting:
            return None  # whoever waits is told by an exception, and the manager ends the session
        is_fenced = news is News.TAKEN or entry.known
        return entry.session.id, EndReason.FENCED if is_fenced else EndReason.FAILED

    def tell_waiting(self) -> None:
        """Wake all who wait: the store did not answer, or the policy has changed its mind."""
        for entry in list(self._waited_for.values()):
            entry.tell()
