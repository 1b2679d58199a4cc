"""The fleet that users make: processes that share one cap and one set of books in a Valkey or Redis."""

import ssl
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from otel_sessions._core.exceptions import ConfigError
from otel_sessions._core.session import Session

from .orphan_hooks import OrphanHook
from .outage import Policy
from .peers import NEEDS_EXTRA, Secret
from .shared import Setup, StoreFleet

if TYPE_CHECKING:
    from .valkey import ValkeyStore


class ValkeyFleet(StoreFleet):
    """The processes of a fleet that share one cap and one set of books in a Valkey or Redis.

        fleet = ValkeyFleet("valkeys://store:6379", name="gateway", address="https://10.0.0.7:9001", secret=SECRET,
                            max_sessions=1_000_000, on_orphan=delete_upstream)
        async with SessionManager(config, fleet=fleet) as manager:
            ...

    `url` names the store: `valkey://`, `valkeys://`, `redis://`, `rediss://` or `unix://`; with `cluster` several hosts
    of a Cluster, with `sentinel` the hosts of Sentinels that know the primary by this name. `name` is the name of the
    fleet, the same for all processes, as are `secret`, `max_sessions` (the cap of the whole fleet), `lease` and
    `shards`. The name of this process is random, and new in each run.

    `address` is where this process takes forwarded requests, as `https://10.0.0.7:9001` or `unix:/run/gateway.sock`. It
    leads to this process only. Where a server starts several workers on one port, each worker can listen by itself:
    with `"auto"` at a Unix socket, which processes of this machine reach; with port 0, as in `http://10.0.0.7:0`, at a
    free port. The whole app runs there, as with `WorkerPeers`, on asyncio only, and without TLS. The sockets are in
    `/run/otel-sessions`, or in the folder `otel-sessions` of `$XDG_RUNTIME_DIR`; `"auto:/run/my-app"` names another
    folder. The folder is open to this user only. A process that starts removes the sockets of dead processes.

    A process that gives no sign of life for `lease` seconds is dead: another process ends its sessions. For each
    session, it awaits `on_orphan(orphan)`, for at most the manager's `close_timeout`. The hook may run again for a
    session, with a larger `orphan.token` each time. `describe(session)` returns up to 512 bytes that the hook gets as
    `orphan.blob`. The store keeps these bytes as they are. If `describe` raises or returns more, the blob is empty.

    `outage` says what happens while the store does not answer. `"open"`: the process serves what it has, and makes
    sessions within its last grant. `"closed"`: it makes none, and serves none after its lease. `start_share` is the
    grant of a process that never reached the store; with it, the cap may be exceeded.

    `allow_peers` are networks, as `10.0.0.0/8`: requests are forwarded to addresses in them only. `patience` is in
    seconds: a peer must take a connection, or give a sign of life, within this time. `tls` is the context for the store
    and for addresses with `https`; `peer_tls` replaces it for these addresses. On trio no request is forwarded: it gets
    503 where another process has its session. Needs the extra `fleet`.

    Raises `ConfigError` if an argument is wrong, or if the folder of `auto` cannot be used. The entry of the manager
    raises `ConfigError` if the store refuses the user name or the password, may not be used by this user, is too old,
    or evicts keys. It does so, too, if the store is of another kind than was given, a replica or no store, or if TLS
    fails, or if this process is to listen and cannot. A store that is away is no error.
    """

    def __init__(
        self,
        url: str,
        *,
        name: str,
        address: str,
        secret: Secret,
        max_sessions: int,
        lease: float = 15.0,
        outage: Policy = "open",
        start_share: int = 0,
        shards: int = 16,
        describe: Callable[[Session[Any]], bytes] | None = None,
        on_orphan: OrphanHook | None = None,
        cluster: bool = False,
        sentinel: str | None = None,
        patience: float = 5.0,
        tls: ssl.SSLContext | None = None,
        peer_tls: ssl.SSLContext | None = None,
        allow_peers: Sequence[str] | None = None,
    ) -> None:
        def new_store(on_lost: Callable[[], None], time_limit: float) -> "ValkeyStore":
            try:
                from .valkey import ValkeyStore
            except ModuleNotFoundError as error:
                raise ConfigError(NEEDS_EXTRA.format(error)) from error
            return ValkeyStore(url, cluster=cluster, sentinel=sentinel, tls=tls, time_limit=time_limit, on_lost=on_lost)

        setup = Setup(
            name=name,
            address=address,
            max_sessions=max_sessions,
            lease=lease,
            outage=outage,
            start_share=start_share,
            shards=shards,
            allow_peers=allow_peers,
        )
        super().__init__(
            new_store,
            setup,
            secret=secret,
            describe=describe,
            on_orphan=on_orphan,
            patience=patience,
            tls=peer_tls or tls,
        )
        new_store(lambda: None, 1.0)  # raises for a URL that is wrong
