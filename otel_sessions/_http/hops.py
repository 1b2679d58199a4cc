"""The headers that are about one connection only, and so are never passed on (RFC 9110, section 7.6.1). Pure."""

from collections.abc import Sequence
from typing import Final

HOP_BY_HOP: Final = frozenset(
    {
        b"connection",
        b"http2-settings",
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
"""Such headers, besides the headers that `Connection` names."""


def end_to_end(headers: Sequence[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Return the headers without the headers that are about one connection only. Their names are in lower case."""
    names = [name for name, _ in headers]
    if b"connection" not in names:
        return [pair for pair in headers if pair[0] not in HOP_BY_HOP]
    lines = [value for name, value in headers if name == b"connection"]
    dropped = HOP_BY_HOP.union(token.strip().lower() for line in lines for token in line.split(b","))
    return [pair for pair in headers if pair[0] not in dropped]
