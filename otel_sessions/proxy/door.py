"""The door: it accepts connections, as many as may be open, and refuses the others at once.

One door has all listeners of a server. Each listener has a task of its own, so that no listener waits for another. A
connection counts from the moment when it is accepted: TLS handshakes count, too.

A connection that idles gives way to a new one. A process without descriptors for more keeps one in hand, so that a
client is turned away and does not wait. What is refused or gives way is logged once a second at most.
"""

import asyncio
import errno
import logging
import os
import select
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from typing import Final

from otel_sessions._core.events import Event

from .notes import Notes
from .tls import Secured, Tls

_MOST: Final = 10_000
_SPARE: Final = 64
"""Descriptors that are left to the upstream's kept connections, to health, to files and to logs."""
_AT_A_STRETCH: Final = 16
"""How many connections are accepted before others have their turn."""
_HELP_SECONDS: Final = 0.1
"""The time between two looks at the listeners of other workers."""
_NO_DESCRIPTORS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_NO_DESCRIPTOR_LEFT: Final = "the process has no descriptors left"
_SAID: Final = b"too many connections are open\n"
_REFUSAL: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\n"
    b"retry-after: 1\r\nconnection: close\r\n\r\n%s" % (len(_SAID), _SAID)
)

_logger = logging.getLogger("otel_sessions.proxy")


def most_connections() -> int:
    """Return how many connections may be open where no option says it.

    It is 10,000, or half of the descriptors that are left after 64 spare ones, because each connection may need another
    one to the upstream. Of fewer than 128 descriptors half are spare.
    """
    if sys.platform == "win32":
        return _MOST
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return _MOST
    return max(1, min(_MOST, (limit - min(_SPARE, limit // 2)) // 2))


class Door:
    """Accepts connections on listening sockets, which it closes at its end.

    `make` makes the protocol of a connection; `count` says how many are open, of which there may be `most`. `make_room`
    closes a connection that idles, and says whether there was one. A Unix socket never has TLS: the mode of its path
    says who may connect. `others` are listeners of other workers. A connection that waits there is accepted here.
    """

    def __init__(
        self,
        listeners: Sequence[socket.socket],
        make: Callable[[], asyncio.Protocol],
        count: Callable[[], int],
        make_room: Callable[[], bool],
        most: int,
        tls: Tls | None = None,
        others: Sequence[socket.socket] = (),
    ) -> None:
        self._make = make
        self._count = count
        self._make_room = make_room
        self._most = most
        self._tls = tls
        self._arriving = 0
        self._limit_reached = f"{most} are open, which is --max-connections"
        self._in_hand = _open_one()
        self._refused = Notes(_write_refused, seconds=1.0)
        self._closed = Notes(_write_closed, seconds=1.0)
        self._accepting = {asyncio.create_task(self._accept_all(listener)): listener for listener in listeners}
        for task, listener in self._accepting.items():
            listener.setblocking(False)
            task.add_done_callback(self._end)
        self._helping = asyncio.create_task(self._help(others))

    def close(self) -> None:
        """Accept no more, and give up the handshakes that are under way."""
        self._helping.cancel()
        for task in self._accepting:
            task.cancel()
        if self._tls is not None:
            self._tls.give_up()

    def _end(self, task: asyncio.Task[None]) -> None:
        self._accepting.pop(task).close()
        if not self._accepting:
            _close(self._in_hand)
            self._in_hand = None
        if not task.cancelled() and task.exception() is not None:
            _logger.error(
                "no more connections are accepted", exc_info=task.exception(), extra=Event.PROXY_CLOSED_DOOR.extra
            )

    async def _accept_all(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        turns = 0
        while True:
            turns += 1
            if turns % _AT_A_STRETCH == 0:
                await asyncio.sleep(0)
            try:
                connection, _ = await loop.sock_accept(listener)
            except OSError as error:
                if error.errno in _NO_DESCRIPTORS:
                    await self._find_descriptor(listener)
                continue  # or a client has left before it was accepted
            await self._admit(connection, listener)

    async def _help(self, others: Sequence[socket.socket]) -> None:
        """Accept what has waited at another worker's listener for a while: the worker is stopped, gone or too busy."""
        waited: set[socket.socket] = set()
        with ExitStack() as opened:
            for other in others:
                other.setblocking(False)
                opened.enter_context(other)
            while others:
                await asyncio.sleep(_HELP_SECONDS)
                waiting = _with_a_connection(others)
                for listener in waiting & waited:
                    await self._accept_waiting(listener)
                waited = waiting

    async def _accept_waiting(self, listener: socket.socket) -> None:
        for _ in range(_AT_A_STRETCH):
            try:
                connection, _ = listener.accept()
            except OSError:  # no connection waits any more, or no descriptor is left
                return
            await self._admit(connection, listener)

    async def _admit(self, connection: socket.socket, listener: socket.socket) -> None:
        """Let a connection in, or refuse it."""
        tls = None if listener.family not in (socket.AF_INET, socket.AF_INET6) else self._tls
        make = self._make if tls is None else partial(Secured, tls, self._make)
        if self._open >= self._most and not self._has_room(self._limit_reached):
            self._refuse(connection, _REFUSAL if tls is None else b"")
        else:
            self._arriving += 1  # what another listener accepts meanwhile must not pass the limit
            with suppress(OSError):  # a client has left already
                await asyncio.get_running_loop().connect_accepted_socket(make, connection)
            self._arriving -= 1

    @property
    def _open(self) -> int:
        return self._count() + self._arriving + (0 if self._tls is None else self._tls.handshakes)

    def _has_room(self, why: str) -> bool:
        """Let the connection that idles longest give way, and return whether there was one."""
        gives_way = self._make_room()
        if gives_way:
            self._closed.note(why)
        return gives_way

    async def _find_descriptor(self, listener: socket.socket) -> None:
        if self._has_room(_NO_DESCRIPTOR_LEFT):
            await asyncio.sleep(0)  # a connection that gives way closes in the loop's next turn
        else:
            self._shed(listener)

    def _refuse(self, connection: socket.socket, said: bytes) -> None:
        """Say that there are too many. A close with something unread would take the answer with it."""
        with connection, suppress(OSError):
            connection.setblocking(False)
            connection.send(said)
            connection.shutdown(socket.SHUT_WR)
            connection.recv(65536)
        self._refused.note(self._limit_reached)

    def _shed(self, listener: socket.socket) -> None:
        """Accept the one who waits for longest with the descriptor in hand, and close."""
        _close(self._in_hand)
        with suppress(OSError):
            listener.accept()[0].close()
        self._in_hand = _open_one()
        self._refused.note(_NO_DESCRIPTOR_LEFT)


def _write_refused(count: int, why: str) -> None:
    _logger.warning("connections refused: %d; %s", count, why, extra=Event.PROXY_FULL.extra)


def _write_closed(count: int, why: str) -> None:
    _logger.warning("idle connections closed for new ones: %d; %s", count, why, extra=Event.PROXY_FULL.extra)


def _with_a_connection(listeners: Sequence[socket.socket]) -> set[socket.socket]:
    """Return the listeners at which a connection waits."""
    by_descriptor = {listener.fileno(): listener for listener in listeners}
    poll = select.poll()
    for descriptor in by_descriptor:
        poll.register(descriptor, select.POLLIN)
    return {by_descriptor[descriptor] for descriptor, _ in poll.poll(0)}


def _open_one() -> int | None:
    with suppress(OSError):
        return os.open(os.devnull, os.O_RDONLY)
    return None


def _close(descriptor: int | None) -> None:
    if descriptor is not None:
        os.close(descriptor)
