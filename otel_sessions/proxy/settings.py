"""What the proxy can be told: by flags, over the environment, over a file, over defaults."""

import argparse
import dataclasses
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from otel_sessions.config import SessionConfig
from otel_sessions.exceptions import ConfigError
from otel_sessions.matchers import SessionMatcher

from .arguments import MATCHERS, MCP, address, count, head, matcher, network, origin, positive, seconds, size, token
from .headers import Trust
from .peer import EndpointMatcher
from .rules import Rules, Timeouts

_ENVIRONMENT_PREFIX: Final = "OTEL_SESSIONS_PROXY_"
_TABLE: Final = "proxy"
_SWITCHES: Final = ("rewrite_host",)
_OWN: Final = (
    *("upstream", "listen", "health", "matcher", "connect_timeout", "idle_timeout", "comment_after", "max_body"),
    *("max_header", "trusted_proxy", "owner_header", "allow_host", "allow_origin", "log_format", *_SWITCHES),
    *("export", "export_max_bytes", "export_keep", "skip", "stream_idle_timeout"),
)
"""The settings that are the proxy's and not the sessions', by their key in a file."""
_SAID: Final = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """A whole proxy: its addresses, how it finds sessions, and what it passes on."""

    listen: tuple[str, int]
    health: tuple[str, int] | None
    upstream: str
    matcher: SessionMatcher
    sessions: SessionConfig
    rules: Rules
    owner_header: str | None
    skip: tuple[str, ...]
    stream_idle_timeout: float | None
    log_format: str
    export: str | None
    export_max_bytes: int
    export_keep: int

    @property
    def tells_upstream(self) -> bool:
        """Whether the upstream has sessions of its own, to be ended with ours."""
        return isinstance(self.matcher, EndpointMatcher)


def preset(arguments: Sequence[str], environ: Mapping[str, str]) -> list[str]:
    """Return the flags that stand for what the environment and the file of `--config` say of the proxy itself.

    `OTEL_SESSIONS_PROXY_LISTEN` goes over `listen` in table `[proxy]`; a flag that is given goes over both. Several
    values are a list there, and are parted by commas in the environment. Raises `ConfigError` and `OSError`.
    """
    table = _table(arguments)
    unknown = [key for key in table if key not in _OWN]
    if unknown:
        raise ConfigError(f"[{_TABLE}] has no key {unknown[0]!r}; it takes {', '.join(_OWN)}")
    flags: list[str] = []
    for key in _OWN:
        flag, text = flag_of(key), environ.get(f"{_ENVIRONMENT_PREFIX}{key.upper()}", "").strip()
        if any(argument.split("=")[0] == flag for argument in arguments):
            continue
        if key in _SWITCHES:
            flags += [flag] if _is_on(key, text or table.get(key, False)) else []
        else:
            value = [part.strip() for part in text.split(",")] if text else table.get(key, [])
            flags += [f"{flag}={one}" for one in (value if isinstance(value, list) else [value])]
    return flags


def _is_on(key: str, value: object) -> bool:
    said = str(value).lower()
    if said not in _SAID:
        raise ConfigError(f"{key} takes true or false, not {said}")
    return _SAID[said]


