"""The settings of a proxy, merged from its flags, the environment, a file and the defaults."""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, cast

from otel_sessions._core.config import SESSION_OPTIONS, SessionConfig
from otel_sessions._core.exceptions import ConfigError
from otel_sessions._program.arguments import Address
from otel_sessions._program.flags import Values, add_flags, merged, warnings_of
from otel_sessions.matchers import SessionMatcher

from . import fleet_options, options
from .fleet_settings import FleetSettings, fleet_settings
from .headers import UNIX_PEER, Trust
from .peer import EndpointMatcher
from .rules import Rules, Timeouts

_OPTIONS: Final = (*options.PROXY_OPTIONS, *options.ADMIN_OPTIONS, *fleet_options.FLEET_OPTIONS)
_USUAL: Final = Values({option.name: option.usual for option in _OPTIONS})
WORKER: Final = "{worker}"
"""What stands for the number of the worker in the name of a file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """The settings of a proxy: its addresses, how it finds sessions, and what it passes on.

    The settings page of the documentation describes each setting. The defaults are the same as for the command
    `otel-sessions proxy`. An address is a host and a port, where port 0 means any free port, or the `Path` of a Unix
    socket. `listen` takes one address or several. Raises `ConfigError` if two settings contradict each other.
    """

    listen: Address | tuple[Address, ...] = _USUAL[options.LISTEN]
    tls_cert: str | None = _USUAL[options.TLS_CERT]
    tls_key: str | None = _USUAL[options.TLS_KEY]
    health: tuple[str, int] | None = _USUAL[options.HEALTH]
    upstream: str
    upstream_ca: str | None = _USUAL[options.UPSTREAM_CA]
    matcher: SessionMatcher = _USUAL[options.MATCHER]
    sessions: SessionConfig = field(default_factory=SessionConfig)
    rules: Rules = field(default_factory=lambda: _rules(_USUAL))
    owner_header: str | None = _USUAL[options.OWNER_HEADER]
    skip: tuple[str, ...] = _USUAL[options.SKIP]
    stream_idle_timeout: float | None = _USUAL[options.STREAM_IDLE_TIMEOUT]
    head_timeout: float = _USUAL[options.HEAD_TIMEOUT]
    workers: int = _USUAL[options.WORKERS]
    max_connections: int | None = _USUAL[options.MAX_CONNECTIONS]
    loop: str = _USUAL[options.LOOP]
    log_format: str = _USUAL[options.LOG_FORMAT]
    export: str | None = _USUAL[options.EXPORT]
    export_max_bytes: int = _USUAL[options.EXPORT_MAX_BYTES]
    export_keep: int = _USUAL[options.EXPORT_KEEP]
    peers: tuple[str, ...] = _USUAL[fleet_options.PEERS]
    peers_file: str | None = _USUAL[fleet_options.PEERS_FILE]
    peers_dns: str | None = _USUAL[fleet_options.PEERS_DNS]
    peer_name: str | None = _USUAL[fleet_options.PEER_NAME]
    peer_listen: Address | None = _USUAL[fleet_options.PEER_LISTEN]
    peer_secret_file: str | None = _USUAL[fleet_options.PEER_SECRET_FILE]
    peer_tls_cert: str | None = _USUAL[fleet_options.PEER_TLS_CERT]
    peer_tls_key: str | None = _USUAL[fleet_options.PEER_TLS_KEY]
    peer_ca: str | None = _USUAL[fleet_options.PEER_CA]
    fleet: FleetSettings | None = None
    admin: tuple[str, int] | None = _USUAL[options.ADMIN]
    admin_token_file: str | None = _USUAL[options.ADMIN_TOKEN_FILE]
    admin_token: str | None = field(default=_USUAL[options.ADMIN_TOKEN], repr=False)
    admin_allow_host: tuple[str, ...] = _USUAL[options.ADMIN_ALLOW_HOST]

    def __post_init__(self) -> None:
        _require_consistent(self)

    @property
    def addresses(self) -> tuple[Address, ...]:
        """The addresses to listen on."""
        listen: object = self.listen
        if isinstance(listen, tuple) and not (len(listen) == 2 and isinstance(listen[0], str)):
            return listen
        return (cast("Address", listen),)

    @property
    def has_peers(self) -> bool:
        """Whether the proxy belongs to a fleet."""
        return self.peer_listen is not None or self.fleet is not None

    @property
    def tells_upstream(self) -> bool:
        """Whether the upstream makes its own sessions, which the proxy ends together with its sessions."""
        return isinstance(self.matcher, EndpointMatcher)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the proxy's flags. `read` makes settings from the parsed flags."""
    add_flags(parser, options.TABLES)


