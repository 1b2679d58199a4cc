"""The command `otel-sessions proxy --workers`: several workers and their parent."""

import os
import socket
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

from otel_sessions._core.exceptions import ConfigError
from otel_sessions._program.exporters import listen_for_prometheus
from otel_sessions._program.flags import naming
from otel_sessions._program.logs import complain
from otel_sessions._program.otlp import exporting
from otel_sessions._program.sockets import listen_as, listen_for_each
from otel_sessions.matchers import Headers
from otel_sessions.sinks._journal import Journal

from . import options
from .command import SERVICE, loop_factory, running
from .peer import Peer
from .server import Proxy
from .settings import Settings
from .worker import WorkerProxy, WorkerSockets, serve
from .workers import WorkersSecret, settings_of_each
from .workers_parent import COULD_NOT_START, Parent


@dataclass(frozen=True, kw_only=True, slots=True)
class _Sockets:
    """The sockets of all workers. `listeners` has those of each worker; several workers may share one."""

    listeners: Sequence[Sequence[socket.socket]]
    health: socket.socket | None
    admin: socket.socket | None
    scraped: socket.socket | None
    peers: Sequence[Path]

    def close(self) -> None:
        shared = [one for one in (self.health, self.admin, self.scraped) if one is not None]
        for one in {one for of_one in (*self.listeners, shared) for one in of_one}:
            one.close()

    def of_worker(self, index: int) -> WorkerSockets:
        """Return a worker's own listeners, those that only others have, and the rest. To be called in the worker only.

        The parent's sockets no longer belong to this process, which must not remove their paths.
        """
        own = self.listeners[index]
        others = {each for of_one in self.listeners for each in of_one if each not in own}
        return WorkerSockets(
            own=[_taken(each) for each in own],
            others=[_taken(each) for each in others],
            health=_taken_if_any(self.health),
            admin=_taken_if_any(self.admin),
            scraped=_taken_if_any(self.scraped),
            peers=self.peers,
        )


def run_workers(settings: Settings, session_data: Callable[[bytes, Headers], Peer] = Peer) -> int:
    """Run several workers until a signal. Return the exit status.

    `session_data` makes the data of sessions, as in `Proxy`. Raises `ConfigError`.
    """
    if not hasattr(os, "fork"):
        raise ConfigError(f"{options.WORKERS.flag} needs a system that can fork")
    loop_factory(settings.loop)
    with tempfile.TemporaryDirectory(prefix="otel-sessions-") as folder:
        secret = WorkersSecret(Path(folder))
        each = settings_of_each(settings, Path(folder), secret.path)
        Proxy(each[0])  # raises for all if a file cannot be used
        _try_exports(each)
        sockets = _open_for_each(settings, [cast("Path", one.peer_listen) for one in each])
        works = [partial(_work, one, session_data, sockets, secret, index) for index, one in enumerate(each)]
        with ExitStack() as opened:
            opened.callback(sockets.close)
            return Parent(works, settings.sessions.shutdown_timeout, sockets.close).run()


def _try_exports(each: Sequence[Settings]) -> None:
    """Raise `ConfigError` if a worker cannot open its file of records, before every worker says so."""
    for one in each:
        if one.export is not None:
            with naming(options.EXPORT.flag, one.export):
                journal = Journal(Path(one.export), max_bytes=one.export_max_bytes, keep=one.export_keep)
                journal.open()
                journal.close()


def _open_for_each(settings: Settings, peers: Sequence[Path]) -> _Sockets:
    """Open the listeners of all workers. At `peers` they listen themselves. Raises `ConfigError`."""
    with ExitStack() as opened:
        by_address = []
        for address in settings.addresses:
            by_address.append(listen_for_each(options.LISTEN.flag, address, settings.workers))
            for each in by_address[-1]:
                opened.callback(each.close)
        health = None if settings.health is None else listen_as(options.HEALTH.flag, settings.health)
        if health is not None:
            opened.callback(health.close)
        admin = None if settings.admin is None else listen_as(options.ADMIN.flag, settings.admin)
        if admin is not None:
            opened.callback(admin.close)
        scraped = listen_for_prometheus(os.environ)
        opened.pop_all()
    listeners = list(zip(*by_address, strict=True))
    return _Sockets(listeners=listeners, health=health, admin=admin, scraped=scraped, peers=peers)


def _work(
    settings: Settings,
    session_data: Callable[[bytes, Headers], Peer],
    sockets: _Sockets,
    secret: WorkersSecret,
    index: int,
    lifeline: int,
) -> int:
    """Be a worker, in its own process. Return the exit status."""
    try:
        secret.restore()
        mine = sockets.of_worker(index)
        with running(settings.loop) as runner, exporting(SERVICE, worker=index + 1):
            runner.run(_serve_worker(lambda: WorkerProxy(settings, mine, session_data), lifeline))
    except (ConfigError, OSError) as error:
        complain(error)
        return COULD_NOT_START
    return 0


async def _serve_worker(make: Callable[[], Proxy], lifeline: int) -> None:
    await serve(make(), lifeline)


def _taken_if_any(inherited: socket.socket | None) -> socket.socket | None:
    return None if inherited is None else _taken(inherited)


def _taken(inherited: socket.socket) -> socket.socket:
    return socket.socket(fileno=inherited.detach())
