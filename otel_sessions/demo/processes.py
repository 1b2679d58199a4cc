"""The two processes that the demo starts, and the ports they listen on.

A port is bound here and handed over, so it is known to be free before anything starts, and a request that comes too
early waits instead of failing. Whoever leaves `running`, in whatever way, leaves no process behind.
"""

import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from anyio.abc import Process

HOST = "127.0.0.1"
_STOP_SECONDS = 15.0


class PortTaken(Exception):
    """A port cannot be listened on; the message says which one, why, and what to do."""


def listen(host: str, port: int, flag: str) -> socket.socket:
    """Return a socket that listens on a port, on any free one if it is 0. Raises `PortTaken`."""
    try:
        listener = socket.create_server((host, port), backlog=2048)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
        raise PortTaken(f"cannot listen on {host}:{port}: {reason}; choose another port with {flag}") from error
    # asyncio sets it on sockets of its own making only; without it a body waits 40 ms for the head's acknowledgement.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def url_of(listener: socket.socket) -> str:
    return f"http://{HOST}:{listener.getsockname()[1]}"


class Child:
    """A process that serves on a socket."""

    def __init__(self, process: Process) -> None:
        self._process = process

    @property
    def ended(self) -> bool:
        return self._process.returncode is not None

    async def stop(self) -> str:
        """Tell the process to stop and return what it has said; kill it if it does not within `_STOP_SECONDS`."""
        if not self.ended:
            self._process.terminate()
        said = b""
        with anyio.move_on_after(_STOP_SECONDS):
            assert self._process.stdout is not None
            said = b"".join([chunk async for chunk in self._process.stdout])
            await self._process.wait()
        if not self.ended:
            self._process.kill()
            await self._process.wait()
        return said.decode()


@asynccontextmanager
async def running(module: str, listener: socket.socket, *arguments: str) -> AsyncIterator[Child]:
    """Run a module of this package, which takes over `listener`, for as long as the block lasts.

    In a session of its own, so that Ctrl-C reaches the parent alone and the process is stopped in order.
    """
    descriptor = listener.fileno()
    with listener:
        process = await anyio.open_process(
            [sys.executable, "-m", f"{__package__}.{module}", "--descriptor", str(descriptor), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None,
            pass_fds=[descriptor],
            start_new_session=True,
        )
    child = Child(process)
    try:
        yield child
    finally:
        with anyio.CancelScope(shield=True):
            await child.stop()
            await process.aclose()
