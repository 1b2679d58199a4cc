"""A process among its peers: it finds the owner of a session by the hint in the id, and passes exchanges on to it.

A directory says which processes there are. `Peers` says how they work together, and is the same for every directory.

    where the owner of a session is          what the client gets
    ─────────────────────────────────        ─────────────────────────────────────────────────────────
    in the directory, has the session        the owner's answer
    in the directory, has it no more         as for an unknown id, after one more look at the directory
    not in the directory, or refuses         as for an unknown id, after one more look at the directory
    alive, but silent or out of reach        503 with Retry-After
"""

import asyncio
import math
import os
import ssl
import time
from collections.abc import Awaitable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import anyio
from opentelemetry.trace import NoOpTracerProvider

from otel_sessions._core.books import Books
from otel_sessions._core.config import check_seconds
from otel_sessions._core.exceptions import ConfigError, PeerUnavailable
from otel_sessions._core.forks import forks
from otel_sessions._core.ids import hint_in
from otel_sessions._engine.inquiries import Ask as Question
from otel_sessions._engine.manager import SessionManager
from otel_sessions._engine.owners import NotAnswered, Peer, Reports
from otel_sessions.asgi import ASGIApp, Receive, Send
from otel_sessions.asgi._elsewhere import Serve
from otel_sessions.matchers import Scope

from . import questions, taking
from .addresses import check_name, is_name, random_name
from .files import Watched
from .signing import Secrets
from .tracing import Tracing

if TYPE_CHECKING:
    from .links import Links

Secret = str | bytes | os.PathLike[str] | Sequence[str | bytes]
"""One secret, several secrets, or the path of a file with one secret a line. The first secret signs."""

_LOOK_SECONDS: Final = 1.0
"""How often a file of secrets is looked at, and a provider of spans is looked for. Each look costs time."""
NEEDS_EXTRA: Final = "peers need the extra `fleet`: pip install 'otel-sessions[fleet]' ({})"


class Ask(Protocol):
    """Asks who takes requests at an address. Returns the name of a process of the fleet, or None."""

    async def __call__(self, address: str) -> str | None: ...


class Directory(Protocol):
    """Which processes there are, and where. Asked on the manager's loop only."""

    def open(self, ask: Ask) -> None:
        """Begin with a run of the manager."""

    def close(self) -> None:
        """End with the run. May be called again."""

    async def find(self, name: str) -> Peer | None:
        """Return the process of this name, from what is known. Raises `PeerUnavailable` if that cannot be said now."""

    async def find_again(self, name: str) -> Peer | None:
        """Return the process of this name, from a fresh look, since the last answer led to a wrong process."""

    async def everyone(self) -> Mapping[str, Peer | None]:
        """Return all processes by name, this one, too. None stands for one that does not say its name now."""


