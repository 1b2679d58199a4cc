"""Answers of an upstream that knows only its own host: what they name leads back to the proxy. Pure.

With `--rewrite-host` the upstream does not know the host that its client has asked for. So its redirects and its
cookies name a host that the client cannot reach, or may not.
"""

import re
from typing import Final

from otel_sessions.matchers import Headers

_PLACES: Final = frozenset({b"location", b"content-location"})
_DEFAULT_PORTS: Final = (80, 443)


class LeadingBack:
    """What the upstream calls itself, and how to replace it."""

    def __init__(self, hostname: str, port: int) -> None:
        name = re.escape(hostname.encode("ascii"))
        name = rb"\[%b\]" % name if ":" in hostname else name
        optional = b"?" if port in _DEFAULT_PORTS else b""
        self._place = re.compile(rb"(?i:(?:https?:)?//%b)(?::%d)%b(?=[/?#]|\Z)" % (name, port, optional))
        self._domain = re.compile(rb"(?i:;[ \t]*domain[ \t]*=[ \t]*\.?%b[ \t]*)(?=;|\Z)" % name)

    def __call__(self, headers: Headers, scheme: str, host: bytes) -> list[tuple[bytes, bytes]]:
        """Return an answer's headers as the client gets them, who has asked `host` by `scheme`.

        A place at the upstream becomes a place at `host`. A cookie for the upstream's domain becomes one for `host`
        alone. All other headers stay as they are.
        """
        base = scheme.encode("ascii") + b"://" + host
        return [(name, self._led_back(name, value, base)) for name, value in headers]

    def _led_back(self, name: bytes, value: bytes, base: bytes) -> bytes:
        if name in _PLACES and (place := self._place.match(value)):
            return base + value[place.end() :]
        return self._domain.sub(b"", value) if name == b"set-cookie" else value
