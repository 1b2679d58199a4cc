"""The kinds of values that only the proxy's options take: how the text of each is read."""

import re
from ipaddress import ip_network
from typing import Final

from otel_sessions._core.exceptions import ConfigError
from otel_sessions._core.options import Expected, number, text
from otel_sessions._http.addresses import Network, read_network
from otel_sessions.fleet.addresses import read_address, read_peers
from otel_sessions.fleet.own_address import folder_of, is_auto
from otel_sessions.fleet.store_url import parse_store_url
from otel_sessions.matchers import CookieMatcher, HeaderMatcher, SessionMatcher

from .headers import UNIX_PEER, UnixPeer
from .peer import EndpointMatcher

_TOKEN: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", re.ASCII)
_PLAIN: Final = re.compile(r"[A-Za-z0-9-]+", re.ASCII)
_A_NAME: Final = "the name of a header or a cookie"
_A_PLAIN_NAME: Final = "the name of a header, made of letters, digits and hyphens"
_LEAST_HEAD: Final = 1024
_MCP: Final = EndpointMatcher()


def _token(name: str) -> str:
    """Return a name that a header or a cookie can have (RFC 9110, 5.6.2)."""
    if not _TOKEN.fullmatch(name):
        raise Expected(_A_NAME)
    return name


def _owner(name: str) -> str:
    """Return a name that no other spelling stands for. An upstream may read other marks in a name as hyphens."""
    if not _PLAIN.fullmatch(name):
        raise Expected(_A_PLAIN_NAME)
    return name


def _matcher(said: str) -> SessionMatcher:
    kind, _, name = said.partition(":")
    if kind == "header" and name:
        return HeaderMatcher(_token(name))
    if kind == "cookie":
        return CookieMatcher(_token(name)) if name else CookieMatcher()
    if said == "mcp":
        return _MCP
    raise ValueError


def _sender(said: str) -> Network | UnixPeer:
    return UNIX_PEER if said == UNIX_PEER else read_network(said)


def _peer(said: str) -> str:
    try:
        read_peers([said])
    except ConfigError as error:
        raise Expected(f"a process and its address: {error}") from None
    return said


def _dns(said: str) -> str:
    if read_address(said).socket is not None:  # a ConfigError is a ValueError
        raise ValueError
    return said


def check_address(said: str) -> str:
    """Return where peers reach a process: an address, or `auto`. Raises `ConfigError` if it is neither."""
    if is_auto(said):
        folder_of(said)
    else:
        read_address(said)
    return said


def _network(said: str) -> str:
    ip_network(said)
    return said


def _store(said: str) -> str:
    """Return the URL of a store. The error shows no part of the URL, which may hold a password."""
    try:
        parse_store_url(said)
    except ConfigError as error:
        raise Expected(f"the URL of a store: {error}") from None
    return said


PEER: Final = text("a process as w1=http://10.0.0.7:9001", _peer)
SENDER: Final = text("an address or a network, as in 10.0.0.0/8, or unix", _sender)
BYTES: Final = number("a whole number of bytes, or 0 for no limit", lambda value: value >= 0, int)
HEAD: Final = number(f"{_LEAST_HEAD} bytes or more", lambda value: value >= _LEAST_HEAD, int)
OWNER: Final = text(_A_PLAIN_NAME, _owner)
MATCHER_KIND: Final = text("mcp, cookie, cookie:NAME or header:NAME", _matcher)
DNS: Final = text("a URL as http://gateway:9001", _dns)
PEER_ADDRESS: Final = text("an address as http://10.0.0.7:9001 or unix:PATH, or auto", check_address, secret=True)
NETWORK: Final = text("a network as 10.0.0.0/8", _network)
STORE: Final = text("the URL of a store as valkeys://store:6379", _store, secret=True)
