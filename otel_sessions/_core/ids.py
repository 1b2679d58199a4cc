"""Session ids are secrets. This module makes ids, and the fingerprints that people see instead.

A person who knows an id can use its session. So no log, span, error text or repr shows an id.
"""

import secrets
from hashlib import blake2b
from typing import Final

_AFTER_HINT: Final = "."
"""Stands between the name of a process and the rest of an id. No name has it."""


def new_id() -> str:
    """Return an unguessable id: 256 random bits as 43 URL-safe characters."""
    return secrets.token_urlsafe(32)


def hinted(process: str, session_id: str) -> str:
    """Return an id with a hint in front: the name of the process that has the session."""
    return f"{process}{_AFTER_HINT}{session_id}"


def without_hint(process: str, session_id: str) -> str:
    """Return an id without the hint of this process. An id with another hint, or with no hint, stays as it is."""
    return session_id.removeprefix(process + _AFTER_HINT)


def hint_in(session_id: str) -> str | None:
    """Return the name of the process that an id's hint names, or None if the id has no hint."""
    name, mark, _ = session_id.partition(_AFTER_HINT)
    return name if mark else None


def require_text(session_id: object) -> None:
    """Raise `TypeError` if `session_id` is not a `str`."""
    if not isinstance(session_id, str):
        raise TypeError(f"a session id is a str, not {type(session_id).__name__}")


def fingerprint(session_id: str) -> str:
    """Return 16 hex digits that stand for an id: its 64-bit BLAKE2b digest, as `b2sum -l 64` prints it.

    Raises `TypeError` if the id is not a `str`.
    """
    require_text(session_id)
    return blake2b(session_id.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
