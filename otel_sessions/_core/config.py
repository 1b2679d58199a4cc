"""The settings of a manager: one frozen value, checked once when it is made.

Every `SessionConfig` is valid. Each field describes its own option, and `SESSION_OPTIONS` collects the options. Files,
variables, flags and the documentation are made from these options.
"""

import dataclasses
import logging
import os
import tomllib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, Self, cast

from .events import Event
from .exceptions import ConfigError
from .options import (
    CAP,
    COUNT,
    FROM_ZERO,
    LIMIT,
    POSITIVE,
    PREFIX,
    SECONDS,
    SESSION,
    SWITCH,
    Kind,
    Option,
    from_environ,
    from_table,
    require_known,
    unknown_variables,
    word,
)
from .words import PerClientAtCap

_logger = logging.getLogger("otel_sessions")

_OF_THE_PROGRAMS: Final = tuple(f"{PREFIX}{program}_" for program in ("PROXY", "ADMIN", "FLEET", "DEMO"))
"""Prefixes of the variables that our programs read themselves."""
_WORD_AT_CAP: Final = word(PerClientAtCap, PerClientAtCap)

_told: Final[set[str]] = set()
"""The unknown variables that were logged already."""


def check_limit(key: str, value: object) -> float | None:
    """Return `value` as a limit in seconds, or None for off. Raises `ConfigError` if `value` is neither."""
    return LIMIT.check(key, value)


def check_seconds(key: str, value: object) -> float:
    """Return `value` as seconds. Raises `ConfigError` if `value` is not a positive, finite number."""
    return cast("float", POSITIVE.check(key, value))


def check_count(key: str, value: object) -> int:
    """Return `value` as a count. Raises `ConfigError` if `value` is not a whole number of at least 1."""
    return cast("int", COUNT.check(key, value))


