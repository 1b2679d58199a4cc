"""One of several workers: a proxy that helps the other workers, and answers health checks for all of them.

A worker ends in order if its parent process is gone. Its own numbers can be asked for at the listener of its peers,
which only this user may open.
"""

import asyncio
import json
import os
import signal
import socket
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

from otel_sessions._http.client import CallLimits, Client, Origin, UpstreamError
from otel_sessions.asgi import ASGIApp, Receive, Send
from otel_sessions.matchers import Headers, Scope

from ._uvicorn import Server
from .fellows import ForPeers
from .peer import Peer
from .server import SHUTTING_DOWN, STARTING, Proxy, say
from .serving import Limits
from .settings import Settings

_ASK_SECONDS: Final = 1.0
"""How long a worker may take to say its numbers. A worker that is stopped does not answer."""
_SCRAPE_SECONDS: Final = 3.0
"""How long a worker may take to say its metrics. By default, Prometheus waits for 10 seconds."""
_METRICS: Final = "/metrics"
_SCRAPES: Final = Limits(max_header=16384, head_timeout=10.0, idle_timeout=30.0)
_MOST_SCRAPES: Final = 16
"""How many connections of Prometheus may be open."""

Said = dict[str, str | int]


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerSockets:
    """The listening sockets that a worker has from its parent.

    `own` takes the worker's clients. `others` has the listeners of the other workers' clients. All workers share the
    sockets for health checks, for the admin API, and for Prometheus. `peers` are the paths at which the workers listen
    for each other, in the order of their numbers, which begin with 1.
    """

    own: Sequence[socket.socket]
    others: Sequence[socket.socket]
    health: socket.socket | None
    admin: socket.socket | None
    scraped: socket.socket | None
    peers: Sequence[Path]


class WorkerProxy(Proxy):
    """The proxy of one worker."""

    def __init__(
        self,
        settings: Settings,
        sockets: WorkerSockets,
        session_data: Callable[[bytes, Headers], Peer] = Peer,
    ) -> None:
        super().__init__(settings, listener=sockets.own, health=sockets.health, session_data=session_data)
        self._others = sockets.others
        self._sockets = sockets
        self._addresses_of = {str(number): f"unix:{path}" for number, path in enumerate(sockets.peers, 1)}
        self._siblings = [f"unix:{path}" for path in sockets.peers if path != settings.peer_listen]
        if settings.fleet is not None:
            self._own_socket = cast("Path", settings.peer_listen)
        self._scraped = Server(self._say_metrics, _SCRAPES, _MOST_SCRAPES, _drain_nothing)

    def _for_peers(self, app: ASGIApp) -> ASGIApp:
        assert self._fleet is not None
        return ForPeers(app, self._fleet, self._say_own)

    def _listen_for_admin(self) -> socket.socket | None:
        return self._sockets.admin

    def _listen_for_peers(self) -> socket.socket | None:
        listener = super()._listen_for_peers()
        if self._own_socket is None and isinstance(self.settings.peer_listen, Path):
            self.settings.peer_listen.chmod(0o600)
        return listener

    async def _health_of_all(self) -> Said:
        """Return the sums of all workers that answer, and how many they are."""
        answers = await asyncio.gather(*map(_ask, self._siblings))
        return sum_of([self.health(), *(said for said in answers if said is not None)], len(self._siblings) + 1)

    async def _say_own(self, scope: Scope, _receive: Receive, send: Send) -> None:
        if scope["path"] == _METRICS:
            await _expose(send, await _own_metrics())
        else:
            await say(send, 200, self.health())

    async def _run(
        self,
        listeners: Sequence[socket.socket],
        peers: socket.socket | None,
        admin: socket.socket | None,
    ) -> None:
        if self._sockets.scraped is None:
            await super()._run(listeners, peers, admin)
            return
        with self._sockets.scraped as scraped:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._scraped.serve_on([scraped]))
                await super()._run(listeners, peers, admin)
                self._scraped.stop()

    async def _say_metrics(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        """Answer Prometheus for all workers."""
        from otel_sessions._program.exposition import together

        answers = await asyncio.gather(*map(self._metrics_of, self._addresses_of.values()))
        await _expose(send, together(dict(zip(self._addresses_of, answers, strict=True))))

    async def _metrics_of(self, address: str) -> bytes | None:
        if address == f"unix:{self.settings.peer_listen}":
            return await _own_metrics()
        return await _fetch(address, _METRICS, _SCRAPE_SECONDS)


def sum_of(answers: Sequence[Said], workers: int) -> Said:
    """Return what a health check says, from the answers of some of the workers.

    It is degraded if a worker does not answer, or still starts. Without an answer of a worker, the numbers lack its
    sessions.
    """
    return {
        "status": _word_of({str(said["status"]) for said in answers}, is_whole=len(answers) == workers),
        "active": sum(int(said["active"]) for said in answers),
        "created": sum(int(said["created"]) for said in answers),
        "workers": len(answers),
    }


def _word_of(words: AbstractSet[str], *, is_whole: bool) -> str:
    if SHUTTING_DOWN in words:
        return SHUTTING_DOWN
    if words == {STARTING}:
        return STARTING
    return "ok" if is_whole and words == {"ok"} else "degraded"


async def _own_metrics() -> bytes:
    from otel_sessions._program.exposition import own

    return await asyncio.to_thread(own)


async def _expose(send: Send, text: bytes) -> None:
    from otel_sessions._program.exposition import MEDIA_TYPE

    headers = [(b"content-type", MEDIA_TYPE), (b"content-length", b"%d" % len(text))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": text})


async def _ask(address: str) -> Said | None:
    """Return what a worker says of itself, or None if it does not answer in time."""
    said = await _fetch(address, "/healthz", _ASK_SECONDS)
    answer: Said | None = None if said is None else json.loads(said)
    return answer


async def _fetch(address: str, path: str, seconds: float) -> bytes | None:
    """Return the body of a worker's answer, or None if it does not answer in time."""
    client = Client(Origin(host="localhost", port=0, path=address.removeprefix("unix:")))
    limits = CallLimits(connect_timeout=seconds, head_timeout=seconds, write_timeout=seconds)
    said = b""
    try:
        with client.call(b"GET", path.encode("ascii"), [(b"host", b"localhost")], limits=limits) as call:
            await call.head()
            while part := await call.read(seconds):
                said += part
    except UpstreamError:
        return None
    finally:
        client.close()
    return said


async def _drain_nothing() -> None:
    pass


async def serve(proxy: Proxy, lifeline: int) -> None:
    """Serve until a signal, or until nobody has the other end of the pipe `lifeline` open: the parent is gone."""
    loop = asyncio.get_running_loop()

    def end() -> None:
        loop.remove_reader(lifeline)
        os.kill(os.getpid(), signal.SIGTERM)

    loop.add_reader(lifeline, end)
    try:
        await proxy.serve()
    finally:
        loop.remove_reader(lifeline)
