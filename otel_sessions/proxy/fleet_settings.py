"""The settings of a fleet with a store, and the fleet that they describe."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from otel_sessions._core.exceptions import ConfigError
from otel_sessions._core.options import Option
from otel_sessions._core.session import Session
from otel_sessions._program.flags import Values
from otel_sessions.fleet.own_address import is_auto

from . import fleet_options as options
from .kinds import check_address

if TYPE_CHECKING:
    import ssl

    from otel_sessions.fleet import ValkeyFleet
    from otel_sessions.fleet.orphan_hooks import OrphanHook

_NEEDED: Final[Sequence[Option[Any]]] = (options.FLEET_NAME, options.FLEET_ADDRESS, options.FLEET_MAX_SESSIONS)


@dataclass(frozen=True, kw_only=True, slots=True)
class FleetSettings:
    """A fleet that shares one cap and one set of books in a Valkey or Redis.

    Each field means what its flag means, which the settings page of the documentation describes: `url` is `--fleet`,
    `name` is `--fleet-name`, and so on. `lease` is in seconds. Of a `secret_file` and a `secret`, the file counts.
    Raises `ConfigError` without both, and if the address is wrong.
    """

    url: str = field(repr=False)
    name: str
    address: str
    max_sessions: int
    secret_file: str | None = None
    secret: str | None = field(default=None, repr=False)
    lease: float = 15.0
    outage: Literal["open", "closed"] = "open"
    start_share: int = 0
    shards: int = 16
    cluster: bool = False
    sentinel: str | None = None
    ca: str | None = None
    allow_peers: tuple[str, ...] = ()
    farewell: bool = False

    def __post_init__(self) -> None:
        if self.secret_file is None and self.secret is None:
            secret = options.FLEET_SECRET
            raise ConfigError(f"--fleet needs {options.FLEET_SECRET_FILE.flag}, or the variable {secret.variable}")
        check_address(self.address)
        if self.is_auto and self.allow_peers:
            raise ConfigError(
                "--fleet-allow-peers and --fleet-address auto exclude each other: networks have no sockets"
            )

    @property
    def is_auto(self) -> bool:
        """Whether each process chooses where its peers reach it."""
        return is_auto(self.address)

    def fleet(
        self,
        store_tls: "ssl.SSLContext | None",
        peer_tls: "ssl.SSLContext | None",
        describe: Callable[[Session[Any]], bytes] | None,
        on_orphan: "OrphanHook | None",
    ) -> "ValkeyFleet":
        """Return the fleet. Raises `ConfigError` if a value is wrong, or if a package or the secret is missing."""
        from otel_sessions.fleet import ValkeyFleet

        secret = self.secret if self.secret_file is None else Path(self.secret_file)
        assert secret is not None  # one of the two is given
        return ValkeyFleet(
            self.url,
            name=self.name,
            address=self.address,
            secret=secret,
            max_sessions=self.max_sessions,
            lease=self.lease,
            outage=self.outage,
            start_share=self.start_share,
            shards=self.shards,
            describe=describe,
            on_orphan=on_orphan,
            cluster=self.cluster,
            sentinel=self.sentinel,
            tls=store_tls,
            peer_tls=peer_tls,
            allow_peers=self.allow_peers or None,
        )


def fleet_settings(values: Values) -> FleetSettings | None:
    """Return the settings of the fleet, or None if there is no `--fleet`. Raises `ConfigError` if a part is missing."""
    url = values[options.STORE_URL]
    if url is None:
        _require_nothing(values)
        return None
    given = values.of(options.STORE_OPTIONS)
    for needed in _NEEDED:
        if given[needed.name] is None:
            raise ConfigError(f"--fleet needs {needed.flag}")
    del given[options.STORE_URL.name]
    return FleetSettings(url=url, **{name.removeprefix("fleet_"): value for name, value in given.items()})


def _require_nothing(values: Values) -> None:
    """Raise `ConfigError` if a part of a fleet is there without its store."""
    given = values.of(options.STORE_OPTIONS)
    for option in options.STORE_OPTIONS:
        if given[option.name] != option.usual:
            named = option.flag if option.has_flag else option.variable
            raise ConfigError(f"{named} needs --fleet, the URL of the store")
