"""The headers that the proxy passes on, and the headers that it adds. Pure."""

from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv6Address
from typing import Final, Literal, NamedTuple

from otel_sessions._http.addresses import IP, Network, client_behind, client_name, is_in, read_address
from otel_sessions.asgi._client import forwarded_for, sender_of
from otel_sessions.matchers import Headers, Scope, header, pairs_of, spelt

from .shape import KEPT, Shape, shape_in, shape_of

_FORWARDED: Final = (b"forwarded", b"x-forwarded-", b"x-real-ip")
"""The starts of the names of headers in which a proxy describes its client."""
_VIA: Final = {version: f"{version} otel-sessions".encode() for version in ("1.0", "1.1")}
"""What a gateway says of itself in each request (RFC 9110, section 7.6.3), by the version that it has received."""
UnixPeer = Literal["unix"]
UNIX_PEER: Final[UnixPeer] = "unix"
"""Stands among the trusted proxies for whoever connects over a Unix socket."""
_UNKNOWN: Final = "unknown"
"""Stands for a sender without an address (RFC 7239, section 6.2)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trust:
    """The trusted proxies in front, by their networks; with `unix`, also whoever connects over a Unix socket.

    `words` are the headers, in lower case, that only these proxies may send.
    """

    networks: tuple[Network, ...] = ()
    words: frozenset[bytes] = frozenset()
    unix: bool = False

    @property
    def is_empty(self) -> bool:
        """Whether no proxy is trusted."""
        return not (self.networks or self.unix)

    def sent(self, scope: Scope) -> bool:
        """Return whether a trusted proxy has opened the connection."""
        return self.trusts(_sender(scope), scope)

    def trusts(self, sender: IP | None, scope: Scope) -> bool:
        """Return whether the sender of a request, at this address, is a trusted proxy."""
        if sender is None:
            return self.unix and is_over_unix(scope)
        return bool(self.networks) and is_in(sender, self.networks)

    def client(self, scope: Scope) -> str | None:
        """Return the client's name by its address, as `asgi.client_address` does, or None without an address.

        A trusted proxy on a Unix socket has no address: the last entry of its X-Forwarded-For stands for the sender.
        """
        sender, forwarded = sender_of(scope), forwarded_for(scope)
        if sender is None and forwarded and self.unix and is_over_unix(scope):
            sender = forwarded.pop()
        address = client_behind(sender, forwarded, self.networks)
        return None if address is None else client_name(address)


def is_over_unix(scope: Scope) -> bool:
    """Return whether a request has come over a Unix socket: then its `server` has no port (ASGI, HTTP scope)."""
    server = scope.get("server")
    return isinstance(server, (list, tuple)) and len(server) > 1 and server[1] is None


def end_to_end(headers: Headers) -> list[tuple[bytes, bytes]]:
    """Return the headers without the headers that are about one connection only. Their names are in lower case."""
    return [headers[line] for line in shape_of(headers).passing]


def towards_upstream(scope: Scope, trust: Trust, host: bytes | None) -> list[tuple[bytes, bytes]]:
    """Return a request's headers as the upstream gets them. If `host` is given, it replaces the client's Host.

    `Forwarded`, `X-Forwarded-*`, `X-Real-IP` and the header with the owner are kept only from a trusted proxy. From any
    other sender they are dropped. This proxy adds the sender's address, and the Host and scheme if they are missing. A
    sender without an address adds nothing to the addresses that a trusted proxy has named.
    """
    address = _sender(scope)
    trusted = trust.trusts(address, scope)
    pairs, shape = pairs_of(scope), shape_in(scope)
    theirs = shape.first(pairs, b"host") or b""
    said = _said(shape, trust.words, trusted)
    chain = _named(address)
    if trusted:
        chain = ", ".join([*forwarded_for(scope), *([] if address is None else [chain])]) or _UNKNOWN
    headers = [(b"host", theirs if host is None else host), *[pairs[line] for line in said.lines]]
    headers.append((b"x-forwarded-for", chain.encode("latin-1")))
    if theirs and b"x-forwarded-host" not in said.known:
        headers.append((b"x-forwarded-host", theirs))
    if b"x-forwarded-proto" not in said.known:
        headers.append((b"x-forwarded-proto", _scheme(scope)))
    if b"forwarded" in said.known:
        headers.append((b"forwarded", _forwarded(address)))
    headers.append((b"via", _VIA.get(str(scope.get("http_version")), _VIA["1.1"])))
    return headers


class _Said(NamedTuple):
    """The lines of a head that pass. `known` are their names if a trusted proxy has sent them."""

    lines: tuple[int, ...]
    known: frozenset[bytes]


@lru_cache(KEPT)
def _said(shape: Shape, words: frozenset[bytes], trusted: bool) -> _Said:
    """Return what passes of a client's headers. This proxy says the host and the client's way so far anew."""
    lines = tuple(line for line in shape.passing if _passes(shape.names[line], words, trusted))
    return _Said(lines, frozenset(shape.names[line] for line in lines) if trusted else frozenset())


def _passes(name: bytes, words: frozenset[bytes], trusted: bool) -> bool:
    bare = spelt(name)
    is_word = bare.startswith(_FORWARDED) or bare in words
    return name not in (b"host", b"x-forwarded-for") and (not is_word or (trusted and bare == name))


@lru_cache(KEPT)
def _named(address: IP | None) -> str:
    return _UNKNOWN if address is None else str(address)


def _forwarded(address: IP | None) -> bytes:
    """Return this proxy's element of a `Forwarded` list of a trusted proxy (RFC 7239, sections 4 and 6)."""
    if isinstance(address, IPv6Address):
        return f'for="[{address}]"'.encode()
    return f"for={_named(address)}".encode()


def _sender(scope: Scope) -> IP | None:
    """Return the address of the host that opened the connection, or None."""
    host = sender_of(scope)
    return None if host is None else read_address(host)


def scheme_of(scope: Scope, trust: Trust) -> str:
    """Return the client's scheme: the first that a trusted proxy names, else the scheme of this connection."""
    said = header(scope, b"x-forwarded-proto") if trust.sent(scope) else None
    named = (said or "").partition(",")[0].strip().lower()
    if named not in ("http", "https"):
        return str(scope.get("scheme", "http"))
    return named.replace("http", "ws") if scope["type"] == "websocket" else named


def _scheme(scope: Scope) -> bytes:
    return str(scope.get("scheme", "http")).replace("ws", "http").encode()
