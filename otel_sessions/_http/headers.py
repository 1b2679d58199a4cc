"""What an ASGI scope says of a request: its path and its headers. Nothing here knows sessions."""

from collections.abc import MutableMapping, Sequence
from typing import Any, Final

Scope = MutableMapping[str, Any]
Headers = Sequence[tuple[bytes, bytes]]

_SPELT: Final = b"".join(byte.lower() if byte.isalnum() else b"-" for byte in (bytes([code]) for code in range(256)))
"""Every letter in lower case, every digit, and a hyphen for anything else."""


def header(scope: Scope, name: bytes) -> str | None:
    """Return the first value of a request's header, or None if the request has no such header."""
    for key, value in pairs_of(scope):
        if key == name:
            return value.decode("latin-1")
    return None


def headers_of(scope: Scope, name: bytes) -> list[str]:
    """Return every value of a request's header."""
    return [value.decode("latin-1") for key, value in pairs_of(scope) if key == name]


def path_of(scope: Scope) -> str:
    """Return a request's path as the routes of the app see it: without the mount (`root_path`), and at least `/`.

    Some servers leave the mount out of `path`. Then the path is returned as it is.
    """
    path, mount = str(scope.get("path", "")), str(scope.get("root_path") or "").rstrip("/")
    if mount and (path == mount or path.startswith(mount + "/")):
        path = path[len(mount) :]
    return path or "/"


def pairs_of(scope: Scope) -> Headers:
    """Return a request's headers, names in lower case."""
    headers: Headers = scope["headers"]
    if not isinstance(headers, list):  # ASGI allows any iterable, but the headers are read more than once
        headers = scope["headers"] = list(headers)
    return headers


def spelt(name: bytes) -> bytes:
    """Return a header's name as an app may read it: in lower case, and with a hyphen for each mark.

    CGI, and so WSGI, replaces a hyphen by an underscore (RFC 3875, section 4.1.18). Some servers replace every mark.
    """
    return name.translate(_SPELT)
