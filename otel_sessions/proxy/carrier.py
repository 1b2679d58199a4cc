"""How a session's id travels on to the upstream: once, as it was judged here, and in no other spelling. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from otel_sessions.matchers import CookieMatcher, HeaderMatcher, Headers, SessionMatcher

from .headers import spelt

MCP_ID: Final = b"mcp-session-id"


@dataclass(frozen=True, kw_only=True, slots=True)
class Carrier:
    """The name under which clients name their sessions: of a header or of a cookie."""

    header: bytes = b""
    cookie: bytes = b""

    @classmethod
    def of(cls, matcher: SessionMatcher) -> "Carrier":
        if isinstance(matcher, CookieMatcher):
            return cls(cookie=matcher.name.encode("latin-1"))
        return cls(header=matcher.name.encode("latin-1") if isinstance(matcher, HeaderMatcher) else MCP_ID)

    def judged(self, headers: Headers, session_id: str | None) -> list[tuple[bytes, bytes]]:
        """Return a request's headers with that id in place of whatever the client has said, or without any."""
        own = b"" if session_id is None else session_id.encode("latin-1")
        if self.header:
            others = [(name, value) for name, value in headers if spelt(name) != self.header]
            return [*others, (self.header, own)] if own else others
        others = [(name, value) for name, value in headers if name != b"cookie"]
        cookies = [*self._others(headers), *([self.cookie + b"=" + own] if own else [])]
        return [*others, (b"cookie", b"; ".join(cookies))] if cookies else others

    def _others(self, headers: Headers) -> Iterator[bytes]:
        for name, value in headers:
            if name == b"cookie":
                pairs = (pair.strip() for pair in value.split(b";"))
                yield from (pair for pair in pairs if pair and pair.partition(b"=")[0].strip() != self.cookie)
