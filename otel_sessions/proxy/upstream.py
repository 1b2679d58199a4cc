"""The server behind: where it is, how it names itself, and the client that calls it."""

import ssl
from collections.abc import AsyncIterable
from pathlib import Path
from typing import Final, Self
from urllib.parse import quote, urlsplit

from otel_sessions._core.exceptions import ConfigError
from otel_sessions._http.client import Call, CallLimits, Client, Origin, Outline
from otel_sessions._program.arguments import UNIX, unix_path
from otel_sessions._program.flags import naming
from otel_sessions._program.sockets import WATCHFUL
from otel_sessions.matchers import Headers

from . import options
from .rules import Timeouts

_PORTS: Final = {"http": 80, "https": 443}
_SAFE: Final = "/%:@!$&'()*+,;=-._~"
"""What a path may hold as it is (RFC 3986, section 3.3); `%` because a path that is encoded stays so."""


Body = bytes | AsyncIterable[bytes] | None
"""A request's body: whole, in parts as they come, or no body."""


class Upstream:
    """One server, by its URL: scheme, host, port, and a path that stands before each target.

    A server at `unix:PATH` is http://localhost to itself. `ca` is the file of the authorities that an https server's
    certificate is checked against; None is the system's. Raises `ConfigError`, which names the flag, if that file
    cannot be used.
    """

    def __init__(self, url: str, ca: str | None = None) -> None:
        self.unix: Final[Path | None] = unix_path(url) if url.startswith(UNIX) else None
        parts = urlsplit(url if self.unix is None else "http://localhost")
        name = parts.hostname or ""
        self.tls: Final = trusting(ca, options.UPSTREAM_CA.flag) if parts.scheme == "https" else None
        self.hostname: Final = name if name.isascii() else name.encode("idna").decode("ascii")
        self.port: Final = parts.port or _PORTS[parts.scheme]
        bracketed = f"[{self.hostname}]" if ":" in self.hostname else self.hostname
        shown = bracketed if self.port == _PORTS[parts.scheme] else f"{bracketed}:{self.port}"
        self.host: Final = shown.encode("ascii")
        """The `Host` by which the server knows itself."""
        self.path: Final = quote(parts.path.rstrip("/"), safe=_SAFE).encode("ascii")
        path = None if self.unix is None else str(self.unix)
        origin = Origin(host=self.hostname, port=self.port, path=path, tls=self.tls, options=WATCHFUL)
        self.client: Final = Client(origin)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        self.client.close()

    def outline(self, method: bytes, target: bytes, headers: Headers) -> Outline:
        """Return the outline of a request, for `client.repeat`."""
        return Outline(method, self.path + target, list(headers))

    def call(self, method: bytes, target: bytes, headers: Headers, body: Body, timeouts: Timeouts) -> Call:
        """Return a call of `target`, a path with its query, which goes out as it is written."""
        return self.client.repeat(self.outline(method, target, headers), body, limits=limits_of(timeouts))


def limits_of(timeouts: Timeouts) -> CallLimits:
    """Return how long a call waits."""
    return CallLimits(
        connect_timeout=timeouts.connect_timeout,
        head_timeout=timeouts.idle_timeout,
        write_timeout=timeouts.idle_timeout,
    )


def trusting(ca: str | None, flag: str) -> ssl.SSLContext:
    """Return a context that checks certificates, and the names in them, against the authorities in a file, or here.

    Raises `ConfigError`, which names the flag, if the file cannot be used.
    """
    if ca is None:
        context = ssl.create_default_context()
    else:
        with naming(flag, ca):
            text = Path(ca).read_bytes().decode("ascii", "ignore")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # an intermediate authority is enough
        try:
            context.load_verify_locations(cadata=text)
        except (ssl.SSLError, ValueError):
            raise ConfigError(f"{flag} {ca}: the file has no certificate in PEM") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context
