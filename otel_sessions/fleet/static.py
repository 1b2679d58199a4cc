"""Peers that are known by a list: in code, in a file, or by a name in the DNS that has the address of each process."""

import os
import ssl
import time
from collections.abc import Mapping

from otel_sessions._core.exceptions import ConfigError
from otel_sessions._engine.owners import Peer

from .addresses import peers_by_name, read_address, read_peers
from .dns import Resolved
from .files import Watched
from .peers import Ask, Directory, Peers, Secret


class StaticPeers(Peers):
    """The processes of a fleet without a store, by a list of their names and addresses.

        fleet = StaticPeers({"w1": "http://10.0.0.1:8000", "w2": "http://10.0.0.2:8000"}, name="w1", secret=SECRET)
        manager = SessionManager(fleet=fleet)
        app = SessionLeaseMiddleware(app, manager, McpMatcher(hint=True))

    `peers` maps the name of each process to its address, or is the path of a file with lines as
    `w1=http://10.0.0.1:8000`. The file is read again when it has changed. `name` is the name of this process in the
    list. With `dns`, as `"http://gateway:8000"`, each address of this host is asked for its name, and again when an
    unknown name arrives, once a second at most. `name` may be left out then: it is random.

    `secret` is a secret of at least 16 bytes that all processes share, or several secrets, or the path of a file with
    one secret a line. The first secret signs, all are accepted: to replace a secret, add the new one behind the old one
    everywhere, then put it first everywhere, then remove the old one.

    Forwarded requests may arrive at any listener of the app: the signature is the proof. `patience` is in seconds: a
    peer must take a connection, or give a sign of life, within this time. `tls` is the context for addresses with
    `https`. Runs on asyncio only, and needs the extra `fleet`.

    Raises `ConfigError` if an argument is wrong, or if the list does not name this process.
    """

    def __init__(
        self,
        peers: Mapping[str, str] | os.PathLike[str] | None = None,
        *,
        dns: str | None = None,
        name: str | None = None,
        secret: Secret,
        patience: float = 5.0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        super().__init__(_directory(peers, dns, name), name=name, secret=secret, patience=patience, tls=tls)


def _directory(peers: Mapping[str, str] | os.PathLike[str] | None, dns: str | None, name: str | None) -> Directory:
    if (peers is None) == (dns is None):
        raise ConfigError("StaticPeers takes either a list of peers or dns=")
    if dns is not None:
        return Resolved(read_address(dns))
    if name is None:
        raise ConfigError("a list of peers needs name=, the name of this process in the list")
    if isinstance(peers, Mapping):
        found = peers_by_name(peers)
        listed: Directory = _Listed(found)
    else:
        assert peers is not None
        watched = Watched(peers, lambda text: read_peers(text.splitlines()))
        found = watched.current(time.monotonic())
        listed = _InFile(watched)
    if name not in found:
        raise ConfigError(f"the list of peers does not name this process, {name!r}; it names {', '.join(found)}")
    return listed


class _Listed:
    """A list that never changes."""

    def __init__(self, peers: Mapping[str, Peer]) -> None:
        self._peers = peers

    def open(self, ask: Ask) -> None:
        pass

    def close(self) -> None:
        pass

    async def find(self, name: str) -> Peer | None:
        return self._peers.get(name)

    async def find_again(self, name: str) -> Peer | None:
        return self._peers.get(name)

    async def everyone(self) -> Mapping[str, Peer | None]:
        return self._peers


class _InFile(_Listed):
    """The list in a file."""

    def __init__(self, watched: Watched[dict[str, Peer]]) -> None:
        self._watched = watched

    async def find(self, name: str) -> Peer | None:
        return self._watched.current(time.monotonic()).get(name)

    async def find_again(self, name: str) -> Peer | None:
        return self._watched.latest().get(name)

    async def everyone(self) -> Mapping[str, Peer | None]:
        return self._watched.latest()
