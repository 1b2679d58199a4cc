"""Clients of a store: one server, the primary that Sentinels name, or a Cluster.

What always holds: a client waits for each connection and answer for a limited time, and notes each connection that
ends. A connection whose packets nobody acknowledges ends after this time too. Retries of a Cluster's client stay on:
without them it never learns of a failover.
"""

import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Final

from anyio import TASK_STATUS_IGNORED
from anyio.abc import TaskStatus
from coredis import Redis, RedisCluster, Sentinel
from coredis.connection import (
    BaseConnection,
    ClusterConnection,
    SentinelManagedConnection,
    TCPConnection,
    TCPLocation,
    UnixDomainSocketConnection,
    UnixDomainSocketLocation,
)
from coredis.exceptions import ClusterDownError, ConnectionError  # noqa: A004 - the client's own
from coredis.pool import ClusterConnectionPool, ConnectionPool, SentinelConnectionPool
from coredis.retry import CompositeRetryPolicy, ConstantRetryPolicy, RetryPolicy

from .store_url import StoreUrl

Client = Redis[bytes] | RedisCluster[bytes]

_RETRIES: Final = 2
_RETRY_DELAY: Final = 0.1
"""Seconds; what coredis waits in a Cluster by default."""


class Links:
    """What happens to the connections of one client. `on_lost` is called when there is a connection after a loss."""

    def __init__(self, on_lost: Callable[[], None]) -> None:
        self._on_lost: Final = on_lost
        self._lost = False

    def made(self) -> None:
        """Note a connection that is ready."""
        if self._lost:
            self._lost = False
            self._on_lost()

    def ended(self) -> None:
        """Note a connection that was ready and ended."""
        self._lost = True


@dataclass(frozen=True, kw_only=True)
class Way:
    """How to reach a store. `sentinel` is the name under which the Sentinels know the primary."""

    url: StoreUrl
    cluster: bool = False
    sentinel: str | None = None
    tls: ssl.SSLContext | None = None
    time_limit: float


@contextlib.asynccontextmanager
async def client_of(way: Way, links: Links) -> AsyncIterator[Client]:
    """Yield a client in a block that holds its connections. Raises what coredis raises."""
    async with contextlib.AsyncExitStack() as stack:
        if way.cluster:
            yield await stack.enter_async_context(_cluster(way, links))
        elif way.sentinel is not None:
            sentinels = await stack.enter_async_context(_sentinels(way))
            pool = _SentinelPool(way.sentinel, sentinels, links, **_options(way), **_tcp_options(way.time_limit))
            await pool.get_primary_location()  # raises here, where it is heard of, if no Sentinel answers as one
            yield await stack.enter_async_context(Redis(connection_pool=pool, retry_policy=_once_more()))
        else:
            yield await stack.enter_async_context(_single(way, links))


def _single(way: Way, links: Links) -> Redis[bytes]:
    pool: ConnectionPool[Any]
    if way.url.path is not None:
        pool = ConnectionPool(
            connection_class=_noting(UnixDomainSocketConnection, links),
            location=UnixDomainSocketLocation(way.url.path),
            **_options(way),
        )
    else:
        pool = ConnectionPool(
            connection_class=_noting(TCPConnection, links),
            location=TCPLocation(way.url.servers[0].host, way.url.servers[0].port),
            **_options(way),
            **_tcp_options(way.time_limit),
        )
    return Redis(connection_pool=pool, retry_policy=_once_more())


def _cluster(way: Way, links: Links) -> RedisCluster[bytes]:
    pool = ClusterConnectionPool(
        [TCPLocation(server.host, server.port) for server in way.url.servers],
        connection_class=_noting(ClusterConnection, links),
        skip_full_coverage_check=True,  # one slot without a master must not stop the others
        **_options(way),
        **_tcp_options(way.time_limit),
    )
    policy = CompositeRetryPolicy(
        ConstantRetryPolicy((ClusterDownError,), retries=_RETRIES, delay=_RETRY_DELAY),
        ConstantRetryPolicy((ConnectionError, TimeoutError), retries=_RETRIES, delay=_RETRY_DELAY),
    )
    return RedisCluster(connection_pool=pool, retry_policy=policy)


def _sentinels(way: Way) -> Sentinel[bytes]:
    own: dict[str, Any] = {
        "connect_timeout": way.time_limit,
        "stream_timeout": way.time_limit,
        "ssl_context": tls_of(way),
    }
    return Sentinel([TCPLocation(server.host, server.port) for server in way.url.servers], sentinel_kwargs=own)


def _once_more() -> RetryPolicy:
    return ConstantRetryPolicy((ConnectionError,), retries=_RETRIES, delay=_RETRY_DELAY)


def tls_of(way: Way) -> ssl.SSLContext | None:
    """Return the context for the store's servers, None where they are spoken to in the clear."""
    return (way.tls or ssl.create_default_context()) if way.url.tls else None


def _options(way: Way) -> dict[str, Any]:
    return {
        "username": way.url.username,
        "password": way.url.password,
        "db": way.url.database,
        "ssl_context": tls_of(way),
        "connect_timeout": way.time_limit,
        "stream_timeout": way.time_limit,
    }


def _tcp_options(seconds: float) -> dict[str, Any]:
    """Return what ends a connection whose packets were not acknowledged for this long. Only Linux knows the option."""
    name = getattr(socket, "TCP_USER_TIMEOUT", None)
    return {"socket_keepalive": True, "socket_keepalive_options": {name: int(seconds * 1000)} if name else {}}


def _noting(kind: Any, links: Links) -> Any:
    """Return a class of connections that tells `links` of each one that is ready, and of its end."""

    class Noting(kind):  # type: ignore[misc]
        _was_ready = False

        def __init__(self, *args: object, **options: object) -> None:
            super().__init__(*args, **options)
            self.register_connect_callback(self._note)

        def _note(self, _connection: BaseConnection) -> None:
            self._was_ready = True
            links.made()

        async def run(self, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
            try:
                await super().run(task_status=task_status)
            finally:
                if self._was_ready:
                    links.ended()

    return Noting


class _SentinelPool(SentinelConnectionPool):
    """A pool that makes connections which are noted; coredis has no option for their class."""

    def __init__(self, name: str, sentinels: Sentinel[bytes], links: Links, **options: Any) -> None:
        super().__init__(name, sentinels, **options)
        self._noting: Final = _noting(SentinelManagedConnection, links)

    async def _construct_connection(self) -> SentinelManagedConnection:
        location = await self.get_primary_location()
        connection: SentinelManagedConnection = self._noting(
            location, self.service_name, self.is_primary, **self.connection_kwargs
        )
        return connection