def read(flags: argparse.Namespace, environ: Mapping[str, str]) -> Settings:
    """Return the settings. Raises `ConfigError`, which names the flag, the variable or the key, if a value is wrong."""
    values = merged(options.TABLES, flags, environ)
    return Settings(
        listen=values[options.LISTEN],
        tls_cert=values[options.TLS_CERT],
        tls_key=values[options.TLS_KEY],
        health=values[options.HEALTH],
        upstream=values[options.UPSTREAM],
        upstream_ca=values[options.UPSTREAM_CA],
        matcher=values[options.MATCHER],
        sessions=SessionConfig(**values.of(SESSION_OPTIONS)),
        rules=_rules(values),
        owner_header=values[options.OWNER_HEADER],
        skip=values[options.SKIP],
        stream_idle_timeout=values[options.STREAM_IDLE_TIMEOUT],
        head_timeout=values[options.HEAD_TIMEOUT],
        workers=values[options.WORKERS],
        max_connections=values[options.MAX_CONNECTIONS],
        loop=values[options.LOOP],
        log_format=values[options.LOG_FORMAT],
        export=values[options.EXPORT],
        export_max_bytes=values[options.EXPORT_MAX_BYTES],
        export_keep=values[options.EXPORT_KEEP],
        peers=values[fleet_options.PEERS],
        peers_file=values[fleet_options.PEERS_FILE],
        peers_dns=values[fleet_options.PEERS_DNS],
        peer_name=values[fleet_options.PEER_NAME],
        peer_listen=values[fleet_options.PEER_LISTEN],
        peer_secret_file=values[fleet_options.PEER_SECRET_FILE],
        peer_tls_cert=values[fleet_options.PEER_TLS_CERT],
        peer_tls_key=values[fleet_options.PEER_TLS_KEY],
        peer_ca=values[fleet_options.PEER_CA],
        fleet=fleet_settings(values),
        admin=values[options.ADMIN],
        admin_token_file=values[options.ADMIN_TOKEN_FILE],
        admin_token=values[options.ADMIN_TOKEN],
        admin_allow_host=values[options.ADMIN_ALLOW_HOST],
    )


def unread_variables(environ: Mapping[str, str]) -> list[str]:
    """Return a warning for each variable with our prefix that no setting reads."""
    return warnings_of(options.TABLES, environ)


def _require_consistent(settings: Settings) -> None:
    _require_addresses(settings)
    _require_whole_fleet(settings)
    _require_room_for_workers(settings)
    rules, owner = settings.rules, settings.owner_header
    rewrites, hosts, origins = rules.rewrite_host, rules.allow_host, rules.allow_origin
    if rewrites and not hosts:
        raise ConfigError("--rewrite-host needs --allow-host: the upstream no longer sees the client's Host")
    if (hosts or origins) and not rewrites:
        raise ConfigError("--allow-host and --allow-origin need --rewrite-host: without it, the upstream checks them")
    if owner and rules.trust.is_empty:
        raise ConfigError("--owner-header needs --trusted-proxy: the header counts only if a trusted proxy sends it")
    if owner and owner.lower().encode("latin-1") not in rules.trust.words:
        raise ConfigError("owner_header must be in rules.trust.words: otherwise a client could send it to the upstream")


def _require_addresses(settings: Settings) -> None:
    addresses = settings.addresses
    if not addresses:
        raise ConfigError("--listen takes at least one address")
    for address in addresses:
        if not _is_address(address):
            raise ConfigError(f"listen takes a host and a port, or the Path of a Unix socket, not {address!r}")
    _require_both("--tls", settings.tls_cert, settings.tls_key)
    if settings.tls_cert is not None and all(isinstance(address, Path) for address in addresses):
        raise ConfigError("--tls-cert needs a --listen HOST:PORT: a Unix socket has no TLS")
    if settings.upstream_ca is not None and not settings.upstream.startswith("https://"):
        raise ConfigError("--upstream-ca needs an --upstream that starts with https://")


def _require_both(prefix: str, cert: str | None, key: str | None) -> None:
    if (cert is None) is not (key is None):
        given, missing = ("key", "cert") if cert is None else ("cert", "key")
        raise ConfigError(f"{prefix}-{given} needs {prefix}-{missing}")


