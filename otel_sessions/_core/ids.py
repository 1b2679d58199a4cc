"""Session ids are secrets. This module makes ids, and the fingerprints that people see instead.

A person who knows an id can use its session. So no log, span, error text or repr shows an id.
"""

import secrets
from hashlib import blake2b


def new_id() -> str:
    """Return an unguessable id: 256 random bits as 43 URL-safe characters."""
    return secrets.token_urlsafe(32)


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
