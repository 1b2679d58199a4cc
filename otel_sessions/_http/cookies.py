"""The `Cookie` header, by bytes (RFC 6265, section 5.4), for one cookie name.

`values` is strict: it finds only pairs with exactly this name. `only` is generous: it removes every pair that some
server might read under this name, whatever surrounds or encodes the name. So no value passes unseen.
"""

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Final
from urllib.parse import unquote_to_bytes

from .headers import Headers

_SPACE: Final = b" \t"
_BORDERS: Final = re.compile(rb"[,\s]+")
_TOKEN: Final = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_NO_TOKEN: Final = bytes(set(range(256)) - set(_TOKEN))
"""The bytes outside tokens (RFC 9110, section 5.6.2). Servers may strip them from names, as Python does with NBSP."""
_MARKS: Final = b" .+["
"""The bytes that PHP replaces by underscores in names (PHP manual, Variables From External Sources). Older versions
decode `+`."""
_UNDERSCORED: Final = bytes.maketrans(_MARKS, b"_" * len(_MARKS))
_LOOSE: Final = bytes(set(_NO_TOKEN + _MARKS + b"_"))
"""The bytes to ignore in the quick search for a name in a text."""


def values(headers: Headers, name: bytes) -> list[bytes]:
    """Return the values of all cookies of this name, in the order of the request."""
    found = []
    for line in _lines(headers):
        if name in line:
            for pair in line.split(b";"):
                key, _, value = pair.partition(b"=")
                if key.strip(_SPACE) == name and (value := value.strip(_SPACE)):
                    found.append(value)
    return found


def only(headers: Headers, name: bytes, value: bytes | None) -> Headers:
    """Return the headers with exactly this cookie under its name, or with no such cookie if `value` is None.

    Cookies of other names are not changed. If the headers are right already, they are returned as they are.
    """
    lines = _lines(headers)
    sent = lines[0] if len(lines) == 1 else b";".join(lines)
    times = _plain(sent, _LOOSE).count(_loose_name(name))
    if times == 0 and value is None:
        return headers
    if times == 1 and value is not None and b";%s=%s;" % (name, value) in b";%s;" % sent.replace(b" ", b""):
        return headers
    bare = _bare(name)
    kept = [pair for line in lines for pair in _others(line, bare)]
    if value is not None:
        kept.append(name + b"=" + value)
    others = [header for header in headers if header[0] != b"cookie"]
    return [*others, (b"cookie", b"; ".join(kept))] if kept else others


def sets(header: tuple[bytes, bytes], name: bytes) -> bool:
    """Return whether a header of an answer sets a cookie of this name."""
    return header[0].lower() == b"set-cookie" and header[1].partition(b"=")[0].strip(_SPACE) == name


def _lines(headers: Headers) -> list[bytes]:
    return [line for key, line in headers if key == b"cookie"]


def _others(line: bytes, bare: bytes) -> Iterator[bytes]:
    """Return the pairs of a line that no server may read under this name."""
    for pair in line.split(b";"):
        clean = pair.strip(_SPACE)
        if clean and not _may_name(clean, bare):
            yield clean


def _may_name(pair: bytes, bare: bytes) -> bool:
    """Return whether a server may find this name in a pair: at its start, or after a comma or white space.

    RFC 2965 separates pairs by commas. Python's parser, and aiohttp's, begin a new pair after white space.
    """
    parts = [pair, *_BORDERS.split(pair)]
    return any(bare in _readings(part.partition(b"=")[0]) for part in parts)


def _readings(name: bytes) -> tuple[bytes, ...]:
    """Return a name as servers may read it: bare, with PHP's underscores, and without the key of a PHP array."""
    name = _decoded(name)
    return _bare(name), _plain(name.strip().translate(_UNDERSCORED), _NO_TOKEN), _bare(name.partition(b"[")[0])


@lru_cache(maxsize=64)
def _loose_name(name: bytes) -> bytes:
    return _plain(name, _LOOSE)


def _bare(text: bytes) -> bytes:
    """Return a text without all that servers may decode, strip or ignore: encoding, spaces, quotes, case and dots."""
    return _plain(text, _NO_TOKEN).replace(b".", b"_")


def _plain(text: bytes, ignored: bytes) -> bytes:
    return _decoded(text).translate(None, ignored).lower()


def _decoded(text: bytes) -> bytes:
    return unquote_to_bytes(text) if b"%" in text else text
