"""The options of a proxy that belongs to a fleet: its peers, and the store of a fleet with one cap."""

from typing import Final, Literal

from otel_sessions._core.options import COUNT, POSITIVE, SECONDS, SWITCH, Option, number, several, text, word
from otel_sessions._program.arguments import FILE, LISTENER, Address
from otel_sessions.fleet.addresses import check_name

from .kinds import DNS, NETWORK, PEER, PEER_ADDRESS, STORE

FLEET: Final = "fleet"
_A_NAME: Final = "1 to 32 letters, digits, hyphens and underscores"


def _policy(said: str) -> Literal["open", "closed"]:
    return "open" if said == "open" else "closed"


PEERS: Final[Option[tuple[str, ...]]] = Option(
    name="peers",
    table=FLEET,
    kind=several(PEER),
    default=(),
    unit="NAME=ADDRESS",
    help="a process of the fleet, as w1=http://10.0.0.7:9001 or w1=unix:PATH, this process included; repeatable",
)
PEERS_FILE: Final[Option[str | None]] = Option(
    name="peers_file",
    table=FLEET,
    kind=FILE,
    default=None,
    unit="FILE",
    help="the file with a NAME=ADDRESS in each line; it is read again when it has changed",
)
PEERS_DNS: Final[Option[str | None]] = Option(
    name="peers_dns",
    table=FLEET,
    kind=DNS,
    default=None,
    unit="URL",
    help="the URL whose host has the address of each process in the DNS",
)
PEER_NAME: Final[Option[str | None]] = Option(
    name="peer_name",
    table=FLEET,
    kind=text(_A_NAME, check_name),
    default=None,
    unit="NAME",
    help="the name of this process among its peers; unset with --peers-dns: a random name",
)
PEER_LISTEN: Final[Option[Address | None]] = Option(
    name="peer_listen",
    table=FLEET,
    kind=LISTENER,
    default=None,
    unit="ADDRESS",
    help="the private address, HOST:PORT or unix:PATH, that takes what peers pass on",
)
PEER_SECRET_FILE: Final[Option[str | None]] = Option(
    name="peer_secret_file",
    table=FLEET,
    kind=FILE,
    default=None,
    unit="FILE",
    help="the file with the secret that all of --peers share, one in each line; the first one signs, all are accepted",
)
PEER_TLS_CERT: Final[Option[str | None]] = Option(
    name="peer_tls_cert",
    table=FLEET,
    kind=FILE,
    default=None,
    unit="FILE",
    help="the certificate (PEM, with its chain) for TLS towards peers, at a HOST:PORT; needs its key",
)
PEER_TLS_KEY: Final[Option[str | None]] = Option(
    name="peer_tls_key",
    table=FLEET,
    kind=FILE,
    default=None,
    unit="FILE",
    help="the private key (PEM, not encrypted) of the certificate for peers",
)
PEER_CA: Final[Option[str | None]] = Option(
    name="peer_ca",
    table=FLEET,
    kind=FILE,
    default=None,
    unit="FILE",
    help="the certificates (PEM) of the authorities that https peers are checked against, instead of the system's",
)

