"""The listener where a worker takes what its peers pass on, beside the server that serves the app. asyncio only.

uvicorn's protocols speak HTTP and WebSocket on it. It needs the extra `fleet`.
"""

import asyncio
import socket
from typing import Final

import uvicorn
from uvicorn.server import ServerState

from otel_sessions.asgi import ASGIApp

_KEPT_SECONDS: Final = 3600
"""How long a peer's connection may idle. The peer closes it when it ends."""


class Listener:
    """Serves `app` on a listening socket, from now on until `close`."""

    def __init__(self, listening: socket.socket, app: ASGIApp) -> None:
        self._listening = listening
        self._config = uvicorn.Config(
            app,
            interface="asgi3",
            http="httptools",
            ws="websockets-sansio",
            ws_per_message_deflate=False,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            proxy_headers=False,
            timeout_keep_alive=_KEPT_SECONDS,
        )
        self._config.load()
        self._state = ServerState()
        self._server: asyncio.Server | None = None
        self._opening = asyncio.create_task(self._open(), name="otel-sessions workers")

    def close(self) -> None:
        """Accept no more. Connections close as soon as nothing is under way."""
        self._opening.cancel()
        if self._server is not None:
            self._server.close()
        self._listening.close()
        for connection in list(self._state.connections):
            connection.shutdown()

    def forget(self) -> None:
        """Close this process's copy of the socket, since the listener belongs to the parent process."""
        self._listening.close()

    async def _open(self) -> None:
        loop = asyncio.get_running_loop()
        is_tcp = self._listening.family in (socket.AF_INET, socket.AF_INET6)
        serve = loop.create_server if is_tcp else loop.create_unix_server
        self._server = await serve(self._protocol, sock=self._listening)

    def _protocol(self) -> asyncio.Protocol:
        protocol: asyncio.Protocol = self._config.http_protocol_class(  # type: ignore[call-arg]
            config=self._config, server_state=self._state, app_state={}
        )
        return protocol
