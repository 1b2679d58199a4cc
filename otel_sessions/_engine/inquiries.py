"""What an admin tool asks a manager, as values that can travel to the manager of another process, and back.

A question is a word with keywords, and each is one call of the manager. An answer is what JSON has. So the tool gets
the same from its own process as from any other, and puts the answers of several processes together.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from enum import StrEnum
from typing import Any, Final

from .manager import SessionManager

Answer = dict[str, Any]
"""An answer, ready for JSON."""


class Ask(StrEnum):
    """What is asked. Each word takes the keywords of the manager's method."""

    SESSIONS = "sessions"
    SESSION = "session"
    END = "end"
    END_CLIENT = "end_client"
    CLEAN_UP = "clean_up"
    PREVIEW = "preview"
    EMERGENCY = "emergency"
    STATS = "stats"
    CONFIG = "config"
    RECENT = "recent"


async def answer(manager: SessionManager[Any], ask: Ask, given: Mapping[str, Any]) -> Answer:
    """Return what a manager answers. Raises what its method raises."""
    return await _ANSWERS[ask](manager, **given)


async def _sessions(manager: SessionManager[Any], **filters: Any) -> Answer:
    return manager.sessions(**filters).as_dict()


async def _session(manager: SessionManager[Any], fingerprint: str) -> Answer:
    found = await manager.find(fingerprint)
    return {"session": None if found is None else found.as_dict()}


async def _end(manager: SessionManager[Any], fingerprint: str) -> Answer:
    return {"ended": int(await manager.close_session(fingerprint=fingerprint))}


async def _end_client(manager: SessionManager[Any], client: str) -> Answer:
    return {"ended": await manager.close_client(client)}


async def _clean_up(manager: SessionManager[Any], **limits: float | None) -> Answer:
    return (await manager.cleanup_stale_sessions(**limits)).as_dict()


async def _preview(manager: SessionManager[Any], **limits: float | None) -> Answer:
    return (await manager.preview_cleanup(**limits)).as_dict()


async def _emergency(manager: SessionManager[Any]) -> Answer:
    return (await manager.emergency_cleanup()).as_dict()


async def _stats(manager: SessionManager[Any]) -> Answer:
    return manager.get_metrics().as_dict()


async def _config(manager: SessionManager[Any]) -> Answer:
    return {"name": manager.name, "settings": {**asdict(manager.config), "max_sessions": manager.max_sessions}}


async def _recent(manager: SessionManager[Any], limit: int) -> Answer:
    return {"ends": [end.as_dict() for end in manager.recent_ends(limit)]}


_ANSWERS: Final[Mapping[Ask, Callable[..., Awaitable[Answer]]]] = {
    Ask.SESSIONS: _sessions,
    Ask.SESSION: _session,
    Ask.END: _end,
    Ask.END_CLIENT: _end_client,
    Ask.CLEAN_UP: _clean_up,
    Ask.PREVIEW: _preview,
    Ask.EMERGENCY: _emergency,
    Ask.STATS: _stats,
    Ask.CONFIG: _config,
    Ask.RECENT: _recent,
}
