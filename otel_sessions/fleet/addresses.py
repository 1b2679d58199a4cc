"""The names and the addresses of processes, as people write them. Pure.

A name is the hint in an id, so any cookie and any header can carry it, and the separator of a hint is not in it.
"""

import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from otel_sessions._core.exceptions import ConfigError
from otel_sessions._engine.owners import Peer
from otel_sessions._http.addresses import is_host

_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,32}", re.ASCII)
_UNIX: Final = "unix:"
_SCHEMES: Final = {"http": 80, "https": 443}
_VISIBLE: Final = re.compile(r"[!-~]+", re.ASCII)


def random_name() -> str:
    """Return the name of a process that was given no name: 72 random bits as 12 characters."""
    return secrets.token_urlsafe(9)


def is_name(name: object) -> bool:
    """Return whether a process can have this name: 1 to 32 letters, digits, hyphens and underscores."""
    return isinstance(name, str) and _NAME.fullmatch(name) is not None


def check_name(name: str) -> str:
    """Return the name. Raises `ConfigError` if no process can have this name."""
    if not is_name(name):
        raise ConfigError(f"the name of a process takes 1 to 32 letters, digits, hyphens and underscores, not {name!r}")
    return name


@dataclass(frozen=True, kw_only=True, slots=True)
class Address:
    """Where a process takes forwarded requests: at a host and a port, or at the Unix socket `socket`."""

    text: str
    host: str = "localhost"
    port: int = 0
    is_tls: bool = False
    socket: str | None = None
    path: bytes = b"/"
    """The path of the questions for the name of the process. Forwarded requests keep their own path."""


def read_address(text: str) -> Address:
    """Return an address. Raises `ConfigError` if the text is not an address."""
    wrong = ConfigError(
        f"the address of a process takes a URL as http://10.0.0.7:9001, or unix:/run/w1.sock, not {text!r}"
    )
    if not _VISIBLE.fullmatch(text):
        raise wrong
    if text.startswith(_UNIX):
        if len(text) == len(_UNIX):
            raise wrong
        return Address(text=text, socket=text[len(_UNIX) :])
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise wrong from None
    if parts.scheme not in _SCHEMES or not is_host(host) or port == 0 or any(mark in text for mark in "@?#"):
        raise wrong
    return Address(
        text=text,
        host=host,
        port=port or _SCHEMES[parts.scheme],
        is_tls=parts.scheme == "https",
        path=(parts.path or "/").encode("ascii"),
    )


def peers_by_name(peers: Mapping[str, str]) -> dict[str, Peer]:
    """Return a list of processes, from their addresses by name. Raises `ConfigError` if a name or address is wrong."""
    for address in peers.values():
        read_address(address)
    return {check_name(name): Peer(name=name, address=address) for name, address in peers.items()}


def read_peers(lines: Iterable[str]) -> dict[str, Peer]:
    """Return a list of processes, from lines as `w1=http://10.0.0.7:9001`. Blank lines and `#` comments do not count.

    Raises `ConfigError` if a line is wrong, or if two lines have the same name.
    """
    found: dict[str, str] = {}
    for line in map(str.strip, lines):
        if not line or line.startswith("#"):
            continue
        name, mark, address = line.partition("=")
        if not mark:
            raise ConfigError(f"a list of peers takes lines as w1=http://10.0.0.7:9001, not {line!r}")
        if name.strip() in found:
            raise ConfigError(f"a list of peers names each process once, but {name.strip()!r} is there twice")
        found[name.strip()] = address.strip()
    return peers_by_name(found)
