"""The server behind: where it is, how it names itself, and the client that calls it."""

import ssl
from collections.abc import AsyncIterable
from functools import lru_cache
from typing import Final, Self
from urllib.parse import quote, urlsplit

from otel_sessions._http.client import Call, CallLimits, Client, Origin, Outline
from otel_sessions._program.sockets import WATCHFUL
from otel_sessions.matchers import Headers

from .rules import Timeouts

_PORTS: Final = {"http": 80, "https": 443}
_SAFE: Final = "/%:@!$&'()*+,;=-._~"
"""What a path may hold as it is (RFC 3986, section 3.3); `%` because a path that is encoded stays so."""


Body = bytes | AsyncIterable[bytes] | None
"""A request's body: whole, in parts as they come, or no body."""


class Upstream:
    """One server, by its URL: scheme, host, port, and a path that stands before each target."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        name = parts.hostname or ""
        self.is_tls: Final = parts.scheme == "https"
        self.hostname: Final = name if name.isascii() else name.encode("idna").decode("ascii")
        self.port: Final = parts.port or _PORTS[parts.scheme]
        bracketed = f"[{self.hostname}]" if ":" in self.hostname else self.hostname
        shown = bracketed if self.port == _PORTS[parts.scheme] else f"{bracketed}:{self.port}"
        self.host: Final = shown.encode("ascii")
        """The `Host` by which the server knows itself."""
        self.path: Final = quote(parts.path.rstrip("/"), safe=_SAFE).encode("ascii")
        tls = ssl.create_default_context() if self.is_tls else None
        self._client = Client(Origin(host=self.hostname, port=self.port, tls=tls, options=WATCHFUL))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        self._client.close()

    def outline(self, method: bytes, target: bytes, headers: Headers) -> Outline:
        """Return the outline of a request, for `repeat`."""
        return Outline(method, self.path + target, list(headers))

    def call(self, method: bytes, target: bytes, headers: Headers, body: Body, timeouts: Timeouts) -> Call:
        """Return a call of `target`, a path with its query, which goes out as it is written."""
        return self.repeat(self.outline(method, target, headers), body, timeouts)

    def repeat(self, outline: Outline, body: Body, timeouts: Timeouts) -> Call:
        """Return a call of a request whose outline is checked already, as `call` does."""
        return self._client.repeat(outline, body, limits=_limits(timeouts))


@lru_cache(16)
def _limits(timeouts: Timeouts) -> CallLimits:
    return CallLimits(
        connect_timeout=timeouts.connect_timeout,
        head_timeout=timeouts.idle_timeout,
        write_timeout=timeouts.idle_timeout,
    )
