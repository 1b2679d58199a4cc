"""The settings of a manager: one frozen value, checked once when it is made.

Whoever holds a `SessionConfig` holds a valid one. Files and the environment are read here and nowhere else; programs
take a flag over the environment over a file over the defaults.
"""

import math
import os
import tomllib
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, Self, cast

from .exceptions import ConfigError
from .words import PerClientAtCap

_TABLE: Final = "session"
_ENVIRONMENT_PREFIX: Final = "OTEL_SESSIONS_"
_OFF: Final = "off"
_BOOLEANS: Final = {
    "true": True,
    "1": True,
    "yes": True,
    "on": True,
    "false": False,
    "0": False,
    "no": False,
    "off": False,
}

_Value = float | int | bool | PerClientAtCap


@dataclass(frozen=True, kw_only=True, slots=True)
class _Rule:
    """What a setting takes: in words, as a value, and as the text of an environment variable."""

    takes: str
    accepts: Callable[[object], bool]
    kind: Callable[[Any], _Value]
    may_be_off: bool = False

    def check(self, key: str, value: object, off: str = "None") -> _Value | None:
        if value is None and self.may_be_off:
            return None
        if self.accepts(value):
            return self.kind(value)
        raise ConfigError(f"{key} takes {self.takes}{f' or {off}' if self.may_be_off else ''}, not {_shown(value)}")

    def read(self, text: str) -> object:
        """Return what a text stands for; the text itself where it stands for nothing that the rule could accept."""
        if self.kind is bool:
            return _BOOLEANS.get(text.lower(), text)
        try:
            return self.kind(text.lower())
        except ValueError:
            return text


def _shown(value: object) -> str:
    try:
        return repr(value)
    except ValueError:  # Python prints no int of more than 4,300 digits
        return "one with so many digits"


