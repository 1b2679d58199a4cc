"""A fleet in this process: managers that ask each other without a network, and some that do not answer."""

from collections.abc import Mapping
from typing import Any

from otel_sessions import ConfigError, Peer, SessionManager
from otel_sessions._engine.inquiries import Ask, answer
from otel_sessions._engine.owners import NotAnswered


class Fleet:
    """The process `w2` among the processes of `managers`. None stands for a process that does not say its name."""

    name = "w2"

    def __init__(self) -> None:
        self.managers: dict[str, SessionManager[Any] | None] = {}
        self.silent: set[str] = set()
        self.older: set[str] = set()

    def enter(self) -> None:
        pass

    def leave(self) -> None:
        pass

    async def wait_quiet(self) -> None:
        pass

    async def locate(self, _session_id: str) -> Peer | None:
        return None

    async def others(self) -> Mapping[str, Peer | None]:
        return {
            name: None if manager is None else Peer(name=name, address="http://x")
            for name, manager in self.managers.items()
        }

    async def ask(self, peer: Peer, ask: str, given: Mapping[str, object]) -> dict[str, object]:
        manager = self.managers[peer.name]
        if peer.name in self.silent or manager is None:
            raise NotAnswered("it gives no sign of life")
        if peer.name in self.older:
            raise ConfigError("limit is not known here")
        return await answer(manager, Ask(ask), given)
