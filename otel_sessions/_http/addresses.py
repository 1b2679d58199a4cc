"""IP addresses as servers, proxies and headers write them, and the client of a request behind proxies.

Settings also name hosts: `is_host` says whether a server can be there.

All code that reads an address uses this parser. If a text is not an address, the result is None; nothing is raised,
because clients choose the text of a header. No name is looked up.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import Final

IP = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_V4: Final = re.compile(r"([0-9.]+)(?::([0-9]{1,5}))?", re.ASCII)
_V6: Final = re.compile(r"([0-9A-Fa-f:.]+)(%[^\s\[\]%/]+)?")
_V6_BEFORE_PORT: Final = re.compile(r"([0-9A-Fa-f:]+:[0-9]+(?:\.[0-9]+){3}(?:%[^\s\[\]%/:]+)?):([0-9]{1,5})", re.ASCII)
"""An IPv6 address that ends in an IPv4 address (RFC 4291, section 2.2.3). Only a port can follow this address."""
_BRACKETED: Final = re.compile(r"\[([^\[\]]*)\](?::([0-9]{1,5}))?", re.ASCII)
_APART: Final = re.compile(r"[\s,;\"]+")
"""Separators of a list's entries, and the characters around values of `Forwarded` (RFC 7239, section 4)."""
_PREFIX: Final = re.compile(r"[0-9]{1,3}", re.ASCII)
_LONGEST_KEPT: Final = 64
"""Characters of a text whose address is kept: longer texts would fill memory."""
_LAST_PORT: Final = 65535
_NAME: Final = re.compile(r"(?:[A-Za-z0-9_-]{1,63}\.)*[A-Za-z0-9_-]{1,63}\.?", re.ASCII)
"""The name of a host (RFC 1035, section 2.3.4), with the underscores of containers' names."""
_LONGEST_NAME: Final = 254
"""Characters of a name, with the dot at its end."""
_MAPPED_BITS: Final = 96
"""The number of leading bits that all mapped IPv4 addresses share (RFC 4291, section 2.5.5.2)."""
_CLIENT_BITS: Final = 64
"""The number of leading bits that name a client. It chooses the other 64 bits (RFC 4291, section 2.5.1; RFC 8981)."""


def read_address(text: str) -> IP | None:
    """Return the address that a text names, or None.

    White space, a port, brackets (RFC 3986, section 3.2.2) and a zone (RFC 4007, section 11) are removed. An IPv4
    address that is mapped into IPv6 becomes the IPv4 address; written with dots, it may have a port without brackets,
    since the port is unambiguous. A text with a port above 65535 is not an address.
    """
    return _read_again(text) if len(text) <= _LONGEST_KEPT else _read(text)


def _read(text: str) -> IP | None:
    text = text.strip()
    bracketed = _BRACKETED.fullmatch(text)
    if bracketed:
        return _v6(bracketed[1]) if _is_port(bracketed[2]) else None
    plain = _V4.fullmatch(text)
    if plain:
        return _v4(plain[1]) if _is_port(plain[2]) else None
    before_port = _V6_BEFORE_PORT.fullmatch(text)
    if before_port:
        return _v6(before_port[1]) if _is_port(before_port[2]) else None
    return _v6(text)


_read_again = lru_cache(4096)(_read)


def read_network(text: str) -> Network:
    """Return the network that a text names. An address is a network of one address.

    A network of mapped IPv4 addresses becomes an IPv4 network, because `read_address` returns IPv4 addresses for its
    members. Raises `ValueError` if the text is not a network, has a zone, or has bits set behind the prefix.
    """
    if "%" in text:
        raise ValueError(f"{text!r} has a zone, which a network cannot have")
    network = ip_network(text.strip())
    if network.version == 6 and network.prefixlen >= _MAPPED_BITS:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return IPv4Network((mapped, network.prefixlen - _MAPPED_BITS))
    return network


def is_address(text: str) -> bool:
    """Return whether a text is an IP address, with or without a port, brackets, a zone or a prefix length.

    A name that `client_name` returns counts, too.
    """
    address, slash, prefix = text.strip().partition("/")
    if not slash:
        return read_address(address) is not None
    bits = 128 if ":" in address else 32
    found = _v6(address) if ":" in address else _v4(address)
    return found is not None and bool(_PREFIX.fullmatch(prefix)) and int(prefix) <= bits


def is_host(text: str) -> bool:
    """Return whether a server can be at this host: an IPv6 address without brackets, or a name that the DNS can have.

    A name beyond ASCII is looked up as RFC 3490 (IDNA) writes it. A name that is only digits and dots counts.
    """
    if ":" in text:
        return _v6(text) is not None
    if len(text) > _LONGEST_NAME:
        return False
    try:
        name = text.encode("idna").decode("ascii")
    except UnicodeError:
        return False
    return len(name) <= _LONGEST_NAME and _NAME.fullmatch(name) is not None


def names_address(text: str) -> bool:
    """Return whether a text names a host instead of a user: it is an address, or contains an address or a `for=`.

    Proxies write such texts in `X-Forwarded-For`, a list of addresses, and in `Forwarded`, in which each `for=` names a
    host (RFC 7239, section 5.2).
    """
    pieces = _APART.split(text)
    return any(is_address(piece) or piece.lower().startswith("for=") for piece in pieces)


def is_in(address: IP | None, networks: Sequence[Network]) -> bool:
    """Return whether an address is in one of the networks."""
    return address is not None and any(address in network for network in networks)


def client_name(address: IP) -> str:
    """Return the name of the client at an address: the address itself, or the /64 network of an IPv6 address."""
    if isinstance(address, IPv4Address):
        return str(address)
    return str(IPv6Network((int(address) >> _CLIENT_BITS << _CLIENT_BITS, _CLIENT_BITS)))


def client_behind(sender: str | None, forwarded: Sequence[str], trusted: Sequence[Network]) -> IP | None:
    """Return the address of the client behind `sender`, the host that opened the connection, or None.

    `forwarded` has the entries of `X-Forwarded-For`, the client's entry first. It is read from its end as long as the
    sender of an entry is trusted: the last address that is not trusted is the client's. If all addresses are trusted,
    the first address is the client's. If a trusted proxy names no address (`unknown`, garbage), this proxy counts as
    the client. The result is None if `sender` has no address.
    """
    client = read_address(sender) if sender is not None else None
    for text in reversed(forwarded):
        if not is_in(client, trusted):
            break
        behind = read_address(text)
        if behind is None:
            break
        client = behind
    return client


def _v4(text: str) -> IPv4Address | None:
    try:
        return IPv4Address(text)
    except ValueError:
        return None


def _v6(text: str) -> IP | None:
    """Return an IPv6 address without its zone, or the IPv4 address that is mapped into it."""
    parts = _V6.fullmatch(text)
    try:
        address = IPv6Address(parts[1]) if parts else None
    except ValueError:
        return None
    return address if address is None else address.ipv4_mapped or address


def _is_port(text: str | None) -> bool:
    return text is None or int(text) <= _LAST_PORT