def _is_seconds(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return value > 0 and math.isfinite(value)
    except OverflowError:  # an int beyond the range of float
        return False


def _is_seconds_or_zero(value: object) -> bool:
    return _is_seconds(value) or (isinstance(value, (int, float)) and not isinstance(value, bool) and value == 0)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_switch(value: object) -> bool:
    return isinstance(value, bool)


def _is_word_at_cap(value: object) -> bool:
    return isinstance(value, str) and value in list(PerClientAtCap)


_SECONDS = _Rule(takes="a positive, finite number of seconds", accepts=_is_seconds, kind=float)
_LIMIT = replace(_SECONDS, may_be_off=True)
_DRAIN = _Rule(takes="zero or a positive, finite number of seconds", accepts=_is_seconds_or_zero, kind=float)
_COUNT = _Rule(takes="a whole number of at least 1", accepts=_is_count, kind=int)
_CAP = replace(_COUNT, may_be_off=True)
_SWITCH = _Rule(takes="true or false", accepts=_is_switch, kind=bool)
_WORD_AT_CAP = _Rule(takes='"refuse" or "evict_oldest"', accepts=_is_word_at_cap, kind=PerClientAtCap)

_RULES: Final = {
    "cleanup_interval": _SECONDS,
    "max_idle_time": _LIMIT,
    "max_session_age": _LIMIT,
    "max_sessions": _CAP,
    "cleanup_on_shutdown": _SWITCH,
    "emergency_idle_time": _LIMIT,
    "emergency_session_age": _LIMIT,
    "max_sessions_per_client": _CAP,
    "close_timeout": _SECONDS,
    "close_concurrency": _COUNT,
    "drain_timeout": _DRAIN,
    "shutdown_timeout": _SECONDS,
    "max_unused_time": _LIMIT,
    "per_client_at_cap": _WORD_AT_CAP,
}
_NAMES: Final = {name + ("_secs" if rule.kind is float else ""): name for name, rule in _RULES.items()}
"""The field that each key of a file stands for."""


def check_limit(key: str, value: object) -> float | None:
    """Return a limit in seconds, or None (off); raise `ConfigError` if `value` is neither."""
    return cast("float | None", _LIMIT.check(key, value))


def check_seconds(key: str, value: object) -> float:
    """Return a time in seconds; raise `ConfigError` if `value` is none."""
    return cast("float", _SECONDS.check(key, value))


def check_count(key: str, value: object) -> int:
    """Return a whole number of at least 1; raise `ConfigError` if `value` is none."""
    return cast("int", _COUNT.check(key, value))


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionConfig:
    """The settings of a `SessionManager`. Times are in seconds; None switches a limit off.

    - `cleanup_interval`: from one interval pass to the next.
    - `max_idle_time`, `max_session_age`: when an unleased session is stale, and when any session is expired.
    - `max_sessions`: the cap on reserved, live and still closing sessions together.
    - `cleanup_on_shutdown`: whether close hooks run at shutdown.
    - `emergency_idle_time`, `emergency_session_age`: the limits of an emergency pass, which runs when the cap is
      reached. One above its normal limit acts as the normal one, for every session.
    - `max_sessions_per_client`: the same cap for the sessions of one `client`.
    - `close_timeout`, `close_concurrency`: how long a close hook or an export may take, and how many run at once.
    - `drain_timeout`: how long holders keep a session that has reached its age, and any session at shutdown.
    - `shutdown_timeout`: the longest that a shutdown takes, drain and hooks included.
    - `max_unused_time`: a further limit on idle time, for a session that nobody has used since its opening: it has had
      neither a second lease nor a touch. It ends as `idle_timeout`.
    - `per_client_at_cap`: what a client gets that is at its cap: `"refuse"`, or with `"evict_oldest"` the place of its
      own unleased session that has idled longest, which ends as `evicted`.

    A wrong value raises `ConfigError`, which names the setting and says what it takes. A cap without any limit that
    could ever free a place is a `UserWarning`.
    """

    cleanup_interval: float = 60.0
    max_idle_time: float | None = 3600.0
    max_session_age: float | None = 86400.0
    max_sessions: int | None = 1000
    cleanup_on_shutdown: bool = True
    emergency_idle_time: float | None = 300.0
    emergency_session_age: float | None = 3600.0
    max_sessions_per_client: int | None = None
    close_timeout: float = 5.0
    close_concurrency: int = 32
    drain_timeout: float = 10.0
    shutdown_timeout: float = 30.0
    max_unused_time: float | None = None
    per_client_at_cap: PerClientAtCap | Literal["refuse", "evict_oldest"] = PerClientAtCap.REFUSE

    def __post_init__(self) -> None:
        for name, rule in _RULES.items():
            object.__setattr__(self, name, rule.check(name, getattr(self, name)))
        limits = (
            *(self.max_idle_time, self.max_session_age, self.max_unused_time),
            *(self.emergency_idle_time, self.emergency_session_age),
        )
        if self.max_sessions is not None and all(limit is None for limit in limits):
            warnings.warn(
                f"max_sessions={self.max_sessions} with every limit off: only closing a session frees its place",
                stacklevel=3,
            )

    @classmethod
    def from_toml(cls, path: str | os.PathLike[str]) -> Self:
        """Return the settings in table `[session]` of a TOML file; what it leaves out keeps its default.

        A key is the field's name, with `_secs` behind it where it is in seconds; the text `"off"` stands for None.
        Other tables are ignored. Raises `ConfigError` for an unknown key, a wrong value, or a file that is not TOML,
        and `OSError` for a file that cannot be read.
        """
        with open(path, "rb") as file:
            try:
                document = tomllib.load(file)
            except ValueError as error:
                raise ConfigError(f"{os.fspath(path)} is not TOML: {error}") from error
        table = document.get(_TABLE, {})
        if not isinstance(table, dict):
            raise ConfigError(f"{os.fspath(path)}: {_TABLE} takes a table, [{_TABLE}], not {table!r}")
        settings: dict[str, Any] = {}
        for key, value in table.items():
            if key not in _NAMES:
                raise ConfigError(f"[{_TABLE}] has no key {key!r}; it takes {', '.join(_NAMES)}")
            settings[_NAMES[key]] = _written(_RULES[_NAMES[key]], key, value)
        return replace(cls(), **settings)

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ, base: Self | None = None) -> Self:
        """Return `base` (the defaults when None) with what the environment sets.

        A variable is `OTEL_SESSIONS_` and the file's key in capitals, as in `OTEL_SESSIONS_MAX_IDLE_TIME_SECS`; the
        word `off` stands for None. An empty variable counts as unset, as OpenTelemetry's own do; other names are
        ignored. Raises `ConfigError`, which names the variable.
        """
        settings: dict[str, Any] = {}
        for key, name in _NAMES.items():
            variable = _ENVIRONMENT_PREFIX + key.upper()
            if text := environ.get(variable, "").strip():
                settings[name] = _written(_RULES[name], variable, _RULES[name].read(text))
        return replace(base if base is not None else cls(), **settings)


def _written(rule: _Rule, key: str, value: object) -> _Value | None:
    """Check a value from outside the code, where a limit that is off is written as a word."""
    if rule.may_be_off and isinstance(value, str) and value.lower() == _OFF:
        return None
    return rule.check(key, value, off=f'"{_OFF}"')
