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
from pathlib import Path
from typing import Final

from otel_sessions._http.client import CallLimits, Client, Origin, UpstreamError
from otel_sessions.asgi import ASGIApp, Receive, Send
from otel_sessions.fleet.addresses import read_peers
from otel_sessions.matchers import Headers, Scope

from .fellows import ForPeers
from .peer import Peer
from .server import SHUTTING_DOWN, Proxy, say
from .settings import Settings

_ASK_SECONDS: Final = 1.0
"""How long a worker may take to say its numbers. A worker that is stopped does not answer."""
_LIMITS: Final = CallLimits(connect_timeout=_ASK_SECONDS, head_timeout=_ASK_SECONDS, write_timeout=_ASK_SECONDS)

Said = dict[str, str | int]


class WorkerProxy(Proxy):
    """The proxy of one worker. `others` are the listeners of the other workers."""

    def __init__(
        self,
        settings: Settings,
        listeners: Sequence[socket.socket],
        others: Sequence[socket.socket],
        health: socket.socket | None,
        session_data: Callable[[bytes, Headers], Peer] = Peer,
    ) -> None:
        super().__init__(settings, listener=listeners, health=health, session_data=session_data)
        self._others = others
        peers = read_peers(settings.peers)
        self._siblings = [peer.address for name, peer in peers.items() if name != settings.peer_name]

    def _for_peers(self, app: ASGIApp) -> ASGIApp:
        return ForPeers(app, self._say_own_health)

    def _listen_for_peers(self) -> socket.socket | None:
        listener = super()._listen_for_peers()
        if isinstance(self.settings.peer_listen, Path):
            self.settings.peer_listen.chmod(0o600)
        return listener

    async def _health_of_all(self) -> Said:
        """Return the sums of all workers that answer, and how many they are."""
        answers = await asyncio.gather(*map(_ask, self._siblings))
        return sum_of([self.health(), *(said for said in answers if said is not None)], len(self._siblings) + 1)

    async def _say_own_health(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        await say(send, 200, self.health())


def sum_of(answers: Sequence[Said], workers: int) -> Said:
    """Return what a health check says, from the answers of some of the workers.

    It is degraded if a worker does not answer. Then the numbers lack the sessions of this worker.
    """
    words = {str(said["status"]) for said in answers}
    whole = "ok" if len(answers) == workers else "degraded"
    return {
        "status": SHUTTING_DOWN if SHUTTING_DOWN in words else whole,
        "active": sum(int(said["active"]) for said in answers),
        "created": sum(int(said["created"]) for said in answers),
        "workers": len(answers),
    }


async def _ask(address: str) -> Said | None:
    """Return what a worker says of itself, or None if it does not answer in time."""
    client = Client(Origin(host="localhost", port=0, path=address.removeprefix("unix:")))
    said = b""
    try:
        with client.call(b"GET", b"/healthz", [(b"host", b"localhost")], limits=_LIMITS) as call:
            await call.head()
            while part := await call.read(_ASK_SECONDS):
                said += part
        answer: Said = json.loads(said)
    except UpstreamError:
        return None
    finally:
        client.close()
    return answer


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
