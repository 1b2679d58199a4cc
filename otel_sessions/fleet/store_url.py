"""The URL of a store: its servers, and what a client says to them.

What always holds: no text of this module shows a user name or a password, not even the text of an error.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote

from otel_sessions._core.exceptions import ConfigError
from otel_sessions._http.addresses import is_host

_SCHEMES: Final = {"valkey": False, "redis": False, "valkeys": True, "rediss": True}
"""Whether a scheme means TLS."""
_NUMBER: Final = re.compile(r"[0-9]{1,9}", re.ASCII)
_PORTS: Final = range(1, 65536)
_STORE_PORT: Final = 6379
_SENTINEL_PORT: Final = 26379


@dataclass(frozen=True, kw_only=True)
class Server:
    """A server's host and port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, kw_only=True)
class StoreUrl:
    """A URL in parts. `path` is a Unix socket, or None; then there is at least one server."""

    servers: tuple[Server, ...] = ()
    path: str | None = None
    tls: bool = False
    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    database: int = 0

    def __str__(self) -> str:
        return self.path or ", ".join(str(server) for server in self.servers)


def parse_store_url(url: str, *, sentinel: bool = False) -> StoreUrl:
    """Return the parts of a URL: `valkeys://user:password@host:port,host:port/database` or `unix:///path`.

    With `sentinel`, the servers are Sentinels, whose port is 26379 by default. Raises `ConfigError` if it is no such
    URL. The error shows no part of the URL but its scheme, since the rest may hold a password.
    """
    scheme, apart, rest = url.partition("://")
    if not apart:
        raise _wrong("it has no scheme")
    if "?" in rest or "#" in rest:
        raise _wrong("it has a query or a fragment; percent-encode `?` and `#` in a password")
    credentials, _, place = rest.rpartition("@")
    username, colon, password = credentials.partition(":")
    user = unquote(username) or None
    secret = unquote(password) if colon else None
    if scheme == "unix":
        if not place.startswith("/"):
            raise _wrong("a Unix socket is an absolute path: unix:///run/valkey.sock")
        return StoreUrl(path=unquote(place), username=user, password=secret)
    if scheme not in _SCHEMES:
        raise _wrong(f"its scheme is {scheme!r}" if scheme.isalnum() else "its scheme is unknown")
    hosts, _, database = place.partition("/")
    return StoreUrl(
        servers=tuple(_server(text, _SENTINEL_PORT if sentinel else _STORE_PORT) for text in hosts.split(",")),
        tls=_SCHEMES[scheme],
        username=user,
        password=secret,
        database=_database(database),
    )


def require_topology(url: StoreUrl, *, cluster: bool, sentinel: str | None) -> None:
    """Raise `ConfigError` if a URL does not fit to the kind of store that is asked for."""
    if cluster and sentinel is not None:
        raise ConfigError("a fleet's store is a Cluster or has Sentinels, not both: give cluster or sentinel")
    if sentinel is not None and not sentinel:
        raise ConfigError("sentinel is the name under which the Sentinels know the primary; it is empty")
    several = cluster or sentinel is not None
    if several and url.path is not None:
        raise _wrong("a Cluster and Sentinels have hosts, no Unix socket")
    if not several and len(url.servers) > 1:
        raise _wrong("only a Cluster and Sentinels have several hosts: give cluster or sentinel")
    if cluster and url.database:
        raise _wrong("a Cluster has database 0 only")


def _server(text: str, default: int) -> Server:
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        host, port = text, str(default)
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not is_host(host):
        raise _wrong("a host is missing or wrong")
    if not (_NUMBER.fullmatch(port) and int(port) in _PORTS):
        raise _wrong("a port is a number from 1 to 65535")
    return Server(host=host, port=int(port))


def _database(text: str) -> int:
    if text and not _NUMBER.fullmatch(text):
        raise _wrong("the path is the number of a database")
    return int(text or 0)


def _wrong(why: str) -> ConfigError:
    forms: Sequence[str] = ("valkey://", "valkeys://", "redis://", "rediss://", "unix:///")
    return ConfigError(f"the URL of the fleet's store is wrong: {why}; it begins with one of {', '.join(forms)}")