class Peers:
    """This process and its peers. A manager takes it as its `fleet`, and it belongs to this one manager.

    `name` is the name of this process, or a random name if it is None. `secret` is shared by all processes.
    `patience` is in seconds: a peer must take a connection, or give a sign of life, within this time. `tls` is the
    context for addresses with `https`; by default the certificates of the system count.

    Raises `ConfigError` if an argument is wrong.
    """

    needs_hints = True
    runs_on_asyncio_only = True

    def __init__(
        self,
        directory: Directory,
        *,
        name: str | None,
        secret: Secret,
        patience: float = 5.0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._directory = directory
        self._given_name = None if name is None else check_name(name)
        self._name = self._given_name or random_name()
        self._secrets = _secrets(secret)
        self._looks_at = -math.inf
        """When to look again for what may have changed."""
        self._patience = check_seconds("patience", patience)
        self._tls = tls
        self._links: Links | None = None
        """The ways to the peers in a run on asyncio. On trio there are none, and nothing is passed on."""
        self._is_entered = False
        self._answer_to: taking.AnswerTo | None = None
        self.report(Reports(manager="", books=Books(None), tracer_provider=NoOpTracerProvider()))
        forks.add(self)

    @property
    def name(self) -> str:
        """The name of this process. A random name is new in a forked process."""
        return self._name

    def start_anew_after_fork(self) -> None:
        """Take a new name, unless a name was given: the old name belongs to the parent process."""
        self._name = self._given_name or random_name()
        self._links, self._is_entered = None, False

    def current_secrets(self) -> Secrets:
        """Return the secrets of the fleet. Once a second at most, look at their file, and whether spans are made."""
        now = time.monotonic()
        if now >= self._looks_at:
            self._refresh(now)
        return self._current

    def _refresh(self, now: float) -> None:
        """Find the present secrets, and whether spans are made. `now` is in seconds."""
        self._looks_at = now + _LOOK_SECONDS
        self._current = self._secrets if isinstance(self._secrets, Secrets) else self._secrets.latest()
        self._is_traced = self._tracing.is_on

    # The run of the manager

    def enter(self) -> None:
        """Begin with a run of the manager.

        Raises `ConfigError` on trio, without the packages of the extra `fleet`, and if another manager runs with it.
        """
        if self._is_entered:
            raise ConfigError("a fleet belongs to one manager; make another one for another manager")
        if anyio.get_cancelled_exc_class() is asyncio.CancelledError:
            self._links = self._new_links()
            self._loop = asyncio.get_running_loop()
        elif self.runs_on_asyncio_only:
            raise ConfigError("a manager with this fleet runs on asyncio only, not on trio")
        self._is_entered = True
        self._directory.open(self._ask)

    def _new_links(self) -> "Links":
        try:
            from .links import Links
        except ModuleNotFoundError as error:
            raise ConfigError(NEEDS_EXTRA.format(error)) from error
        return Links(self._patience, self._tls)

    def report(self, reports: Reports) -> None:
        """Report forwarded requests to the manager of the run that has begun."""
        self._tracing = Tracing(reports)
        self._looks_at = -math.inf

    def leave(self) -> None:
        links, self._links = self._links, None
        self._is_entered = False
        if links is not None and not self._loop.is_closed():  # else all of it has ended with the loop
            self._directory.close()
            links.close()

    async def wait_quiet(self) -> None:
        if self._links is not None:
            await self._links.wait_quiet()

    # Passing on

    def locate(self, session_id: str) -> Awaitable[Peer | None]:
        """Return the other process that the hint of an id names, or None if it names no process of the fleet."""
        name = self._hinted(session_id)
        return _nowhere() if name is None else self._directory.find(name)

    async def locate_again(self, session_id: str, wrong: Peer) -> Peer | None:
        """Return another process than `wrong`, from a fresh look, or None."""
        name = self._hinted(session_id)
        found = None if name is None else await self._directory.find_again(name)
        return None if found == wrong else found

    def _hinted(self, session_id: str) -> str | None:
        """Return the name of the other process in the hint of an id, or None."""
        name = hint_in(session_id)
        return name if name is not None and name != self._name and is_name(name) else None

    def forward(self, peer: Peer, session_id: str, scope: Scope, receive: Receive, send: Send) -> Awaitable[bool]:
        """Pass an exchange on to `peer`, and its answer back.

        Return False, and send nothing, if the session is not there. Raises `PeerUnavailable` if the peer does not
        answer, and always on trio. Nothing was sent then, or the answer stays incomplete.
        """
        links, secrets = self._links, self.current_secrets()
        if links is None:
            raise PeerUnavailable(peer.name, self._patience)
        if self._is_traced:
            return self._forward_traced(links, secrets, peer, session_id, scope, receive, send)
        return links.pass_on(peer, session_id, secrets, scope, receive, send, self._tracing.count)

    async def _forward_traced(
        self,
        links: "Links",
        secrets: Secrets,
        peer: Peer,
        session_id: str,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> bool:
        with self._tracing.forward(scope, send) as answering:
            return await links.pass_on(peer, session_id, secrets, scope, receive, answering, answering.note)

    # Taking

    is_forwarded = staticmethod(taking.is_forwarded)

    def take(self, scope: Scope, receive: Receive, send: Send, serve: Serve) -> Awaitable[None]:
        """Serve an exchange that a peer has passed on. Refuse it with 403 if no peer has signed it.

        If the session is not here, the answer is 421, and the peer looks elsewhere.
        """
        secrets = self.current_secrets()
        serving = partial(self._serve_traced, serve) if self._is_traced else serve
        return taking.take(self._name, secrets, time.time(), scope, receive, send, serving, self._answer_to)

    async def _serve_traced(
        self, serve: Serve, session_id: str, scope: Scope, receive: Receive, send: Send
    ) -> bool | None:
        with self._tracing.take(scope, send) as (traced, answering):
            return await serve(session_id, traced, receive, answering)

    async def _serve_whole(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve an exchange that a peer has passed on by a whole app, whose middleware calls `take`."""
        await taking.serve_whole(self.current_secrets(), time.time(), scope, receive, send, app)

    # Asking, and being asked, for admin tools

    def answer_for(self, manager: SessionManager[object]) -> None:
        """Answer the questions of peers for this manager from now on."""
        self._answer_to = partial(questions.answer_to, manager=manager)

    async def others(self) -> Mapping[str, Peer | None]:
        """Return the other processes by name. None stands for a process that does not say its name now."""
        return {name: peer for name, peer in (await self._directory.everyone()).items() if name != self._name}

    async def ask(self, peer: Peer, ask: str, given: Mapping[str, object]) -> dict[str, object]:
        """Return the answer of a process. Raises `NotAnswered`, and `ConfigError` if a keyword is wrong."""
        if self._links is None:
            raise NotAnswered("this process has left the fleet")
        query = questions.query_of(Question(ask), given)
        try:
            return questions.answer_in(await self._links.put(peer, query, self.current_secrets()))
        except ValueError as error:
            if isinstance(error, ConfigError):
                raise
            raise NotAnswered("its answer is not understood; it may have another version") from error

    async def take_question(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Take what has the form of a question, and serve nothing else."""
        secrets, now = self.current_secrets(), time.time()
        await taking.take(self._name, secrets, now, scope, receive, send, _serve_nothing, self._answer_to)

    async def _ask(self, address: str) -> str | None:
        return None if self._links is None else await self._links.ask(address, self.current_secrets())


async def _nowhere() -> None:
    """Find no process."""


async def _serve_nothing(_session_id: str, _scope: Scope, _receive: Receive, _send: Send) -> bool:
    return False


def _secrets(secret: Secret) -> Secrets | Watched[Secrets]:
    if isinstance(secret, os.PathLike):
        return Watched(Path(secret), _read_secrets)
    several = [secret] if isinstance(secret, (str, bytes)) else secret
    return Secrets(one.encode() if isinstance(one, str) else one for one in several)


def _read_secrets(text: str) -> Secrets:
    return Secrets(line.strip().encode() for line in text.splitlines() if line.strip())
