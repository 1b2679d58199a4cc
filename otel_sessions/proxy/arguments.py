"""What the programs' flags take: each function makes a value of a text, or says what is taken instead.

They raise `argparse.ArgumentTypeError`; argparse puts the flag before it.
"""

import argparse
import re
from collections.abc import Callable
from math import inf, nan
from typing import Final
from urllib.parse import urlsplit

from otel_sessions._http.addresses import Network, read_network
from otel_sessions.matchers import CookieMatcher, HeaderMatcher, SessionMatcher

from .peer import EndpointMatcher

_TOKEN: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", re.ASCII)
_LEAST_HEAD: Final = 1024
_LAST_PORT: Final = 65535
MATCHERS: Final = "mcp, cookie, cookie:NAME or header:NAME"
MCP: Final = EndpointMatcher()


def matcher(text: str) -> SessionMatcher:
    kind, _, name = text.partition(":")
    if kind == "header" and name:
        return HeaderMatcher(token(name))
    if kind == "cookie":
        return CookieMatcher(token(name)) if name else CookieMatcher()
    if text == "mcp":
        return MCP
    raise argparse.ArgumentTypeError(f"takes {MATCHERS}, not {text}")


def token(text: str) -> str:
    """Return a name that a header or a cookie can have (RFC 9110, 5.6.2)."""
    if not _TOKEN.fullmatch(text):
        raise argparse.ArgumentTypeError(f"takes the name of a header or a cookie, not {text!r}")
    return text


def size(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"takes a whole number of bytes, not {text}")
    return int(text)


def head(text: str) -> int:
    if size(text) < _LEAST_HEAD:
        raise argparse.ArgumentTypeError(f"takes {_LEAST_HEAD} bytes or more, not {text}")
    return int(text)


def address(text: str) -> tuple[str, int]:
    host, _, number = text.rpartition(":")
    name = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    is_clear = name is not host or ":" not in host  # in ::1:8080 the port may be a part of the address
    if not name or not is_clear or not number.isdecimal() or int(number) > _LAST_PORT:
        raise argparse.ArgumentTypeError(f"takes HOST:PORT, as in 127.0.0.1:8080 or [::1]:8080, not {text}")
    return name, int(number)


def origin(text: str) -> str:
    """Return a URL that paths can be added to. A wrong one is not repeated, because it may have credentials in it."""
    if not text.startswith(("http://", "https://")):
        raise argparse.ArgumentTypeError("takes a URL that starts with http:// or https://")
    try:
        parts = urlsplit(text)
        complete = bool(parts.hostname) and parts.port != 0 and parts.username is None
    except ValueError:
        complete = False
    if not complete or "?" in text or "#" in text:
        raise argparse.ArgumentTypeError("takes a URL of scheme, host, port and path, and nothing else")
    return text


def whole(text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"takes a whole number, not {text}") from error


def at_least(least: int) -> Callable[[str], int]:
    """Return a function that takes whole numbers from `least` on."""

    def take(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"takes a whole number of at least {least}, not {text}")
        return int(text)

    return take


count = at_least(1)


def port(text: str) -> int:
    if not text.isdecimal() or int(text) > _LAST_PORT:
        raise argparse.ArgumentTypeError(f"takes a port from 0 to {_LAST_PORT}, not {text}")
    return int(text)


def positive(text: str) -> float:
    number = _number(text)
    if not 0 < number < inf:
        raise argparse.ArgumentTypeError(f"takes a positive number, not {text}")
    return number


def seconds(text: str) -> float:
    number = _number(text)
    if not 0 <= number < inf:
        raise argparse.ArgumentTypeError(f"takes zero or a positive number, not {text}")
    return number


def network(text: str) -> Network:
    try:
        return read_network(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"takes an address or a network, as in 10.0.0.0/8, not {text}") from error


def _number(text: str) -> float:
    """Return a number, or nan for what is none."""
    try:
        return float(text)
    except ValueError:
        return nan
