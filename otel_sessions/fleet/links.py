"""The ways to the peers: a client for each address, the exchanges on their way, and what an answer means.

asyncio only. Needs the extra `fleet`.
"""

import asyncio
import errno
import logging
import re
import ssl
import time
from collections.abc import Callable
from typing import Final

from websockets.exceptions import WebSocketException

from otel_sessions._core.events import Event
from otel_sessions._core.exceptions import PeerUnavailable
from otel_sessions._core.words import Forwarded
from otel_sessions._engine.owners import NotAnswered, Peer
from otel_sessions._http.client import (
    BadAnswer,
    Call,
    CallLimits,
    CannotConnect,
    Client,
    Head,
    HungUp,
    Origin,
    UpstreamError,
)
from otel_sessions.asgi import Receive, Send
from otel_sessions.matchers import Scope

from . import requests, sockets
from .addresses import Address, read_address
from .bodies import Gone
from .crossings import Crossing, Crossings, Why
from .questions import ITSELF, METHOD
from .signing import ANYONE, HEADER, REFUSED, Passage, Proof, Secrets, Word, expiry

_MOST_LINKS: Final = 1024
_ABSENT: Final = frozenset({errno.ECONNREFUSED, errno.ENOENT})
"""What the system says of an address where no process listens."""
_NUMBER: Final = re.compile(r"\[Errno ([0-9]+)\]")
_WARN_SECONDS: Final = 60.0
_SERVER_ERRORS: Final = 500
_TROUBLE: Final = frozenset({408, 429})
"""What a server says, besides 5xx, that does not let a request through now. It does not say that a session is gone."""
_QUESTION_SECONDS: Final = 2.0
"""How long a process may take to answer a question before it is asked for a sign of life, and as long for the sign."""
_MOST_ANSWER: Final = 16_777_216
"""Bytes of an answer."""

_logger = logging.getLogger("otel_sessions")


# On Python 3.11, a member of an enum costs as much as a call.
_ANSWERED, _LEFT = Forwarded.ANSWERED, Forwarded.LEFT
_UNANSWERED: Final = frozenset({Forwarded.UNAVAILABLE, Forwarded.REFUSED})


class _Link:
    """The way to one address."""

    def __init__(self, address: Address, tls: ssl.SSLContext | None, patience: float) -> None:
        self.address = address
        self.client = Client(Origin(host=address.host, port=address.port, path=address.socket, tls=tls))
        limits = CallLimits(connect_timeout=patience, head_timeout=None, write_timeout=None)
        self.way = requests.Way(address=address, tls=tls, client=self.client, limits=limits)
        self.crossings = Crossings(patience, self._is_alive)
        self._asking = CallLimits(connect_timeout=patience, head_timeout=patience, write_timeout=patience)
        soon = min(patience, _QUESTION_SECONDS)
        self._soon = CallLimits(connect_timeout=soon, head_timeout=soon, write_timeout=soon)
        self._answering = CallLimits(connect_timeout=soon, head_timeout=None, write_timeout=None)
        self._questions = Crossings(soon, self._is_alive_soon)

    async def ask(self, secrets: Secrets) -> str | None:
        """Return the name of the process at this address, or None. Raises `UpstreamError`."""
        passage = _passage(ANYONE, "", "http", None)
        signed, proof = secrets.sign(passage, "GET", self.address.path)
        with self._call(signed) as call:
            said = proof.said_in((await call.head()).headers)
        return said[1] if said is not None and said[0] is Word.PEER else None

    async def put(self, peer: Peer, query: bytes, secrets: Secrets) -> tuple[bytes, Head, Proof]:
        """Put a question to the process here, and return its answer. Raises `NotAnswered`."""
        target = self.address.path + b"?" + query
        signed, proof = secrets.sign(_passage(peer.name, ITSELF, "http", None), METHOD, target)
        body = bytearray()
        with self._questions.begin() as crossing:
            try:
                with self._call(signed, METHOD, target, self._answering) as call:
                    crossing.when_ended(call.close)
                    head = await call.head()
                    while (part := await call.read(None)) and len(body) <= _MOST_ANSWER:
                        body += part
            except UpstreamError as error:
                raise NotAnswered(_why(error, crossing)) from error
        return bytes(body), head, proof

    async def _is_alive(self) -> bool:
        return await self._answers(self._asking)

    async def _is_alive_soon(self) -> bool:
        return await self._answers(self._soon)

    async def _answers(self, limits: CallLimits) -> bool:
        """Return whether anybody answers at this address, whatever the answer is."""
        try:
            with self._call(b"", limits=limits) as call:
                await call.head()
        except (BadAnswer, HungUp):
            return True
        except UpstreamError:
            return False
        return True

    def _call(
        self, signed: bytes, method: str = "GET", target: bytes | None = None, limits: CallLimits | None = None
    ) -> Call:
        host = f"[{self.address.host}]" if ":" in self.address.host else self.address.host
        headers = [(b"host", host.encode("ascii")), (HEADER, signed)]
        where = self.address.path if target is None else target
        return self.client.call(method.encode("ascii"), where, headers, limits=limits or self._asking)

    def close(self) -> None:
        self.crossings.end()
        self._questions.end()
        self.client.close()


