"""Passes one HTTP request on to a peer, and the answer back, part by part. asyncio only.

The request keeps its target and its headers, but for the headers about one connection. The peer says in its answer
whether it is the owner. What anybody else says is not passed back.
"""

import ssl
from dataclasses import dataclass
from functools import partial
from typing import Final

from otel_sessions._http.client import Call, CallLimits, Client, Head, Outline
from otel_sessions._http.hops import end_to_end
from otel_sessions.asgi import Receive, Send
from otel_sessions.asgi._exchange import BODY_FOLLOWS
from otel_sessions.asgi._leaving import LEAVING, Leaving
from otel_sessions.asgi._repeated import REPEATED, Repeated, RepeatedAnswer
from otel_sessions.matchers import Headers, Scope, header, pairs_of

from .addresses import Address
from .bodies import Body, part_in
from .crossings import Crossing, Why
from .signing import HEADER, Passage, Proof, Secrets, Word, expiry, same_expiry
from .targets import target_of
from .tracing import is_traced_now, with_trace

_HTTP_1: Final = "1"
_LEFT: Final = Why.LEFT  # on Python 3.11, a member of an enum costs as much as a call


@dataclass(frozen=True, kw_only=True, slots=True)
class Way:
    """The way to one peer: its address, and what calls it. `limits` are for requests that are passed on."""

    address: Address
    tls: ssl.SSLContext | None
    client: Client
    limits: CallLimits


@dataclass(frozen=True, kw_only=True, slots=True)
class Signed:
    """What is signed for one exchange. `value` is the header for the peer, `proof` what its answer must have."""

    target: bytes
    value: bytes
    proof: Proof


@dataclass(slots=True)  # one that is frozen, or takes keywords only, takes three times as long to make
class Passing:
    """One exchange that is passed on to the process `owner`, which has the session. `secrets` are those of the fleet.

    `now` is in seconds since 1970.
    """

    owner: str
    session_id: str
    secrets: Secrets
    now: float
    scope: Scope
    crossing: Crossing
    receive: Receive
    send: Send

    def signed(self) -> Signed:
        """Return what is signed for the exchange."""
        scope, target = self.scope, target_of(self.scope)
        client = scope.get("client")
        where = (str(client[0]), int(client[1] or 0)) if client else None
        about = Passage(self.owner, self.session_id, str(scope.get("scheme", "http")), where, expiry(self.now))
        value, proof = self.secrets.sign(about, str(scope.get("method", "GET")), target)
        return Signed(target=target, value=value, proof=proof)


def is_by_owner(proof: Proof, headers: Headers) -> bool:
    """Return whether an answer is the answer of the owner."""
    said = proof.said_in(headers)
    return said is not None and said[0] is Word.OWNER


def refusal_in(proof: Proof, headers: Headers) -> int | None:
    """Return the status with which the owner refuses a handshake that its server could only accept, or None."""
    said = proof.said_in(headers)
    return int(said[1]) if said is not None and said[1].isdecimal() else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Other:
    """An answer that is not the owner's. `proof` is what the owner's answer must have."""

    status: int
    headers: Headers
    proof: Proof


async def pass_on(way: Way, passing: Passing) -> Other | None:
    """Pass a request on. Return None when the owner's answer was passed back, else the other answer.

    Raises `UpstreamError`, also if the answer stays incomplete, `Gone` if the client has left, and what the `receive`
    and the `send` of the exchange raise.
    """
    crossing, scope, send = passing.crossing, passing.scope, passing.send
    asked = _asked(passing)
    first, is_whole = part_in(await passing.receive()) if asked.has_body else (None, True)
    leaving: Leaving | None = scope.get(LEAVING)
    body = None if is_whole and leaving is not None else Body(passing.receive, first or b"", is_whole=is_whole)
    sent = first if body is None or is_whole else body.parts()
    call = way.client.repeat(asked.outline, sent, limits=way.limits, seal=asked.seal)
    crossing.when_ended(call.close)
    if leaving is not None:
        leaving.when_gone(partial(crossing.end, _LEFT))
    else:
        assert body is not None
        body.watch_later(partial(crossing.end, _LEFT))
    whole = None
    try:
        head = await call.head()
        proof = asked.signed.proof
        if not (call.is_sealed or is_by_owner(proof, head.headers)):
            return Other(status=head.status, headers=head.headers, proof=proof)
        passed = head.found if isinstance(head.found, RepeatedAnswer) else _passed(head)
        start = {"type": "http.response.start", "status": head.status, "headers": passed}
        whole = call.rest()
        start[BODY_FOLLOWS] = whole is not None
        await send(start)
        if whole is None:
            await _pass_back(call, send)
        else:
            await send({"type": "http.response.body", "body": whole})
        return None
    finally:
        if whole is None:  # else the call has closed itself
            call.close()
        if body is not None:
            await body.rest()


