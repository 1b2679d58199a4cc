"""Where the admin API is, and the token for it.

The settings have the names of the proxy's own. So a command that has the environment or the file of a proxy finds this
proxy. A flag overrides a variable, a variable the file, the file the default.
"""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import urlsplit

from otel_sessions._core.config import no_table, read_file
from otel_sessions._core.exceptions import ConfigError
from otel_sessions._core.options import Expected, Option, from_environ, from_table, require_known, text
from otel_sessions._program.arguments import ADDRESS, FILE, ORIGIN, argument
from otel_sessions._program.flags import CONFIG, described, naming
from otel_sessions.proxy.options import ADMIN, ADMIN_ALLOW_HOST, ADMIN_TOKEN, ADMIN_TOKEN_FILE

DEFAULT: Final = "127.0.0.1:8082"
_EVERYWHERE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # nothing listens here
"""Where to find a server that listens on every address of this machine."""
_TABLE: Final = "admin"


def _url(written: str) -> str:
    """Return the URL of an address, or of a URL without the slash at its end."""
    if written.startswith(("http://", "https://")):
        return ORIGIN.convert(written).rstrip("/")
    try:
        host, port = ADDRESS.convert(written)
    except ValueError:
        raise Expected("HOST:PORT, or a URL with only a scheme, a host, a port and a path") from None
    host = _EVERYWHERE.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


_WHERE: Final[Option[str]] = replace(
    cast("Option[Any]", ADMIN),
    kind=text("HOST:PORT or a URL", _url, secret=True),
    default=DEFAULT,
    unit="HOST:PORT|URL",
    help="the admin API: the address that the proxy has under the same name, or a URL",
)
_TOKEN_FILE: Final = replace(ADMIN_TOKEN_FILE, help="the file with the token of the admin API")
_OPTIONS: Final = (_WHERE, _TOKEN_FILE, ADMIN_TOKEN, ADMIN_ALLOW_HOST)


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """The URL of an admin API without a slash at its end, and the token, None where there is none."""

    url: str
    token: str | None = field(default=None, repr=False)

    @property
    def is_encrypted(self) -> bool:
        return urlsplit(self.url).scheme == "https"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say where the admin API is."""
    group = parser.add_argument_group("where the admin API is")
    group.add_argument(
        CONFIG, type=argument(FILE), metavar="FILE", help="a TOML file with the table [admin] (default: none)"
    )
    for option in (_WHERE, _TOKEN_FILE):
        kind = cast("Option[Any]", option).kind
        group.add_argument(
            option.flag,
            type=argument(kind),
            default=argparse.SUPPRESS,
            metavar=option.unit,
            help=f"{described(option)}; variable {option.variable}",
        )


def read(flags: argparse.Namespace, environ: Mapping[str, str]) -> Target:
    """Return where the admin API is. Raises `ConfigError`, which names the flag, the variable or the key."""
    values: dict[str, Any] = {
        _WHERE.name: _WHERE.usual,
        **_from_file(flags.config),
        **from_environ(_OPTIONS, environ),
        **{option.name: getattr(flags, option.name) for option in (_WHERE, _TOKEN_FILE) if hasattr(flags, option.name)},
    }
    return Target(url=values[_WHERE.name], token=_token(values))


def _from_file(path: str | None) -> dict[str, object]:
    """Return the values in the table of a file. The proxy reads the other tables."""
    if path is None:
        return {}
    with naming(CONFIG, path):
        document = read_file(path)
    table = document.get(_TABLE, {})
    if not isinstance(table, dict):
        raise ConfigError(f"{CONFIG} {path}: {no_table(_TABLE, table)}")
    try:
        require_known(_TABLE, _OPTIONS, table)
        values = from_table(_OPTIONS, table)
    except ConfigError as error:
        raise ConfigError(f"{CONFIG} {path}: {error}") from error
    return {name: value for name, value in values.items() if value is not None}


def _token(values: Mapping[str, Any]) -> str | None:
    """Return the token. A file counts before the token itself, as in the proxy."""
    token, source = values.get(ADMIN_TOKEN.name), ADMIN_TOKEN.variable
    if (file := values.get(_TOKEN_FILE.name)) is not None:
        source = f"{_TOKEN_FILE.flag} {file}"
        with naming(_TOKEN_FILE.flag, file):
            token = Path(file).read_bytes().decode("latin-1").strip()
    if token is None or (token.isascii() and token.isprintable() and token.split() == [token]):
        return cast("str | None", token)
    raise ConfigError(f"{source}: a token has visible ASCII characters and no spaces")
