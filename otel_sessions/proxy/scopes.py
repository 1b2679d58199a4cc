"""What the scope of a request says, as ASGI wants it: of its connection, and of its first line.

Both are made once: for a connection, and for a head that is repeated on it.
"""

import asyncio
from urllib.parse import unquote

from otel_sessions.matchers import Scope

from .head import Head
from .rules import TARGET
from .shape import SHAPED, Shaped

Part = dict[str, object]
"""A part of a scope."""


def of_connection(transport: asyncio.BaseTransport) -> Part:
    """Return what all scopes of a connection have."""
    server, client = transport.get_extra_info("sockname"), transport.get_extra_info("peername")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "server": tuple(server[:2]) if isinstance(server, (tuple, list)) else (server, None),
        "client": tuple(client[:2]) if isinstance(client, (tuple, list)) else None,
        "scheme": "http" if transport.get_extra_info("sslcontext") is None else "https",
        "root_path": "",
    }


def of_request(connection: Part, head: Head, shaped: Shaped) -> Scope:
    """Return a scope of its own for a request."""
    if shaped.line is None:
        shaped.line = _with_line(connection, head)
    scope: Scope = shaped.line.copy()
    scope["headers"], scope[SHAPED] = head.headers, shaped
    return scope


def _with_line(connection: Part, head: Head) -> Part:
    path, _, query = head.target.partition(b"?")
    return {
        **connection,
        "http_version": head.version,
        "method": head.method,
        "path": unquote(path.decode("latin-1")),
        "raw_path": path,
        "query_string": query,
        TARGET: head.target,
    }
