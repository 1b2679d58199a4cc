"""The client of an exchange, by the address that it came from. Pure. `_http.addresses` parses addresses."""

from collections.abc import Sequence
from dataclasses import dataclass

from otel_sessions._core.exceptions import ConfigError
from otel_sessions._http.addresses import Network, client_behind, client_name, read_network
from otel_sessions.matchers import Scope, headers_of


@dataclass(frozen=True, kw_only=True, slots=True)
class ClientAddress:
    """Returns the name of a client by its address, for `client=` of the middleware. `client_address` makes it."""

    trusted: tuple[Network, ...] = ()

    def __call__(self, scope: Scope) -> str | None:
        """Return the client's IPv4 address, or the /64 network of its IPv6 address (`2001:db8::/64`), or None.

        None means that the server gives no address, for example on a Unix socket.
        """
        address = client_behind(sender_of(scope), forwarded_for(scope), self.trusted)
        return None if address is None else client_name(address)


def client_address(*, trusted: Sequence[str] = ()) -> ClientAddress:
    """Return a function that names a client by its address, for `client=` of the middleware.

        SessionLeaseMiddleware(app, manager, client=client_address(trusted=["10.0.0.0/8"]))

    `trusted` are the addresses and networks of the proxies in front. `X-Forwarded-For` counts only if a trusted proxy
    has sent it: its last address that is not trusted is the client's address. Raises `ConfigError`, which names the
    entry, if an entry of `trusted` is not an address or a network.
    """
    if isinstance(trusted, str):
        raise ConfigError(f"trusted takes a list of addresses and networks, not the text {trusted!r}")
    return ClientAddress(trusted=tuple(map(_network, trusted)))


def sender_of(scope: Scope) -> str | None:
    """Return the host that opened the connection, as the server names it, or None if the server names no host."""
    client = scope.get("client")
    return str(client[0]) if isinstance(client, (list, tuple)) and client else None


def forwarded_for(scope: Scope) -> list[str]:
    """Return the entries of all `X-Forwarded-For` headers in their order, without empty entries."""
    lines = headers_of(scope, b"x-forwarded-for")
    return [entry.strip() for line in lines for entry in line.split(",") if entry.strip()]


def _network(text: object) -> Network:
    if not isinstance(text, str):
        raise ConfigError(f"trusted takes addresses and networks as text, as in '10.0.0.0/8', not {text!r}")
    try:
        return read_network(text)
    except ValueError as error:
        raise ConfigError(f"trusted takes addresses and networks, as in '10.0.0.0/8', not {text!r}: {error}") from error
