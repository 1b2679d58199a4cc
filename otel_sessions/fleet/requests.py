"""Passes one HTTP request on to a peer, and the answer back, part by part. asyncio only.

The request keeps its target and its headers, but for the headers about one connection. The peer says in its answer
whether it is the owner. What anybody else says is not passed back.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from typing import Final

from otel_sessions._http.client import CallLimits, Client, Head, Outline
from otel_sessions._http.hops import end_to_end
from otel_sessions.asgi import Message, Receive, Send
from otel_sessions.asgi._leaving import LEAVING, Leaving
from otel_sessions.asgi._repeated import REPEATED, Repeated
from otel_sessions.matchers import Headers, Scope, header, pairs_of

from .crossings import Crossing, Why
from .signing import HEADER, Passage, Proof, Secrets, Word
from .targets import target_of
from .tracing import is_traced_now, with_trace

_HTTP_1: Final = "1"
_WATCH_AFTER: Final = 0.1
"""Seconds without an answer after which a task waits for the client to leave."""


class Gone(Exception):
    """The client has left."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Signed:
    """What is signed for one exchange. `value` is the header for the peer, `proof` what its answer must have."""

    target: bytes
    value: bytes
    proof: Proof


@dataclass(slots=True)  # one that is frozen, or takes keywords only, takes three times as long to make
class Passing:
    """One exchange that is passed on. `about` is what is signed of it, with the secrets of the fleet."""

    about: Passage
    secrets: Secrets
    scope: Scope
    crossing: Crossing
    receive: Receive
    send: Send

    def signed(self) -> Signed:
        """Return what is signed for the exchange."""
        target = target_of(self.scope)
        value, proof = self.secrets.sign(self.about, str(self.scope.get("method", "GET")), target)
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


async def pass_on(client: Client, limits: CallLimits, passing: Passing) -> Other | None:
    """Pass a request on. Return None when the owner's answer was passed back, else the other answer.

    Raises `UpstreamError`, also if the answer stays incomplete, `Gone` if the client has left, and what the `receive`
    and the `send` of the exchange raise.
    """
    crossing, send = passing.crossing, passing.send
    body = _Body(passing.receive)
    asked = _asked(passing)
    first = await body.first() if asked.has_body else None
    call = client.repeat(asked.outline, first if body.is_read else body.parts(), limits=limits, seal=asked.seal)
    crossing.when_ended(call.close)
    watching = _watched(passing, body)
    try:
        head = await call.head()
        proof = asked.signed.proof
        if not (call.is_sealed or is_by_owner(proof, head.headers)):
            return Other(status=head.status, headers=head.headers, proof=proof)
        passed = head.found if isinstance(head.found, list) else _passed(head)
        await send({"type": "http.response.start", "status": head.status, "headers": passed})
        more = True
        while more:
            part = await call.read(None)  # the watch over the peer ends a call that stands still
            more = not call.is_over
            await send({"type": "http.response.body", "body": part, "more_body": more})
        return None
    finally:
        call.close()
        if watching is not None:
            watching.cancel()
        if not body.rests:
            await body.rest()


def _watched(passing: Passing, body: "_Body") -> asyncio.TimerHandle | None:
    """End the exchange when the client has left. Return the timer where only a task can see to that, else None.

    Most answers are there before anybody has to watch.
    """
    crossing = passing.crossing
    leaving: Leaving | None = passing.scope.get(LEAVING)
    if leaving is None:
        return asyncio.get_running_loop().call_later(_WATCH_AFTER, body.begin_to_watch, crossing)
    leaving.when_gone(partial(crossing.end, Why.LEFT))
    return None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Asked:
    """What a peer is asked, but for the body: `outline`, which has in it what is `signed` of `about`, by `secrets`.

    `seal` is the end of the head of the owner's answer.
    """

    about: Passage
    secrets: Secrets
    signed: Signed
    seal: bytes
    outline: Outline
    has_body: bool


