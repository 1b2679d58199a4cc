"""The proxy's own options: the values, the default, the unit and the help of each option."""

from typing import Final

from otel_sessions._core.config import SESSION_OPTIONS
from otel_sessions._core.options import (
    COUNT,
    FROM_ZERO,
    LIMIT,
    POSITIVE,
    SECONDS,
    SESSION,
    SWITCH,
    Option,
    several,
    text,
    word,
)
from otel_sessions._http.addresses import Network
from otel_sessions._program.arguments import ADDRESS_OR_OFF, FILE, LISTENER, SERVER, Address
from otel_sessions._program.flags import Tables
from otel_sessions.matchers import SessionMatcher

from .fleet_options import FLEET, FLEET_OPTIONS
from .headers import UnixPeer
from .kinds import BYTES, HEAD, MATCHER_KIND, OWNER, SENDER

_PROXY: Final = "proxy"
_ADMIN: Final = "admin"

UPSTREAM: Final[Option[str]] = Option(
    name="upstream",
    table=_PROXY,
    kind=SERVER,
    default=None,
    required=True,
    unit="URL",
    help="the URL of the server that gets the requests, or unix:PATH for its Unix socket",
)
WORKERS: Final[Option[int]] = Option(
    name="workers",
    table=_PROXY,
    kind=COUNT,
    default=1,
    unit="processes",
    help="the number of processes that serve the addresses together; they divide the cap",
)
UPSTREAM_CA: Final[Option[str | None]] = Option(
    name="upstream_ca",
    table=_PROXY,
    kind=FILE,
    default=None,
    unit="FILE",
    help="the certificates (PEM) of the authorities that an https upstream is checked against, instead of the system's",
)
LISTEN: Final[Option[tuple[Address, ...]]] = Option(
    name="listen",
    table=_PROXY,
    kind=several(LISTENER),
    default="127.0.0.1:8080",
    unit="ADDRESS",
    help="an address to listen on, HOST:PORT or unix:PATH; port 0 is any free port; repeatable",
)
TLS_CERT: Final[Option[str | None]] = Option(
    name="tls_cert",
    table=_PROXY,
    kind=FILE,
    default=None,
    unit="FILE",
    help="the certificate (PEM, with its chain) for TLS on every HOST:PORT of --listen; needs --tls-key",
)
TLS_KEY: Final[Option[str | None]] = Option(
    name="tls_key",
    table=_PROXY,
    kind=FILE,
    default=None,
    unit="FILE",
    help="the private key (PEM, not encrypted) of --tls-cert",
)
HEALTH: Final[Option[tuple[str, int] | None]] = Option(
    name="health",
    table=_PROXY,
    kind=ADDRESS_OR_OFF,
    default=None,
    unit="HOST:PORT",
    help="the address that answers GET /healthz",
)
MATCHER: Final[Option[SessionMatcher]] = Option(
    name="matcher",
    table=_PROXY,
    kind=MATCHER_KIND,
    default="mcp",
    unit="KIND",
    help="how the session of a request is found: mcp, cookie, cookie:NAME or header:NAME",
)
CONNECT_TIMEOUT: Final[Option[float]] = Option(
    name="connect_timeout",
    table=_PROXY,
    kind=POSITIVE,
    default=5.0,
    unit=SECONDS,
    help="the longest time to connect to the upstream",
)
IDLE_TIMEOUT: Final[Option[float]] = Option(
    name="idle_timeout",
    table=_PROXY,
    kind=POSITIVE,
    default=300.0,
    unit=SECONDS,
    help="the longest wait for more data from the client or the upstream",
)
HEAD_TIMEOUT: Final[Option[float]] = Option(
    name="head_timeout",
    table=_PROXY,
    kind=POSITIVE,
    default=30.0,
    unit=SECONDS,
    help="how long the head of a request may take",
)
MAX_CONNECTIONS: Final[Option[int | None]] = Option(
    name="max_connections",
    table=_PROXY,
    kind=COUNT,
    default=None,
    unit="connections",
    help="how many clients' connections may be open; unset: what the descriptors allow, at most 10000",
)
LOOP: Final[Option[str]] = Option(
    name="loop",
    table=_PROXY,
    kind=word(["auto", "uvloop", "asyncio"], str),
    default="auto",
    unit="auto|uvloop|asyncio",
    help="the event loop; auto is uvloop where it is installed",
)
COMMENT_AFTER: Final[Option[float]] = Option(
    name="comment_after",
    table=_PROXY,
    kind=FROM_ZERO,
    default=30.0,
    unit=SECONDS,
    help="the silence after which an event stream gets a comment; 0 for never",
)
STREAM_IDLE_TIMEOUT: Final[Option[float | None]] = Option(
    name="stream_idle_timeout",
    table=_PROXY,
    kind=LIMIT,
    default=None,
    unit=SECONDS,
    help="the silence after which a stream or WebSocket is ended",
)
SKIP: Final[Option[tuple[str, ...]]] = Option(
    name="skip",
    table=_PROXY,
    kind=several(text("a path", str)),
    default=(),
    unit="PATH",
    help="a path whose requests are in no session; * stands for any text; repeatable",
)
MAX_BODY: Final[Option[int]] = Option(
    name="max_body",
    table=_PROXY,
    kind=BYTES,
    default=104857600,
    unit="bytes",
    help="the largest body of a request; 0 for no limit",
)
MAX_HEADER: Final[Option[int]] = Option(
    name="max_header",
    table=_PROXY,
    kind=HEAD,
    default=65536,
    unit="bytes",
    help="the largest head of a request",
)
TRUSTED_PROXY: Final[Option[tuple[Network | UnixPeer, ...]]] = Option(
    name="trusted_proxy",
    table=_PROXY,
    kind=several(SENDER),
    default=(),
    unit="NETWORK",
    help="the address or network of a proxy in front whose X-Forwarded-* headers are trusted, or unix for whoever "
    "connects over a Unix socket; repeatable",
)
OWNER_HEADER: Final[Option[str | None]] = Option(
    name="owner_header",
    table=_PROXY,
    kind=OWNER,
    default=None,
    unit="NAME",
    help="the header in which a trusted proxy names the user; the session belongs to this user",
)
REWRITE_HOST: Final[Option[bool]] = Option(
    name="rewrite_host",
    table=_PROXY,
    kind=SWITCH,
    default=False,
    unit="true|false",
    help="whether the upstream gets its own Host instead of the client's; needs --allow-host",
)
ALLOW_HOST: Final[Option[tuple[str, ...]]] = Option(
    name="allow_host",
    table=_PROXY,
    kind=several(text("the name of a host", str)),
    default=(),
    unit="HOST",
    help="a Host that clients may send with --rewrite-host; repeatable",
)
ALLOW_ORIGIN: Final[Option[tuple[str, ...]]] = Option(
    name="allow_origin",
    table=_PROXY,
    kind=several(text("an origin", str)),
    default=(),
    unit="ORIGIN",
    help="an Origin that clients may send with --rewrite-host; repeatable",
)
LOG_FORMAT: Final[Option[str]] = Option(
    name="log_format",
    table=_PROXY,
    kind=word(["text", "json"], str),
    default="text",
    unit="text|json",
    help="the format of log lines on stderr",
)
EXPORT: Final[Option[str | None]] = Option(
    name="export",
    table=_PROXY,
    kind=FILE,
    default=None,
    unit="FILE",
    help="the file for the records of ended sessions; {worker} in its name stands for the number of the worker",
)
EXPORT_MAX_BYTES: Final[Option[int]] = Option(
    name="export_max_bytes",
    table=_PROXY,
    kind=COUNT,
    default=67108864,
    unit="bytes",
    help="the size at which the file of records is rotated",
)
EXPORT_KEEP: Final[Option[int]] = Option(
    name="export_keep",
    table=_PROXY,
    kind=COUNT,
    default=4,
    unit="files",
    help="the number of rotated files that are kept",
)

