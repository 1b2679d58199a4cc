"""The target of a request as its client wrote it. Pure."""

from typing import Final, cast
from urllib.parse import quote

from otel_sessions.matchers import Scope

_AS_WRITTEN: Final = "otel_sessions.proxy.target"
"""Where the proxy's scopes have the target."""
_SAFE: Final = "/%:@!$&'()*+,;=-._~"
"""What a path may hold as it is (RFC 3986, section 3.3)."""


def target_of(scope: Scope) -> bytes:
    """Return the path and the query of a request, without the prefix that the server itself adds (`--root-path`)."""
    if _AS_WRITTEN in scope:
        return cast("bytes", scope[_AS_WRITTEN])
    path = _path_of(scope)[len(prefix_of(scope)) :]
    query = cast("bytes", scope.get("query_string") or b"")
    return path + (b"?" + query if query else b"")


def prefix_of(scope: Scope) -> bytes:
    """Return the prefix that the server has added to the path of a request, or nothing."""
    root = str(scope.get("app_root_path", scope.get("root_path")) or "").rstrip("/").encode()
    return root if root and _path_of(scope).startswith(root + b"/") else b""


def _path_of(scope: Scope) -> bytes:
    return cast("bytes | None", scope.get("raw_path")) or quote(str(scope["path"]), safe=_SAFE).encode("ascii")
