"""What each of several workers gets of the proxy's settings, and the secret that they share.

Each worker is a proxy as any other, and a process of a fleet: of the fleet with a store if the settings have one, else
of a fleet of the workers alone, who know each other by a list. Their sockets are in a private folder. Shares of a
number add up to the number exactly.
"""

import dataclasses
import logging
import os
import secrets
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from otel_sessions._core.events import Event
from otel_sessions.fleet.addresses import random_name

from .own_sockets import sockets_of_workers, with_socket
from .settings import Settings, export_of

_logger = logging.getLogger("otel_sessions.proxy")

_SECRET_BYTES: Final = 32


class WorkersSecret:
    """The secret of the workers, in a file of a folder that only this user may open.

    The file may be replaced, and the workers read it again. If it is gone when a worker starts, as some systems clean
    up folders of temporary files, the first secret is there again: the workers that go on still have it.
    """

    def __init__(self, folder: Path) -> None:
        self.path: Final = folder / "secret"
        self._first = f"{secrets.token_hex(_SECRET_BYTES)}\n"
        self._write()

    def restore(self) -> None:
        """Write the secret again if it is gone. Several workers may do so at once."""
        if self.path.exists():
            return
        _logger.warning(
            "the secret of the workers was gone, and is written again: %s", self.path, extra=Event.FLEET_FILE_KEPT.extra
        )
        self.path.parent.mkdir(mode=0o700, exist_ok=True)
        self._write()

    def _write(self) -> None:
        """Write the file, unless it is there. Nobody sees it half written."""
        own = self.path.with_name(f"secret-{os.getpid()}")
        own.touch(mode=0o600)
        own.write_text(self._first, encoding="ascii")
        with suppress(FileExistsError):
            os.link(own, self.path)
        own.unlink()


def settings_of_each(settings: Settings, folder: Path, secret: Path) -> Sequence[Settings]:
    """Return the settings of each worker. Their sockets are in `folder`, which only this user may open.

    With a store, `--fleet-address` may name another folder. Raises `ConfigError` if that folder cannot be used.
    """
    count = settings.workers
    connections = shares(settings.max_connections, count)
    one = dataclasses.replace(settings, workers=1)
    each = _listed(one, count, folder, secret) if settings.fleet is None else _members(one, count, folder)
    return [
        dataclasses.replace(worker, max_connections=connections[index], export=export_of(settings.export, index + 1))
        for index, worker in enumerate(each)
    ]


def _members(settings: Settings, count: int, folder: Path) -> Sequence[Settings]:
    """Return the settings of workers in a fleet with a store. The places are the fleet's, and are not divided."""
    assert settings.fleet is not None
    return [with_socket(settings, path) for path in sockets_of_workers(settings.fleet.address, count, folder)]


def _listed(settings: Settings, count: int, folder: Path, secret: Path) -> Sequence[Settings]:
    """Return the settings of workers who are a fleet by themselves, with the places divided among them."""
    sockets = {f"{number}-{random_name()}": folder / f"{number}.sock" for number in range(1, count + 1)}
    peers = tuple(f"{name}=unix:{path}" for name, path in sockets.items())
    places = shares(settings.sessions.max_sessions, count)
    return [
        dataclasses.replace(
            settings,
            sessions=dataclasses.replace(settings.sessions, max_sessions=places[index]),
            peers=peers,
            peer_name=name,
            peer_listen=path,
            peer_secret_file=str(secret),
        )
        for index, (name, path) in enumerate(sockets.items())
    ]


def shares(total: int | None, count: int) -> Sequence[int | None]:
    """Return `count` whole numbers that add up to `total`, or as many times None. The first ones may be larger by 1."""
    if total is None:
        return [None] * count
    each, rest = divmod(total, count)
    return [each + (index < rest) for index in range(count)]
