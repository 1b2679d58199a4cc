"""What each of several workers gets of the proxy's settings. Pure, but for the folder that the workers share.

The workers are processes of a fleet that know each other by a list. So each worker is a proxy as any other, whose peers
are in a private folder. Shares of a number add up to the number exactly.
"""

import dataclasses
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from otel_sessions.fleet.addresses import random_name

from .settings import WORKER, Settings

_SECRET_BYTES: Final = 32


def settings_of_each(settings: Settings, folder: Path) -> Sequence[Settings]:
    """Return the settings of each worker, and write their secret into `folder`, which only this user may open."""
    count = settings.workers
    secret = folder / "secret"
    secret.touch(mode=0o600)
    secret.write_text(f"{secrets.token_hex(_SECRET_BYTES)}\n", encoding="ascii")
    sockets = {f"{number}-{random_name()}": folder / f"{number}.sock" for number in range(1, count + 1)}
    peers = tuple(f"{name}=unix:{path}" for name, path in sockets.items())
    sessions = shares(settings.sessions.max_sessions, count)
    connections = shares(settings.max_connections, count)
    return [
        dataclasses.replace(
            settings,
            workers=1,
            sessions=dataclasses.replace(settings.sessions, max_sessions=sessions[index]),
            max_connections=connections[index],
            export=export_of(settings.export, index + 1),
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


def export_of(path: str | None, number: int) -> str | None:
    """Return the name of a worker's file of records."""
    return None if path is None else path.replace(WORKER, str(number))