def _require_whole_fleet(settings: Settings) -> None:
    """Raise `ConfigError` if a part of a fleet is there without the others."""
    lists = (settings.peers, settings.peers_file, settings.peers_dns)
    rest = {"listen": settings.peer_listen, "secret-file": settings.peer_secret_file, "name": settings.peer_name}
    rest |= {"tls-cert": settings.peer_tls_cert, "tls-key": settings.peer_tls_key, "ca": settings.peer_ca}
    given = {f"--peer-{name}" for name, value in rest.items() if value is not None}
    if settings.fleet is not None:
        _require_store_alone(settings, any(lists), given)
    elif any(lists):
        _require_whole_list(settings, given)
    elif given:
        raise ConfigError(f"{min(given)} needs --peers, --peers-file, --peers-dns or --fleet")
    _require_both("--peer-tls", settings.peer_tls_cert, settings.peer_tls_key)
    if settings.peer_tls_cert is not None and not isinstance(settings.peer_listen, tuple):
        raise ConfigError("--peer-tls-cert needs a --peer-listen HOST:PORT: a Unix socket has no TLS")


def _require_whole_list(settings: Settings, given: set[str]) -> None:
    """Raise `ConfigError` if a fleet whose processes stand in a list is not described as a whole."""
    if len(list(filter(None, (settings.peers, settings.peers_file, settings.peers_dns)))) > 1:
        raise ConfigError("--peers, --peers-file and --peers-dns are three ways to say the same; give one of them")
    for needed in ("--peer-listen", "--peer-secret-file"):
        if needed not in given:
            raise ConfigError(f"a fleet needs {needed}")
    if settings.peer_name is None and settings.peers_dns is None:
        raise ConfigError("a list of peers needs --peer-name, the name of this process in the list")


def _require_store_alone(settings: Settings, has_list: bool, given: set[str]) -> None:
    """Raise `ConfigError` if a fleet with a store also has a list of peers, or something is missing."""
    if has_list:
        raise ConfigError("--fleet and a list of peers exclude each other: the store has the list")
    if "--peer-name" in given or "--peer-secret-file" in given:
        raise ConfigError("--fleet has a name and a secret of its own: leave out --peer-name and --peer-secret-file")
    is_auto = settings.fleet is not None and settings.fleet.is_auto
    if "--peer-listen" in given and is_auto:
        raise ConfigError("--peer-listen and --fleet-address auto exclude each other: auto is a socket of its own")
    if "--peer-listen" not in given and not is_auto:
        raise ConfigError("--fleet needs --peer-listen, the private address that takes what other proxies pass on")
    if settings.fleet is not None and settings.fleet.farewell and not settings.tells_upstream:
        raise ConfigError("--fleet-farewell needs --matcher mcp: with other matchers the upstream makes no sessions")


def _require_room_for_workers(settings: Settings) -> None:
    """Raise `ConfigError` if the settings cannot be divided among the workers."""
    workers, fleet = settings.workers, settings.fleet
    if workers == 1:
        return
    divided = {"--max-sessions": settings.sessions.max_sessions} if fleet is None else {}
    divided["--max-connections"] = settings.max_connections
    for flag, places in divided.items():
        if places is not None and places < workers:
            raise ConfigError(f"{flag} {places} is too few for --workers {workers}: each worker needs a place")
    if fleet is not None and not fleet.is_auto:
        raise ConfigError(
            "--workers and --fleet exclude each other, but with --fleet-address auto: one address is one process"
        )
    if fleet is None and settings.has_peers:
        raise ConfigError("--workers and --peers exclude each other: a list of peers names processes, not machines")
    if settings.export is not None and WORKER not in settings.export:
        raise ConfigError(f"--export needs {WORKER} in its name with --workers: each worker writes a file of its own")


def export_of(path: str | None, number: int) -> str | None:
    """Return the name of a worker's file of records."""
    return None if path is None else path.replace(WORKER, str(number))


def _is_address(address: object) -> bool:
    if isinstance(address, tuple):
        return len(address) == 2 and isinstance(address[0], str) and isinstance(address[1], int)
    return isinstance(address, Path)


def _rules(values: Values) -> Rules:
    owner, origins = values[options.OWNER_HEADER], values[options.ALLOW_ORIGIN]
    return Rules(
        trust=Trust(
            networks=tuple(one for one in values[options.TRUSTED_PROXY] if one != UNIX_PEER),
            unix=UNIX_PEER in values[options.TRUSTED_PROXY],
            words=frozenset({owner.lower().encode("latin-1")} if owner else ()),
        ),
        timeouts=Timeouts(connect_timeout=values[options.CONNECT_TIMEOUT], idle_timeout=values[options.IDLE_TIMEOUT]),
        rewrite_host=values[options.REWRITE_HOST],
        allow_host=frozenset(host.lower() for host in values[options.ALLOW_HOST]),
        allow_origin=frozenset(origins),
        max_body=values[options.MAX_BODY] or None,
        max_header=values[options.MAX_HEADER],
        comment_after=values[options.COMMENT_AFTER] or None,
    )
