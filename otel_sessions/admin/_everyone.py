"""The manager of this process and the managers of its fleet, asked as if they were one.

A process that does not answer is named, with the reason, and never waited for without end. A manager without a fleet is
asked alone. Then its errors are raised as they are.
"""

import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

import anyio

from otel_sessions._core.exceptions import ConfigError, ManagerClosed
from otel_sessions._engine.inquiries import Answer, Ask, answer
from otel_sessions._engine.manager import SessionManager
from otel_sessions._engine.owners import Asking, NotAnswered, Peer

from ._merged import Said, processes

_AT_ONCE: Final = 16
"""How many processes are asked at the same time."""
_CURSOR: Final = re.compile(r"([!-~]{1,255})\.([0-9a-f]{0,24})")
"""The name of a process, and its own cursor: nothing for its first page."""
_NO_CURSOR: Final = "after takes the `next` of a page; list again from the start"
_SILENT: Final = "it does not say its name"


class Everyone:
    """All processes, for the routes. Each answer is ready for JSON, and says which processes were reached."""

    def __init__(self, manager: SessionManager[Any]) -> None:
        self._manager = manager

    @property
    def name(self) -> str:
        """The name of this process. Without a fleet, the manager's name stands for it."""
        return self._manager.name if self._manager.fleet is None else self._manager.fleet.name

    async def ask(self, ask: Ask, **given: Any) -> list[Said]:
        """Ask all processes at once, and return what each has said, this one first.

        Raises what a lone manager raises, and `ManagerClosed` if no process has answered.
        """
        others = await self._others()
        if others is None:
            return [await self._own(ask, given)]
        limiter, said = anyio.CapacityLimiter(_AT_ONCE), dict[str, Said]()

        async def ask_one(name: str) -> None:
            try:
                async with limiter:
                    said[name] = await self._said(name, others, ask, given)
            except ConfigError as error:  # its version is another one
                said[name] = Said(name=name, answer=None, error=str(error))

        names = [self.name, *sorted(others)]
        async with anyio.create_task_group() as tasks:
            for name in names:
                tasks.start_soon(ask_one, name)
        if not any(one.answer for one in said.values()):
            raise ManagerClosed(said[self.name].error or "")
        return [said[name] for name in names]

    async def page(self, *, after: str | None, limit: int, **filters: Any) -> Answer:
        """Return a page of the list: one process after the other, by name, and of each the oldest session first.

        A page ends early at a process that does not answer, so a page waits for one such process at most. Raises
        `ConfigError`, and what a lone manager raises.
        """
        others = await self._others()
        if others is None:
            own = await self._own(Ask.SESSIONS, {**filters, "after": after, "limit": limit})
            assert own.answer is not None
            return {**own.answer, "sessions": _rows(own), "processes": processes([own])}
        first, inner = _place(after)
        left = sorted(name for name in (self.name, *others) if first is None or name >= first)
        inner = inner if left[:1] == [first] else None
        rows: list[Answer] = []
        said: list[Said] = []
        while left:
            one = await self._part(left[0], others, {**filters, "limit": limit - len(rows)}, inner)
            said.append(one)
            rows += _rows(one)
            inner = None if one.answer is None else one.answer["next"]
            if inner is not None:
                break
            left = left[1:]
            if one.answer is None or len(rows) == limit:
                break
        following = f"{left[0]}.{inner or ''}" if left else None
        return {"sessions": rows, "next": following, "processes": processes(said)}

    async def _part(
        self, name: str, others: Mapping[str, Peer | None], filters: Mapping[str, Any], after: str | None
    ) -> Said:
        """Return a part of the list of a process.

        A process that has started anew since the page before begins its list anew: none of its sessions was listed.
        """
        if after is not None:
            with suppress(ConfigError):
                return await self._said(name, others, Ask.SESSIONS, {**filters, "after": after})
        return await self._said(name, others, Ask.SESSIONS, {**filters, "after": None})

    async def _others(self) -> Mapping[str, Peer | None] | None:
        """Return the other processes, or None for a manager that has no fleet to ask."""
        fleet: object = self._manager.fleet
        return await fleet.others() if isinstance(fleet, Asking) else None

    async def _own(self, ask: Ask, given: Mapping[str, Any]) -> Said:
        return Said(name=self.name, answer=await answer(self._manager, ask, given))

    async def _said(self, name: str, others: Mapping[str, Peer | None], ask: Ask, given: Mapping[str, Any]) -> Said:
        try:
            if name not in others:
                return await self._own(ask, given)
            peer = others[name]
            fleet: object = self._manager.fleet
            if peer is None:
                raise NotAnswered(_SILENT)
            assert isinstance(fleet, Asking)
            return Said(name=name, answer=await fleet.ask(peer, ask, given))
        except (NotAnswered, ManagerClosed) as error:
            return Said(name=name, answer=None, error=str(error))


def _place(after: str | None) -> tuple[str | None, str | None]:
    """Return the process where a list goes on, and the cursor in its list. Raises `ConfigError`."""
    if after is None:
        return None, None
    match = _CURSOR.fullmatch(after)
    if match is None:
        raise ConfigError(_NO_CURSOR)
    return match[1], match[2] or None


def _rows(said: Said) -> list[Answer]:
    return [] if said.answer is None else [{**row, "process": said.name} for row in said.answer["sessions"]]
