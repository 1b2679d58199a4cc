"""Peers that are the workers of one machine, and find each other in a folder.

The server of the app starts them, on one port that they share. So each worker has a Unix socket of its own, and runs
the whole app for what peers pass on.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from otel_sessions._engine.owners import Peer

from .addresses import random_name, read_address
from .folder import Folder
from .listening import ListeningPeers
from .peers import Ask


class WorkerPeers(ListeningPeers):
    """The workers of one machine, as `uvicorn --workers 4`, gunicorn and hypercorn start them.

        fleet = WorkerPeers("/run/my-app")
        manager = SessionManager(fleet=fleet)
        app = FastAPI(lifespan=lifespan(manager))
        app.add_middleware(SessionLeaseMiddleware, manager=manager, matcher=CookieMatcher())

    `folder` is the same for all workers, and for no other app. It is made if it is missing, for this user only (0700).
    It holds the secret that the workers share, and one Unix socket (0600) for each worker. A worker that starts removes
    the sockets of workers that are gone. Each worker has a random name, also after a fork.

    The whole app takes what peers pass on: the app to which `lifespan` or `RunManager` belongs, else the app that has
    the middleware. `patience` is in seconds: a peer must take a connection, or give a sign of life, within this time.
    Runs on asyncio only, and needs the extra `fleet`.

    Raises `ConfigError` if the folder cannot be used, or if other users may open it.
    """

    def __init__(self, folder: str | os.PathLike[str], *, patience: float = 5.0) -> None:
        place = Folder(Path(folder))
        read_address(place.address_of(random_name()))  # raises for a path that no address can have
        super().__init__(_InFolder(place), place, name=None, secret=place.secret(), patience=patience)


class _InFolder:
    """The workers whose sockets are in a folder."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder

    def open(self, ask: Ask) -> None:
        pass

    def close(self) -> None:
        pass

    async def find(self, name: str) -> Peer | None:
        return Peer(name=name, address=self._folder.address_of(name)) if self._folder.has(name) else None

    async def find_again(self, name: str) -> Peer | None:
        return await self.find(name)

    async def everyone(self) -> Mapping[str, Peer | None]:
        return {name: await self.find(name) for name in self._folder.names()}