def _asked(passing: Passing) -> _Asked:
    """Return what the peer is asked. It is made once for a head that is repeated, but for a trace."""
    repeated: Repeated | None = passing.scope.get(REPEATED)
    if repeated is None or is_traced_now():
        return _made(passing)
    asked = repeated.towards_peer
    if not isinstance(asked, _Asked) or asked.about != passing.about or asked.secrets is not passing.secrets:
        asked = repeated.towards_peer = _made(passing)
    return asked


def _made(passing: Passing) -> _Asked:
    scope, signed = passing.scope, passing.signed()
    headers = [*towards_peer(pairs_of(scope)), (HEADER, signed.value)]
    outline = Outline(str(scope["method"]).encode("latin-1"), signed.target, headers)
    return _Asked(
        about=passing.about,
        secrets=passing.secrets,
        signed=signed,
        seal=b"%b: %b\r\n\r\n" % (HEADER, signed.proof.by_owner),
        outline=outline,
        has_body=_has_body(scope),
    )


def towards_peer(headers: Headers) -> Headers:
    """Return a request's headers as a peer gets them. The trace goes on from the current span, if there is one."""
    return with_trace([pair for pair in end_to_end(headers) if pair[0] != HEADER])


def _passed(head: Head) -> Headers:
    """Return the headers of an answer as the client gets them. They are found once for a head that is repeated."""
    head.found = passed = towards_client(head.headers)
    return passed


def towards_client(headers: Headers) -> list[tuple[bytes, bytes]]:
    return [pair for pair in end_to_end([(name.lower(), value) for name, value in headers]) if pair[0] != HEADER]


def _has_body(scope: Scope) -> bool:
    """Return whether a request may have a body. In HTTP/2 and later a body needs no header."""
    if not str(scope.get("http_version", _HTTP_1)).startswith(_HTTP_1):
        return True
    return header(scope, b"transfer-encoding") is not None or (header(scope, b"content-length") or "0") != "0"


class _Body:
    """The body of a request. One task reads at a time, and `rest` waits until no task reads any more."""

    __slots__ = ("_first", "_receive", "_rested", "_watching", "_whole", "is_read", "is_reading")

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._first = b""
        self.is_read = True
        """Whether nothing of the body is left to be read."""
        self.is_reading = False
        self._rested: asyncio.Event | None = None
        self._whole: asyncio.Event | None = None
        """Set when the body is read, where it comes in parts."""
        self._watching: asyncio.Task[None] | None = None

    async def first(self) -> bytes:
        """Read the first part of the body, and return it. Raises `Gone`."""
        self.is_read = False
        self._first = await self._next()
        if not self.is_read:
            self._whole = asyncio.Event()
        return self._first

    async def parts(self) -> AsyncIterator[bytes]:
        """Yield the body, the first part again. Raises `Gone`."""
        part = self._first
        while True:
            if part:
                yield part
            if self.is_read:
                break
            part = await self._next()
        assert self._whole is not None
        self._whole.set()

    def begin_to_watch(self, crossing: Crossing) -> None:
        """End the exchange when the client has left."""
        self._watching = asyncio.create_task(self._watch(crossing))

    async def _watch(self, crossing: Crossing) -> None:
        if self._whole is not None:
            await self._whole.wait()
        while (await self._message())["type"] == "http.request":
            pass
        crossing.end(Why.LEFT)

    @property
    def rests(self) -> bool:
        """Whether no task watches or reads."""
        return self._watching is None and not self.is_reading

    async def rest(self) -> None:
        """Stop to watch, and wait until a task that was cancelled does not read any more."""
        if self._watching is not None:
            self._watching.cancel()
        if self.is_reading:
            self._rested = asyncio.Event()
            await self._rested.wait()

    async def _next(self) -> bytes:
        message = await self._message()
        if message["type"] == "http.disconnect":
            raise Gone
        self.is_read = not message.get("more_body", False)
        return bytes(message.get("body") or b"")

    async def _message(self) -> Message:
        self.is_reading = True
        try:
            message: Message = await self._receive()
        finally:
            self.is_reading = False
            if self._rested is not None:
                self._rested.set()
        return message
