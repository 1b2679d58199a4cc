"""Keeps an answer with a session id out of every shared cache (RFC 9111).

A cache that two clients share must never keep such an answer: the second client would get the first client's session.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Final

Headers = Iterable[tuple[bytes, bytes]]

_FOR_SHARED_CACHES: Final = frozenset({b"surrogate-control", b"edge-control", b"x-accel-expires"})
"""Headers that shared caches obey before `Cache-Control`, besides every `*CDN-Cache-Control` (RFC 9213)."""
_DIRECTIVE: Final = re.compile(rb'\s*([^\s=,"]+)\s*(?:=\s*("(?:[^"\\]|\\.)*"?|[^\s,]*))?[^,]*')
_WELL_FORMED: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+(=([!#$%&'*+\-.^_`|~0-9A-Za-z]+|\".*\"))?", re.DOTALL)
_SHARED: Final = frozenset({b"public", b"s-maxage", b"private"})
"""Directives that let a shared cache keep an answer. `private="field"` excludes only this field."""


def unshared(headers: Headers, varies_on: bytes) -> list[tuple[bytes, bytes]]:
    """Return an answer's headers, changed so that no shared cache keeps the answer.

    If the app sent no `Cache-Control`, or a malformed one, the answer gets `no-store`. Otherwise it gets `private` and
    keeps the app's other directives. `Vary` gets the request header `varies_on`. Headers that only shared caches read
    are removed.
    """
    kept: list[tuple[bytes, bytes]] = []
    said: list[bytes] = []
    varies = False
    for name, value in headers:
        lower = name.lower()
        if lower == b"cache-control":
            said += _directives(value)
        elif lower not in _FOR_SHARED_CACHES and not lower.endswith(b"cdn-cache-control"):
            varies = varies or (lower == b"vary" and _covers(value, varies_on))
            kept.append((name, value))
    if not varies:
        kept.append((b"vary", varies_on))
    return [*kept, (b"cache-control", _private(said))]


def _private(said: list[bytes]) -> bytes:
    if not said or not all(map(_WELL_FORMED.fullmatch, said)):
        return b"no-store"  # caches differ in how they read a malformed header
    rest = [directive for directive in said if directive.partition(b"=")[0].lower() not in _SHARED]
    return b", ".join([*rest, b"private"])


def _directives(value: bytes) -> Iterator[bytes]:
    """Return the directives of a `Cache-Control` (RFC 9111, section 5.2). A comma in quotes does not separate."""
    for found in _DIRECTIVE.finditer(value):
        name, argument = found.groups()
        yield name if argument is None else name + b"=" + argument


def _covers(vary: bytes, name: bytes) -> bool:
    return any(field.strip().lower() in (b"*", name) for field in vary.split(b","))
