"""Which headers pass, and what the proxy says of itself in them. Pure."""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from otel_sessions.matchers import Headers, Scope, header, headers_of, pairs_of

HOP_BY_HOP: Final = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
"""About one connection only (RFC 9110, 7.6.1), besides what a `Connection` header names."""
_FORWARDED: Final = frozenset({b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto"})

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, kw_only=True, slots=True)
class Trust:
    """The proxies in front whose word about a client is taken; in `words`, headers of theirs besides the usual ones."""

    networks: Sequence[Network] = ()
    words: frozenset[bytes] = frozenset()

    def includes(self, address: str) -> bool:
        try:
            found = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(found in network for network in self.networks)

    def client(self, scope: Scope) -> str | None:
        """Return the address of the client: the last one on the way here that is no trusted proxy."""
        chain = [*_chain(scope), peer(scope)]
        for address in reversed(chain):
            if address is not None and not self.includes(address):
                return address
        return chain[0]


def end_to_end(headers: Headers) -> list[tuple[bytes, bytes]]:
    """Return the headers that are not about one connection only."""
    named = {
        token.strip().lower() for name, value in headers if name.lower() == b"connection" for token in value.split(b",")
    }
    dropped = HOP_BY_HOP | named
    return [(name, value) for name, value in headers if name.lower() not in dropped]


def towards_upstream(scope: Scope, trust: Trust, host: bytes | None) -> list[tuple[bytes, bytes]]:
    """Return a request's headers as the upstream gets them, with `host` in place of the client's if it is given.

    What a client says of itself in `Forwarded`, `X-Forwarded-*` and the header with the owner is dropped, and kept only
    from a trusted proxy.
    """
    address = peer(scope) or "unknown"
    trusted = trust.includes(address)
    headers = [
        (name, value)
        for name, value in end_to_end(list(pairs_of(scope)))
        if name != b"host" and (trusted or name not in _FORWARDED | trust.words)
    ]
    theirs = header(scope, b"host") or ""
    known = {name for name, _ in headers}
    chain = ", ".join([*(_chain(scope) if trusted else []), address])
    said = [
        (b"x-forwarded-for", chain.encode("latin-1")),
        (b"x-forwarded-host", theirs.encode("latin-1")),
        (b"x-forwarded-proto", _scheme(scope)),
    ]
    headers = [(name, value) for name, value in headers if name != b"x-forwarded-for"]
    headers += [(name, value) for name, value in said if name == b"x-forwarded-for" or name not in known]
    return [(b"host", theirs.encode("latin-1") if host is None else host), *headers]


def peer(scope: Scope) -> str | None:
    """Return the address of whoever opened the connection."""
    client = scope.get("client")
    return str(client[0]) if isinstance(client, (list, tuple)) and client else None


def _chain(scope: Scope) -> list[str]:
    return [part.strip() for line in headers_of(scope, b"x-forwarded-for") for part in line.split(",") if part.strip()]


def _scheme(scope: Scope) -> bytes:
    return {"ws": b"http", "wss": b"https"}.get(str(scope.get("scheme")), str(scope.get("scheme", "http")).encode())