def _option(kind: Kind[Any], unit: str, help: str) -> dict[str, object]:  # noqa: A002  # argparse's own word for it
    """Return the metadata of a field, from which its `Option` is made."""
    return {"kind": kind, "unit": unit, "help": help}


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionConfig:
    """The settings of a `SessionManager`. Times are in seconds; None switches a limit off.

    - `cleanup_interval`: the time from one interval pass to the next.
    - `max_idle_time`: an unleased session that has been idle for this long is stale.
    - `max_session_age`: a session of this age is expired, leased or not.
    - `max_sessions`: the cap on reserved, live and closing sessions together.
    - `cleanup_on_shutdown`: whether close hooks run at shutdown.
    - `emergency_idle_time`, `emergency_session_age`: the limits of an emergency pass, which runs when the cap is
      reached. An emergency limit above its normal limit acts as the normal limit, for every session.
    - `max_sessions_per_client`: the cap on the sessions of one `client`, counted as for `max_sessions`.
    - `close_timeout`: how long one close hook or export may take, and how long a creator waits for a place.
    - `close_concurrency`: for how many sessions exports and close hooks run at once.
    - `drain_timeout`: how long holders keep an expired session, and any session at shutdown.
    - `shutdown_timeout`: the longest time that a shutdown takes, drain and hooks included.
    - `max_unused_time`: a second idle limit, for a session that has had neither a second lease nor a touch. The session
      ends as `idle_timeout`. This limit also holds for sessions with a `max_idle_time` of their own.
    - `per_client_at_cap`: what happens when a client at its cap asks for one more session. `"refuse"` refuses the
      session. `"evict_oldest"` ends the client's unleased session that has idled longest, as `evicted`.

    Raises `ConfigError` for a wrong value; the error names the setting and says what the setting takes. Warns with a
    `UserWarning` if no limit can ever free a place under the cap, or if `"evict_oldest"` has no cap to act on.
    """

    cleanup_interval: float = field(
        default=60.0,
        metadata=_option(POSITIVE, SECONDS, "the time from one cleanup pass to the next"),
    )
    max_idle_time: float | None = field(
        default=3600.0,
        metadata=_option(LIMIT, SECONDS, "an unleased session idle for this long is stale and ends"),
    )
    max_session_age: float | None = field(
        default=86400.0,
        metadata=_option(LIMIT, SECONDS, "a session of this age is expired and ends, leased or not"),
    )
    max_sessions: int | None = field(
        default=1000,
        metadata=_option(CAP, "sessions", "the cap on reserved, live and closing sessions together"),
    )
    cleanup_on_shutdown: bool = field(
        default=True,
        metadata=_option(SWITCH, "true|false", "whether close hooks run at shutdown"),
    )
    emergency_idle_time: float | None = field(
        default=300.0,
        metadata=_option(LIMIT, SECONDS, "at the cap, unleased sessions idle for this long end, longest idle first"),
    )
    emergency_session_age: float | None = field(
        default=3600.0,
        metadata=_option(LIMIT, SECONDS, "at the cap, unleased sessions of this age end, too"),
    )
    max_sessions_per_client: int | None = field(
        default=None,
        metadata=_option(CAP, "sessions", "the cap on the sessions of one client"),
    )
    close_timeout: float = field(
        default=5.0,
        metadata=_option(
            POSITIVE, SECONDS, "the time for a close hook or an export, and for a creator to wait for a place"
        ),
    )
    close_concurrency: int = field(
        default=32,
        metadata=_option(COUNT, "hooks", "how many close hooks run at once"),
    )
    drain_timeout: float = field(
        default=10.0,
        metadata=_option(FROM_ZERO, SECONDS, "how long holders keep an expired session, and any session at shutdown"),
    )
    shutdown_timeout: float = field(
        default=30.0,
        metadata=_option(POSITIVE, SECONDS, "the longest time that a shutdown takes, drain and hooks included"),
    )
    max_unused_time: float | None = field(
        default=None,
        metadata=_option(LIMIT, SECONDS, "an idle limit for a session that has had neither a second lease nor a touch"),
    )
    per_client_at_cap: PerClientAtCap | Literal["refuse", "evict_oldest"] = field(
        default=PerClientAtCap.REFUSE,
        metadata=_option(
            _WORD_AT_CAP,
            "refuse|evict_oldest",
            "whether a client at its cap is refused, or the client's longest idle session ends",
        ),
    )

    def __post_init__(self) -> None:
        for option in SESSION_OPTIONS:
            object.__setattr__(self, option.name, option.kind.check(option.name, getattr(self, option.name)))
        limits = (
            *(self.max_idle_time, self.max_session_age, self.max_unused_time),
            *(self.emergency_idle_time, self.emergency_session_age),
        )
        if self.max_sessions is not None and all(limit is None for limit in limits):
            warnings.warn(
                f"max_sessions={self.max_sessions} with every limit off: only a close frees a place; set a limit",
                stacklevel=3,
            )
        if self.per_client_at_cap == PerClientAtCap.EVICT_OLDEST and self.max_sessions_per_client is None:
            warnings.warn("per_client_at_cap does nothing without max_sessions_per_client; set both", stacklevel=3)

    @classmethod
    def from_toml(cls, path: str | os.PathLike[str]) -> Self:
        """Return the settings in the table `[session]` of a TOML file. A field without a key keeps its default.

        A key is the field's name, with `_secs` at the end if the field is in seconds. The text `"off"` stands for None.
        Other tables are ignored. Raises `ConfigError` for an unknown key, a wrong value, or a file that is not TOML.
        Raises `OSError` if the file cannot be read.
        """
        table = read_file(path).get(SESSION, {})
        if not isinstance(table, dict):
            raise ConfigError(f"{os.fspath(path)}: {no_table(SESSION, table)}")
        require_known(SESSION, SESSION_OPTIONS, table)
        settings: dict[str, Any] = from_table(SESSION_OPTIONS, table)
        return cls(**settings)

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ, base: Self | None = None) -> Self:
        """Return `base`, or the defaults if `base` is None, changed by the variables in `environ`.

        A variable is `OTEL_SESSIONS_` and the file's key in capitals, as in `OTEL_SESSIONS_MAX_IDLE_TIME_SECS`. The
        word `off` stands for None. An empty variable counts as unset, as OpenTelemetry specifies for its own variables.
        Raises `ConfigError` for a wrong value; the error names the variable.

        An unknown variable with this prefix is logged once, as a warning. The variables of our programs
        (`OTEL_SESSIONS_PROXY_`, `..._ADMIN_`, `..._FLEET_`, `..._DEMO_`) are left alone. So are the variables that
        Kubernetes sets for a service of this name.
        """
        for name, similar in unknown_variables(SESSION_OPTIONS, environ).items():
            if not name.startswith(_OF_THE_PROGRAMS):
                _tell_once(name, similar)
        settings: dict[str, Any] = from_environ(SESSION_OPTIONS, environ)
        return replace(base if base is not None else cls(), **settings)


SESSION_OPTIONS: Final = tuple(
    Option(name=its.name, table=SESSION, default=its.default, **its.metadata)
    for its in dataclasses.fields(SessionConfig)
)
"""The options of a `SessionConfig`, one for each field."""


def read_file(path: str | os.PathLike[str]) -> dict[str, object]:
    """Return the content of a TOML file. Raises `ConfigError` if it is not TOML, `OSError` if it cannot be read.

    A byte order mark, which some editors write, does not count.
    """
    with open(path, "rb") as file:
        content = file.read()
    try:
        return tomllib.loads(content.decode("utf-8-sig"))
    except RecursionError:
        raise ConfigError(f"{os.fspath(path)} is not TOML: its values are nested too deeply") from None
    except ValueError as error:
        raise ConfigError(f"{os.fspath(path)} is not TOML: {error}") from error


def no_table(name: str, value: object) -> str:
    """Return the error text for a `value` where a table is expected."""
    return f"{name} takes a table, [{name}], not {value!r}"


def _tell_once(variable: str, similar: str) -> None:
    if variable not in _told:
        _told.add(variable)
        _logger.warning("%s", unknown(variable, similar), extra=Event.VARIABLE_UNKNOWN.extra)


def unknown(variable: str, similar: str) -> str:
    """Return the warning about a variable that no setting reads."""
    return f"no setting reads the variable {variable}; did you mean {similar}?"