PROXY_OPTIONS: Final = (
    *(UPSTREAM, LISTEN, TLS_CERT, TLS_KEY, UPSTREAM_CA, HEALTH, MATCHER),
    *(CONNECT_TIMEOUT, HEAD_TIMEOUT, IDLE_TIMEOUT, COMMENT_AFTER),
    *(STREAM_IDLE_TIMEOUT, SKIP, WORKERS, MAX_CONNECTIONS, LOOP),
    *(MAX_BODY, MAX_HEADER, TRUSTED_PROXY, OWNER_HEADER, REWRITE_HOST, ALLOW_HOST, ALLOW_ORIGIN, LOG_FORMAT),
    *(EXPORT, EXPORT_MAX_BYTES, EXPORT_KEEP),
)
ADMIN: Final[Option[tuple[str, int] | None]] = Option(
    name="admin",
    table=_ADMIN,
    kind=ADDRESS_OR_OFF,
    default=None,
    unit="HOST:PORT",
    help="the address of the admin API; needs a token unless it is a loopback address",
    file_key="listen",
)
ADMIN_TOKEN_FILE: Final[Option[str | None]] = Option(
    name="admin_token_file",
    table=_ADMIN,
    kind=FILE,
    default=None,
    unit="FILE",
    help="the file with the token that requests to the admin API must show",
    file_key="token_file",
)
ADMIN_TOKEN: Final[Option[str | None]] = Option(
    name="admin_token",
    table=_ADMIN,
    kind=text("a secret", str, secret=True),
    default=None,
    unit="TOKEN",
    help="the token itself, if there is no file",
    file_key="token",
    has_flag=False,
)
ADMIN_ALLOW_HOST: Final[Option[tuple[str, ...]]] = Option(
    name="admin_allow_host",
    table=_ADMIN,
    kind=several(text("the name of a host", str)),
    default=(),
    unit="HOST",
    help="a Host that requests to the admin API may name, besides the loopback names on a loopback address; repeatable",
    file_key="allow_host",
)
ADMIN_OPTIONS: Final = (ADMIN, ADMIN_TOKEN_FILE, ADMIN_TOKEN, ADMIN_ALLOW_HOST)
TABLES: Final[Tables] = {_PROXY: PROXY_OPTIONS, SESSION: SESSION_OPTIONS, _ADMIN: ADMIN_OPTIONS, FLEET: FLEET_OPTIONS}
"""The options of a proxy by the tables of its file."""