@dataclass(frozen=True, kw_only=True, slots=True)
class _Asked:
    """What a peer is asked, but for the body: `outline`, which has in it what is `signed`.

    `seal` is the end of the head of the owner's answer. `about` is what was signed besides the head, by `secrets`. From
    `since` until `until`, in seconds since 1970, the signature would be the same.
    """

    signed: Signed
    seal: bytes
    outline: Outline
    has_body: bool
    about: tuple[object, ...]
    secrets: Secrets
    since: int
    until: int

    def is_for(self, passing: Passing, about: tuple[object, ...]) -> bool:
        """Return whether the same would be signed for another exchange with the same head."""
        return self.since <= passing.now < self.until and self.secrets is passing.secrets and self.about == about


def _asked(passing: Passing) -> _Asked:
    """Return what the peer is asked. It is made once for a head that is repeated, but for a trace."""
    scope = passing.scope
    repeated: Repeated | None = scope.get(REPEATED)
    about = (passing.owner, passing.session_id, scope.get("client"), scope.get("scheme"))
    if repeated is None or is_traced_now():
        return _made(passing, about)
    asked = repeated.towards_peer
    if not isinstance(asked, _Asked) or not asked.is_for(passing, about):
        asked = repeated.towards_peer = _made(passing, about)
    return asked


def _made(passing: Passing, about: tuple[object, ...]) -> _Asked:
    scope, signed = passing.scope, passing.signed()
    headers = [*towards_peer(pairs_of(scope)), (HEADER, signed.value)]
    since, until = same_expiry(passing.now)
    return _Asked(
        signed=signed,
        seal=b"%b: %b\r\n\r\n" % (HEADER, signed.proof.by_owner),
        outline=Outline(str(scope["method"]).encode("latin-1"), signed.target, headers),
        has_body=_has_body(scope),
        about=about,
        secrets=passing.secrets,
        since=since,
        until=until,
    )


def towards_peer(headers: Headers) -> Headers:
    """Return a request's headers as a peer gets them. The trace goes on from the current span, if there is one."""
    return with_trace([pair for pair in end_to_end(headers) if pair[0] != HEADER])


def _passed(head: Head) -> RepeatedAnswer:
    """Return the headers of an answer as the client gets them. They are found once for a head that is repeated."""
    head.found = passed = RepeatedAnswer(towards_client(head.headers))
    return passed


async def _pass_back(call: Call, send: Send) -> None:
    more = True
    while more:
        part = await call.read(None)  # the watch over the peer ends a call that stands still
        more = not call.is_over
        await send({"type": "http.response.body", "body": part, "more_body": more})


def towards_client(headers: Headers) -> list[tuple[bytes, bytes]]:
    return [pair for pair in end_to_end([(name.lower(), value) for name, value in headers]) if pair[0] != HEADER]


def _has_body(scope: Scope) -> bool:
    """Return whether a request may have a body. In HTTP/2 and later a body needs no header."""
    if not str(scope.get("http_version", _HTTP_1)).startswith(_HTTP_1):
        return True
    return header(scope, b"transfer-encoding") is not None or (header(scope, b"content-length") or "0") != "0"
