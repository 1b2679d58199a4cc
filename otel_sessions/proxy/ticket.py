"""What ends a session at the upstream, as bytes that a fleet's store keeps and cannot read.

A ticket holds credentials, so it is encrypted (AES-256-GCM, NIST SP 800-38D) with a key derived from the secret.
The first secret encrypts, and each one may decrypt, so that a secret can be replaced step by step.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Final

from otel_sessions._core.exceptions import ConfigError
from otel_sessions.matchers import Headers

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_VERSION: Final = b"\x01"
_NONCE_BYTES: Final = 12
_KEY_BYTES: Final = 32
_PURPOSE: Final = b"otel-sess-ticket"
"""Sets the key apart from all that the secret is used for elsewhere."""
_NEEDS_EXTRA: Final = "--fleet-farewell needs the extra `fleet`: pip install 'otel-sessions[fleet]' ({})"


@dataclass(frozen=True, kw_only=True, slots=True)
class Ticket:
    """The id of a session at the upstream, the path and query of its first request, and its client's credentials."""

    session_id: str
    target: bytes
    headers: Headers

    def __repr__(self) -> str:
        return "<Ticket>"  # without what its client has shown


def seal(ticket: Ticket, keys: Sequence[bytes]) -> bytes:
    """Return a ticket as bytes, encrypted with the first key."""
    lines = [ticket.session_id.encode("latin-1"), ticket.target, *(b"%b:%b" % pair for pair in ticket.headers)]
    nonce = os.urandom(_NONCE_BYTES)
    return _VERSION + nonce + _cipher(keys[0]).encrypt(nonce, b"\n".join(lines), _VERSION)


def unseal(sealed: bytes, keys: Sequence[bytes]) -> Ticket | None:
    """Return the ticket, or None if no key opens it."""
    from cryptography.exceptions import InvalidTag

    version, nonce, rest = sealed[:1], sealed[1 : 1 + _NONCE_BYTES], sealed[1 + _NONCE_BYTES :]
    if version != _VERSION or len(nonce) < _NONCE_BYTES:
        return None
    for key in keys:
        try:
            session_id, target, *headers = _cipher(key).decrypt(nonce, rest, version).split(b"\n")
        except InvalidTag:
            continue
        pairs = [(name, value) for name, _, value in (line.partition(b":") for line in headers)]
        return Ticket(session_id=session_id.decode("latin-1"), target=target, headers=pairs)
    return None


def require_cipher() -> None:
    """Raise `ConfigError`, which names the extra, if the package that encrypts is missing."""
    try:
        import cryptography.hazmat.primitives.ciphers.aead  # noqa: F401  # a package that is broken is missing, too
    except ModuleNotFoundError as error:
        raise ConfigError(_NEEDS_EXTRA.format(error)) from error


def _cipher(key: bytes) -> "AESGCM":
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    return AESGCM(blake2b(key, digest_size=_KEY_BYTES, person=_PURPOSE).digest())