class Links:
    """The ways to all peers, for one run of a manager."""

    def __init__(self, patience: float, tls: ssl.SSLContext | None) -> None:
        self._patience = patience
        self._tls = tls
        self._links: dict[str, _Link] = {}
        self._quiet: asyncio.Event | None = None
        """Set when no exchange is on its way. There is no event if nobody waits."""
        self._under_way = 0
        self._warned: dict[str, float] = {}

    async def wait_quiet(self) -> None:
        while self._under_way:
            self._quiet = asyncio.Event()
            await self._quiet.wait()

    def close(self) -> None:
        links, self._links = self._links, {}
        for link in links.values():
            link.close()

    async def ask(self, address: str, secrets: Secrets) -> str | None:
        """Return the name of the process at an address, or None if no process of the fleet answers there in time."""
        try:
            return await self._link(address).ask(secrets)
        except UpstreamError:
            return None

    async def put(self, peer: Peer, query: bytes, secrets: Secrets) -> bytes:
        """Put a question to a process, and return its answer. Raises `NotAnswered`, which says why."""
        body, head, proof = await self._link(peer.address).put(peer, query, secrets)
        said = proof.said_in(head.headers)
        if said is not None and said[0] is Word.OWNER:
            return body
        if said is not None:
            raise NotAnswered("it has another name, or takes no questions")
        if (HEADER, REFUSED) in [(name.lower(), value) for name, value in head.headers]:
            raise NotAnswered("it refuses the signature: its secret or its clock differs")
        raise NotAnswered("another service is there")

    async def pass_on(
        self,
        peer: Peer,
        session_id: str,
        secrets: Secrets,
        scope: Scope,
        receive: Receive,
        send: Send,
        note: Callable[[Forwarded], None],
    ) -> bool:
        """Pass an exchange on, and tell `note` what became of it: once, and in any case.

        Return False, and send nothing, if the session is not there. Raises `PeerUnavailable` if the peer does not
        answer. Nothing was sent then, or the answer stays incomplete.
        """
        outcome = _LEFT  # of an exchange that is broken off
        link = self._links.get(peer.address) or self._link(peer.address)
        crossing = link.crossings.begin()
        self._under_way += 1
        try:
            passing = requests.Passing(peer.name, session_id, secrets, time.time(), scope, crossing, receive, send)
            answer = await (requests if scope["type"] == "http" else sockets).pass_on(link.way, passing)
            outcome = _ANSWERED if answer is None else self._judge(peer, answer)
        except Gone:
            outcome = _LEFT
        except (UpstreamError, OSError, WebSocketException) as error:
            outcome = self._failed(peer, crossing, error)
        finally:
            crossing.leave()
            note(outcome)
            self._under_way -= 1
            if self._quiet is not None and not self._under_way:
                self._quiet.set()
        if outcome in _UNANSWERED:
            raise PeerUnavailable(peer.name, self._patience)
        return outcome is _ANSWERED or outcome is _LEFT

    def _failed(self, peer: Peer, crossing: Crossing, error: Exception) -> Forwarded:
        """Return what became of an exchange that was not answered."""
        if crossing.why is Why.LEFT:
            return Forwarded.LEFT
        if crossing.why is None and _is_absent(error):
            return Forwarded.GONE
        self._warn(peer, f"did not answer: {type(error).__name__}")
        return Forwarded.UNAVAILABLE

    def _judge(self, peer: Peer, answer: requests.Other) -> Forwarded:
        """Return what an answer says that is not the owner's answer."""
        if answer.proof.said_in(answer.headers) is not None:
            return Forwarded.NOT_OWNER
        if (HEADER, REFUSED) in [(name.lower(), value) for name, value in answer.headers]:
            self._warn(peer, "refuses the signature: its secret or its clock differs")
            return Forwarded.REFUSED
        if answer.status in _TROUBLE or answer.status >= _SERVER_ERRORS:
            self._warn(peer, f"did not answer: a server in front of it says {answer.status}")
            return Forwarded.UNAVAILABLE
        self._warn(peer, "is no process of the fleet")
        return Forwarded.NOT_PEER

    def _warn(self, peer: Peer, what: str) -> None:
        """Log what is wrong with a peer, once a minute at most for each peer."""
        now = time.monotonic()
        if now - self._warned.get(peer.name, -_WARN_SECONDS) >= _WARN_SECONDS:
            if len(self._warned) >= _MOST_LINKS:
                self._warned.clear()
            self._warned[peer.name] = now
            _logger.warning(
                "the process %s at %s %s", *(peer.name, peer.address, what), extra=Event.PEER_UNUSABLE.extra
            )

    def _link(self, address: str) -> _Link:
        link = self._links.get(address)
        if link is None:
            self._drop_idle()
            where = read_address(address)
            tls = self._tls or ssl.create_default_context() if where.is_tls else None
            link = self._links[address] = _Link(where, tls, self._patience)
        return link

    def _drop_idle(self) -> None:
        if len(self._links) >= _MOST_LINKS:
            for address, link in list(self._links.items()):
                if not len(link.crossings):
                    link.close()
                    del self._links[address]


def _passage(owner: str, session_id: str, scheme: str, client: tuple[str, int] | None) -> Passage:
    return Passage(owner, session_id, scheme, client, expiry(time.time()))


def _why(error: UpstreamError, crossing: Crossing) -> str:
    """Return why a process has not answered a question."""
    if _is_absent(error):
        return "no process listens there"
    if crossing.why is Why.OVER:
        return "this process leaves the fleet"
    return "it gives no sign of life" if crossing.why is Why.SILENT else f"it does not answer ({type(error).__name__})"


def _is_absent(error: Exception) -> bool:
    """Return whether no process listens at an address: each of its addresses refuses the connection."""
    cause = error.__cause__ if isinstance(error, CannotConnect) else error
    if not isinstance(cause, OSError):
        return False
    if cause.errno is not None:
        return cause.errno in _ABSENT
    # asyncio says in words what each of several addresses has answered.
    numbers = _NUMBER.findall(str(cause))
    return bool(numbers) and all(int(number) in _ABSENT for number in numbers)