STORE_URL: Final[Option[str | None]] = Option(
    name="fleet",
    table=FLEET,
    kind=STORE,
    default=None,
    unit="URL",
    help="the Valkey or Redis of the fleet, as valkeys://store:6379; a password belongs into the variable or a file",
    file_key="url",
)
FLEET_NAME: Final[Option[str | None]] = Option(
    name="fleet_name",
    table=FLEET,
    kind=text(_A_NAME, check_name),
    default=None,
    unit="NAME",
    help="the name of the fleet, the same for all of its proxies",
    file_key="name",
)
FLEET_ADDRESS: Final[Option[str | None]] = Option(
    name="fleet_address",
    table=FLEET,
    kind=PEER_ADDRESS,
    default=None,
    unit="URL",
    help="where others reach this proxy: http://10.0.0.7:9001, unix:PATH, or auto, which is a Unix socket of its own",
    file_key="address",
)
FLEET_SECRET_FILE: Final[Option[str | None]] = Option(
    name="fleet_secret_file",
    table=FLEET,
    kind=FILE,
    default=None,
    unit="FILE",
    help="the file with the secret of the fleet, one in each line; the first one signs, all are accepted",
    file_key="secret_file",
)
FLEET_SECRET: Final[Option[str | None]] = Option(
    name="fleet_secret",
    table=FLEET,
    kind=text("a secret", str, secret=True),
    default=None,
    unit="SECRET",
    help="the secret itself, if there is no file",
    file_key="secret",
    has_flag=False,
)
FLEET_MAX_SESSIONS: Final[Option[int | None]] = Option(
    name="fleet_max_sessions",
    table=FLEET,
    kind=COUNT,
    default=None,
    unit="sessions",
    help="the cap of the whole fleet; --max-sessions is the cap of this proxy",
    file_key="max_sessions",
)
FLEET_LEASE: Final[Option[float]] = Option(
    name="fleet_lease",
    table=FLEET,
    kind=POSITIVE,
    default=15.0,
    unit=SECONDS,
    help="the time without a sign of life after which a proxy is dead and others end its sessions",
    file_key="lease",
)
FLEET_OUTAGE: Final[Option[Literal["open", "closed"]]] = Option(
    name="fleet_outage",
    table=FLEET,
    kind=word(["open", "closed"], _policy),
    default="open",
    unit="open|closed",
    help="what happens without the store: open serves what is here and opens within the last grant; closed does not",
    file_key="outage",
)
FLEET_START_SHARE: Final[Option[int]] = Option(
    name="fleet_start_share",
    table=FLEET,
    kind=number("a whole number of at least 0", lambda value: value >= 0, int),
    default=0,
    unit="sessions",
    help="how many sessions a proxy may have that never reached the store; the cap may then be exceeded",
    file_key="start_share",
)
FLEET_SHARDS: Final[Option[int]] = Option(
    name="fleet_shards",
    table=FLEET,
    kind=COUNT,
    default=16,
    unit="shards",
    help="the number of parts of the store, the same for all; 64 above 200000 sessions",
    file_key="shards",
)
FLEET_CLUSTER: Final[Option[bool]] = Option(
    name="fleet_cluster",
    table=FLEET,
    kind=SWITCH,
    default=False,
    unit="true|false",
    help="whether the store is a Cluster; --fleet then names some of its hosts",
    file_key="cluster",
)
FLEET_SENTINEL: Final[Option[str | None]] = Option(
    name="fleet_sentinel",
    table=FLEET,
    kind=text("the name of a primary", str),
    default=None,
    unit="NAME",
    help="the name under which the Sentinels at --fleet know the primary",
    file_key="sentinel",
)
FLEET_CA: Final[Option[str | None]] = Option(
    name="fleet_ca",
    table=FLEET,
    kind=FILE,
    default=None,
    unit="FILE",
    help="the certificates (PEM) of the authorities that the store is checked against, instead of the system's",
    file_key="ca",
)
FLEET_ALLOW_PEERS: Final[Option[tuple[str, ...]]] = Option(
    name="fleet_allow_peers",
    table=FLEET,
    kind=several(NETWORK),
    default=(),
    unit="NETWORK",
    help="a network, as 10.0.0.0/8, whose addresses get forwarded requests; unset: all; repeatable",
    file_key="allow_peers",
)
FLEET_FAREWELL: Final[Option[bool]] = Option(
    name="fleet_farewell",
    table=FLEET,
    kind=SWITCH,
    default=False,
    unit="true|false",
    help="whether others end the sessions of a dead proxy at the upstream; the store then holds encrypted credentials",
    file_key="farewell",
)

PEER_OPTIONS: Final = (
    *(PEERS, PEERS_FILE, PEERS_DNS, PEER_NAME, PEER_LISTEN, PEER_SECRET_FILE),
    *(PEER_TLS_CERT, PEER_TLS_KEY, PEER_CA),
)
STORE_OPTIONS: Final = (
    *(STORE_URL, FLEET_NAME, FLEET_ADDRESS, FLEET_SECRET_FILE, FLEET_SECRET, FLEET_MAX_SESSIONS, FLEET_LEASE),
    *(FLEET_OUTAGE, FLEET_START_SHARE, FLEET_SHARDS, FLEET_CLUSTER, FLEET_SENTINEL, FLEET_CA),
    *(FLEET_ALLOW_PEERS, FLEET_FAREWELL),
)
FLEET_OPTIONS: Final = (*PEER_OPTIONS, *STORE_OPTIONS)
