"""An upstream on loopback whose every byte the test says itself."""

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, cast

from otel_sessions._http.client import Origin


class Peer:
    """One connection that the client has opened."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def heard(self, number: int | None = None) -> bytes:
        """Return the next head, or the next so many bytes."""
        return await (self._reader.readuntil(b"\r\n\r\n") if number is None else self._reader.readexactly(number))

    async def says(self, *pieces: bytes) -> None:
        """Send each piece by itself."""
        for piece in pieces:
            self._writer.write(piece)
            await self._writer.drain()

    async def hangs_up(self) -> None:
        """Close in order, once all is sent."""
        self._writer.close()
        await self._writer.wait_closed()

    def resets(self) -> None:
        """Close without an orderly end, as a process that crashes does."""
        sock = self._writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    async def left(self) -> bytes:
        """Wait until the client has left, and return what it had still said."""
        try:
            return await self._reader.read()
        except ConnectionError:
            return b""


class Upstream:
    """Accepts connections; `peer` waits for the next."""

    def __init__(self) -> None:
        self.peers: Final[list[Peer]] = []
        """All connections that there have been."""
        self._new: asyncio.Queue[Peer] = asyncio.Queue()
        self.origin = Origin()

    async def peer(self) -> Peer:
        return await self._new.get()

    @asynccontextmanager
    async def listening(self, path: Path | None, tls: ssl.SSLContext | None = None) -> AsyncIterator["Upstream"]:
        """Listen on TCP, or on a Unix socket."""
        writers = []

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writers.append(writer)
            peer = Peer(reader, writer)
            self.peers.append(peer)
            self._new.put_nowait(peer)

        if path is None:
            server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=tls)
            self.origin = Origin(host="127.0.0.1", port=cast("int", server.sockets[0].getsockname()[1]))
        else:
            server = await asyncio.start_unix_server(accept, path, ssl=tls)
            self.origin = Origin(path=str(path))
        try:
            yield self
        finally:
            server.close()
            for writer in writers:
                writer.transport.abort()
            await asyncio.sleep(0)
