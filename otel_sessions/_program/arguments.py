"""The values that the programs' flags take, besides the kinds in `options`.

A function that reads a text raises `argparse.ArgumentTypeError` if the text is wrong. The error says what is expected;
argparse adds the flag.
"""

import argparse
from collections.abc import Callable
from math import inf, nan
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import urlsplit

from otel_sessions._core.options import Expected, Kind, NotTaken, text
from otel_sessions._http.addresses import is_host

Address = tuple[str, int] | Path
"""Where a server listens: a host and a port of TCP, or the path of a Unix socket."""

UNIX: Final = "unix:"
"""What stands before the path of a Unix socket."""
_LAST_PORT: Final = 65535
_MOST_DIGITS: Final = 4300
"""Python's `int` takes no text with more digits."""

V = TypeVar("V")


def argument(kind: Kind[V]) -> Callable[[str], V | None]:
    """Return the function with which argparse reads the text of a flag of this kind."""

    def read(text: str) -> V | None:
        try:
            return kind.take_text(text)
        except NotTaken as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return read


def _address(text: str) -> tuple[str, int]:
    host, _, number = text.rpartition(":")
    name = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    is_clear = name is not host or ":" not in host  # in ::1:8080 the port may be part of the address
    if not is_clear or not is_host(name) or not _is_decimal(number) or int(number) > _LAST_PORT:
        raise ValueError
    return name, int(number)


def _listener(text: str) -> Address:
    return unix_path(text) if text.startswith(UNIX) else _address(text)


def unix_path(text: str) -> Path:
    """Return the path in `unix:PATH`. Raises `ValueError` if there is no path."""
    path = text.removeprefix(UNIX)
    if not path.strip() or "\0" in path:
        raise Expected(f"a path after {UNIX}")
    return Path(path)


def _origin(text: str) -> str:
    if not text.startswith(("http://", "https://")):
        raise Expected("a URL that starts with http:// or https://")
    parts = urlsplit(text)
    if not is_host(parts.hostname or "") or parts.port == 0 or any(mark in text for mark in "@?#"):
        raise ValueError
    return text


def _server(text: str) -> str:
    if text.startswith(UNIX):
        unix_path(text)
        return text
    try:
        return _origin(text)
    except Expected:
        raise Expected(f"a URL that starts with http:// or https://, or {UNIX}PATH") from None


ADDRESS: Final = text("HOST:PORT, as in 127.0.0.1:8080 or [::1]:8080", _address)
ADDRESS_OR_OFF: Final = text("HOST:PORT, as in 127.0.0.1:8080 or [::1]:8080", _address, may_be_off=True)


def _plain_address(value: str) -> tuple[str, int]:
    if value.startswith((UNIX, "http://", "https://")):
        raise Expected(
            "HOST:PORT, as in 127.0.0.1:8082: there is no Unix socket for it, and TLS belongs in front of it"
        )
    return _address(value)


PLAIN_ADDRESS_OR_OFF: Final = text("HOST:PORT, as in 127.0.0.1:8080 or [::1]:8080", _plain_address, may_be_off=True)
"""For a listener that has neither TLS nor a Unix socket, where people may look for both."""
LISTENER: Final = text("HOST:PORT or unix:PATH, as in 127.0.0.1:8080, [::1]:8080 or unix:/run/proxy.sock", _listener)
ORIGIN: Final = text("a URL with only a scheme, a host, a port and a path", _origin, secret=True)
"""A URL to which paths can be added. The error does not repeat a wrong URL, since it may contain credentials.

An `@` is refused anywhere: in `http://ada:123/x@host` the host is `ada`, and the rest is part of a password.
"""
SERVER: Final = text("a URL with only a scheme, a host, a port and a path, or unix:PATH", _server, secret=True)
"""An `ORIGIN`, or the Unix socket of a server."""
FILE: Final = text("the path of a file or folder", str)


def whole(text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"takes a whole number, not {text}") from error


def at_least(least: int) -> Callable[[str], int]:
    """Return a function that reads a whole number of at least `least`."""

    def take(text: str) -> int:
        if not _is_decimal(text) or int(text) < least:
            raise argparse.ArgumentTypeError(f"takes a whole number of at least {least}, not {text}")
        return int(text)

    return take


count = at_least(1)


def port(text: str) -> int:
    if not _is_decimal(text) or int(text) > _LAST_PORT:
        raise argparse.ArgumentTypeError(f"takes a port from 0 to {_LAST_PORT}, not {text}")
    return int(text)


def positive(text: str) -> float:
    number = _number(text)
    if not 0 < number < inf:
        raise argparse.ArgumentTypeError(f"takes a positive number, not {text}")
    return number


def _is_decimal(text: str) -> bool:
    """Return whether a text is a whole number that is short enough for `int`."""
    return text.isdecimal() and len(text) <= _MOST_DIGITS


def _number(text: str) -> float:
    """Return a number, or nan if the text is not a number."""
    try:
        return float(text)
    except ValueError:
        return nan