def _table(arguments: Sequence[str]) -> Mapping[str, object]:
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--config")
    path = finder.parse_known_args(arguments)[0].config
    if path is None:
        return {}
    with open(path, "rb") as file:
        try:
            table = tomllib.load(file).get(_TABLE, {})
        except ValueError as error:
            raise ConfigError(f"{path} is not TOML: {error}") from error
    if not isinstance(table, dict):
        raise ConfigError(f"{path}: {_TABLE} takes a table, [{_TABLE}], not {table!r}")
    return table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the proxy's flags; `read` makes settings of what they are given."""
    add = parser.add_argument
    add("--upstream", required=True, type=origin, metavar="URL", help="the server that requests are passed on to")
    add("--listen", type=address, default=("127.0.0.1", 8080), metavar="HOST:PORT", help="where to listen")
    add("--health", type=address, metavar="HOST:PORT", help="where GET /healthz is answered; nowhere without it")
    add("--matcher", type=matcher, default=MCP, metavar="KIND", help=f"how sessions are found: {MATCHERS}")
    add("--config", metavar="FILE", help="a TOML file with a table [session]")
    add("--connect-timeout", type=positive, default=5.0, metavar="S", help="seconds to connect to the upstream")
    add("--idle-timeout", type=positive, default=300.0, metavar="S", help="seconds to wait for more from either side")
    add("--comment-after", type=seconds, default=30.0, metavar="S", help="of silence in an event stream; 0 for never")
    add("--stream-idle-timeout", type=positive, metavar="S", help="seconds until a silent stream is ended; off without")
    add("--skip", action="append", default=[], metavar="PATH", help="a path that opens no session; * is any text")
    add("--max-body", type=size, default=104857600, metavar="BYTES", help="the largest request body; 0 for no limit")
    add("--max-header", type=head, default=65536, metavar="BYTES", help="the most bytes of a request's head")
    add("--trusted-proxy", type=network, action="append", default=[], metavar="NET", help="who may say X-Forwarded-*")
    add(
        "--owner-header",
        type=token,
        metavar="NAME",
        help="a trusted proxy's header with the user, who owns a session",
    )
    add("--rewrite-host", action="store_true", help="send the upstream its own Host; needs --allow-host")
    add("--allow-host", action="append", default=[], metavar="HOST", help="a Host that is passed on")
    add("--allow-origin", action="append", default=[], metavar="ORIGIN", help="an Origin that is passed on")
    add("--log-format", choices=("text", "json"), default="text", help="how lines on stderr are written")
    add("--export", metavar="FILE", help="write the record of each session that ends there; nowhere without it")
    add("--export-max-bytes", type=count, default=67108864, metavar="BYTES", help="of records, then a new file begins")
    add("--export-keep", type=count, default=4, metavar="N", help="how many older files of records are kept")
    for setting in dataclasses.fields(SessionConfig):
        add(flag_of(setting.name), metavar="X", help=f"of the sessions; by default {_written(setting.default)}")


def read(options: argparse.Namespace, environ: Mapping[str, str]) -> Settings:
    """Return the settings. Raises `ConfigError`, which names the flag, the variable or the key, and `OSError`."""
    if options.rewrite_host and not options.allow_host:
        raise ConfigError("--rewrite-host needs --allow-host: the upstream cannot tell a foreign Host any more")
    if (options.allow_host or options.allow_origin) and not options.rewrite_host:
        raise ConfigError("--allow-host and --allow-origin need --rewrite-host: else the upstream decides on them")
    if options.owner_header and not options.trusted_proxy:
        raise ConfigError("--owner-header needs --trusted-proxy: nobody else's word is taken")
    return Settings(
        listen=options.listen,
        health=options.health,
        upstream=options.upstream,
        matcher=options.matcher,
        sessions=_sessions(options, environ),
        rules=Rules(
            trust=Trust(
                networks=tuple(options.trusted_proxy),
                words=frozenset({options.owner_header.lower().encode("latin-1")} if options.owner_header else ()),
            ),
            timeouts=Timeouts(connect=options.connect_timeout, idle=options.idle_timeout),
            rewrites_host=options.rewrite_host,
            allowed_hosts=frozenset(host.lower() for host in options.allow_host),
            allowed_origins=frozenset(options.allow_origin),
            max_body=options.max_body or None,
            max_header=options.max_header,
            comment_after=options.comment_after or None,
        ),
        owner_header=options.owner_header,
        skip=tuple(options.skip),
        stream_idle_timeout=options.stream_idle_timeout,
        log_format=options.log_format,
        export=options.export,
        export_max_bytes=options.export_max_bytes,
        export_keep=options.export_keep,
    )


def _sessions(options: argparse.Namespace, environ: Mapping[str, str]) -> SessionConfig:
    base = SessionConfig() if options.config is None else SessionConfig.from_toml(options.config)
    base = SessionConfig.from_env(environ, base)
    given = {
        setting.name: text
        for setting in dataclasses.fields(SessionConfig)
        if (text := getattr(options, setting.name)) is not None
    }
    for name, text in given.items():
        variable = f"OTEL_SESSIONS_{name.upper()}"
        try:  # a setting in seconds has a longer name there; of the two, one is known
            base = SessionConfig.from_env({variable: text, f"{variable}_SECS": text}, base)
        except ConfigError as error:
            said = str(error).replace(f"{variable}_SECS", flag_of(name)).replace(variable, flag_of(name))
            raise ConfigError(said) from error
    return base


def _written(value: object) -> str:
    return "off" if value is None else str(value).removesuffix(".0").lower()


def flag_of(name: str) -> str:
    return f"--{name.replace('_', '-')}"
