"""What whoever relays a WebSocket needs: its handshake with a server, headers of both sides, and codes of its end.

The handshake is the `websockets` library's, so that only those who relay import this module.
"""

import dataclasses
from typing import Any, Final

from websockets.asyncio.client import connect
from websockets.http11 import Response

Headers = list[tuple[bytes, bytes]]

NO_STATUS: Final = 1005
ABNORMAL: Final = 1006
GOING_AWAY: Final = 1001
_NO_TLS: Final = 1015
_INSTEAD: Final = {NO_STATUS: 1000, ABNORMAL: 1011, _NO_TLS: 1011}
"""RFC 6455, section 7.4.1: these codes are never sent."""
_OWN: Final = frozenset({b"host", b"content-length"})
FAREWELL_SECONDS: Final = 1.0
SETTINGS: Final[dict[str, Any]] = {
    "user_agent_header": None,
    "compression": None,
    "ping_interval": 20.0,
    "ping_timeout": None,  # the pong waits behind all data that the server has not read yet
    "max_size": 16 * 1024 * 1024,
    "max_queue": 1,
    "proxy": None,
}
"""How a relay connects, for `Connect`. Times are in seconds, sizes in bytes."""


class Connect(connect):
    """A handshake at exactly the target that the client wrote. A redirect is not followed."""

    def __init__(self, uri: str, target: str, **settings: Any) -> None:
        super().__init__(uri, **settings)
        self.ws_uri = dataclasses.replace(self.ws_uri, path=target)

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


def sendable(code: int) -> int:
    """Return a code that may be sent. Codes for no code, a broken connection and failed TLS are replaced."""
    return _INSTEAD.get(code, code)


def is_own(name: bytes) -> bool:
    """Return whether each handshake sets a header by itself. The name is in lower case."""
    return name in _OWN or name.startswith(b"sec-websocket-")


def head_of(answer: Response) -> Headers:
    """Return an answer's headers, with names in lower case."""
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers.raw_items()]
