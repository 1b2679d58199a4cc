"""One setting as one value: its name, its kind, its default, its unit and its help.

The flag, the variable, the key in a file and the line in the documentation all come from the `Option`. A value is
checked when it is read, and the error names its source. Nothing here reads a file or the environment: callers pass in
tables and variables.
"""

import difflib
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Generic, TypeVar

from .exceptions import ConfigError

PREFIX: Final = "OTEL_SESSIONS_"
SESSION: Final = "session"
"""The table of a manager's settings. The variables of this table have no table name after the prefix."""
OFF: Final = "off"
SECONDS: Final = "seconds"
_SWITCH: Final = {
    **dict.fromkeys(["true", "1", "yes", "on"], True),
    **dict.fromkeys(["false", "0", "no", "off"], False),
}
_OF_KUBERNETES: Final = re.compile(rf"{PREFIX}(\w+_)?(PORT(_\w+)?|SERVICE_\w+)", re.ASCII)
"""Variables that Kubernetes sets in every container for a service `otel-sessions` or `otel-sessions-...` (Kubernetes
documentation, "Service", section "Discovering services", "Environment variables")."""

V = TypeVar("V")
V_co = TypeVar("V_co", covariant=True)


class NotTaken(ValueError):
    """A value is wrong. The text says what the setting takes, and follows the name of the setting."""


class Expected(ValueError):
    """Raised by `Kind.convert` to describe the expected value more exactly than `Kind.takes` does."""


def _shown(value: object) -> str:
    try:
        return repr(value)
    except ValueError:  # Python prints no int of more than 4,300 digits
        return "a number with so many digits"


def _plain(value: object) -> str:
    """Return a text as it is, or its repr if the text is blank or would not print as one line."""
    return value if isinstance(value, str) and value.strip() and value.isprintable() else _shown(value)


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind(Generic[V_co]):
    """The kind of value that a setting takes.

    - `takes` describes the values in words.
    - `convert` turns a value from code or a file into the setting's value. It raises `ValueError` for a wrong value.
    - `read` turns the text of a flag or a variable into the value that a file would hold.
    - `show` returns a wrong value as the error shows it. None hides a value that may be secret.
    - `item` is the kind of one item if the setting is a list. A variable separates items by commas; a flag repeats.
    """

    takes: str
    convert: Callable[[Any], V_co]
    read: Callable[[str], object] = str
    may_be_off: bool = False
    show: Callable[[object], str] | None = _shown
    item: "Kind[object] | None" = None

    def take(self, value: object, off: str = f'"{OFF}"') -> V_co | None:
        """Return the setting's value for a value in code, where None stands for off. Raises `NotTaken`."""
        if value is None and self.may_be_off:
            return None
        try:
            return self.convert(value)
        except ValueError as error:
            takes = str(error) if isinstance(error, Expected) else self.takes
            else_off = f" or {off}" if self.may_be_off else ""
            given = "" if self.show is None else f", not {self.show(value)}"
            raise NotTaken(f"takes {takes}{else_off}{given}") from None

    def take_written(self, value: object) -> V_co | None:
        """Return the setting's value for a value in a file, where the word `off` stands for off. Raises `NotTaken`."""
        return self.take(None if self.may_be_off and isinstance(value, str) and value.lower() == OFF else value)

    def take_text(self, text: str) -> V_co | None:
        """Return the setting's value for the text of a flag or a variable. Raises `NotTaken`."""
        return self.take_written(self.read(text.strip()))

    def check(self, name: str, value: object) -> V_co | None:
        """Return the value of the setting `name` for a value in code. Raises `ConfigError` if `value` is wrong."""
        return _named(name, lambda: self.take(value, off="None"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Option(Generic[V]):
    """One setting. `default` is the value that a file would hold; None means that the setting is off or required."""

    name: str
    table: str
    kind: Kind[V]
    default: object
    help: str
    unit: str
    """The unit of a number, or the form of a text."""
    required: bool = False
    file_key: str | None = None
    """The key in a file if it is not the name."""
    has_flag: bool = True
    """Whether there is a flag. A secret has no flag, since other users see the flags of a process."""

    @property
    def key(self) -> str:
        """The key in a file. The key of a session setting in seconds ends with `_secs`."""
        if self.file_key is not None:
            return self.file_key
        return f"{self.name}_secs" if self.table == SESSION and self.unit == SECONDS else self.name

    @property
    def variable(self) -> str:
        table = "" if self.table == SESSION else f"{self.table.upper()}_"
        return f"{PREFIX}{table}{self.key.upper()}"

    @property
    def flag(self) -> str:
        return f"--{self.name.replace('_', '-')}"

    @property
    def is_measured(self) -> bool:
        """Whether `unit` is the unit of a number, not the form of a text."""
        return self.unit.isalpha() and self.unit.islower()

    @property
    def written_unit(self) -> str:
        """The unit as people read it, with the word `off` if the setting can be off."""
        return f"{self.unit} or {OFF}" if self.kind.may_be_off else self.unit

    @property
    def usual(self) -> V | None:
        """The default as a value in code."""
        return None if self.default is None else self.kind.convert(self.default)

    @property
    def written_default(self) -> str:
        """The default as people read it."""
        if self.default is None:
            return OFF if self.kind.may_be_off else "none"
        if isinstance(self.default, bool):
            return str(self.default).lower()
        if isinstance(self.default, float):
            return f"{self.default:.15g}"
        return "none" if self.default == () else str(self.default)


def from_table(options: Iterable[Option[Any]], table: Mapping[str, object]) -> dict[str, object]:
    """Return the values in a file's table, by option name. Raises `ConfigError` if a value is wrong."""
    known = {option.key: option for option in options}
    return {known[key].name: _named(key, partial(known[key].kind.take_written, value)) for key, value in table.items()}


def require_known(name: str, options: Iterable[Option[Any]], table: Mapping[str, object]) -> None:
    """Raise `ConfigError` if the table `name` has a key of no option."""
    known = [option.key for option in options]
    for key in table:
        if key not in known:
            raise ConfigError(f"[{name}] has no key {key!r}; it takes {', '.join(known) or 'no key'}")


def from_environ(options: Iterable[Option[Any]], environ: Mapping[str, str]) -> dict[str, object]:
    """Return the values in an environment, by option name. Raises `ConfigError` if a value is wrong.

    An empty variable counts as unset, as OpenTelemetry specifies for its own variables.
    """
    return {
        option.name: _named(option.variable, partial(option.kind.take_text, environ[option.variable]))
        for option in options
        if environ.get(option.variable, "").strip()
    }


def unknown_variables(options: Iterable[Option[Any]], environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables with our prefix that no option reads, each with the most similar known variable."""
    known = [option.variable for option in options]
    return {
        name: difflib.get_close_matches(name.upper(), known, n=1, cutoff=0.0)[0]
        for name in environ
        if name.startswith(PREFIX) and name not in known and not _OF_KUBERNETES.fullmatch(name)
    }


def several(kind: Kind[V]) -> Kind[tuple[V, ...]]:
    """Return the kind of a list of such values. A single value counts as a list with one item."""

    def convert(value: object) -> tuple[V, ...]:
        return tuple(kind.convert(one) for one in (value if isinstance(value, (list, tuple)) else [value]))

    def read(text: str) -> list[object]:
        return [kind.read(part.strip()) for part in text.split(",")]

    return Kind(takes=f"{kind.takes}, or several", convert=convert, read=read, item=kind)


def number(
    takes: str, accepts: Callable[[float], bool], of: type[V], *, may_be_off: bool = False, inexact: bool = False
) -> Kind[V]:
    """Return the kind of a number. `inexact` allows numbers that are not whole. A bool is not a number."""

    def convert(value: object) -> V:
        kinds = (int, float) if inexact else int
        if isinstance(value, bool) or not isinstance(value, kinds) or not accepts(value):
            raise ValueError
        return of(value)  # type: ignore[call-arg]  # int or float

    def read(text: str) -> object:
        try:
            return of(text.lower())  # type: ignore[call-arg]  # int or float
        except ValueError:
            return text

    return Kind(takes=takes, convert=convert, read=read, may_be_off=may_be_off)


def text(takes: str, convert: Callable[[str], V], *, may_be_off: bool = False, secret: bool = False) -> Kind[V]:
    """Return the kind of a text that is not blank. `convert` raises `ValueError` for a wrong text.

    A text with a NUL is wrong: TOML allows it, but no path, host or header has one.
    """

    def of_text(value: object) -> V:
        if not isinstance(value, str) or not value.strip() or "\0" in value:
            raise ValueError
        return convert(value)

    return Kind(takes=takes, convert=of_text, may_be_off=may_be_off, show=None if secret else _plain)


def word(words: Iterable[str], convert: Callable[[str], V]) -> Kind[V]:
    """Return the kind of a setting that takes one of `words`. Variables and flags may use capitals."""
    known = tuple(words)

    def of_word(value: object) -> V:
        if not isinstance(value, str) or value not in known:
            raise ValueError
        return convert(value)

    return Kind(takes=" or ".join(f'"{one}"' for one in known), convert=of_word, read=str.lower)


def _named(name: str, take: Callable[[], V]) -> V:
    """Return what `take` returns. Turns `NotTaken` into a `ConfigError` that begins with `name`."""
    try:
        return take()
    except NotTaken as error:
        raise ConfigError(f"{name} {error}") from None


def _switch(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError
    return value


def _is_positive(value: float) -> bool:
    try:
        return value > 0 and math.isfinite(value)
    except OverflowError:  # an int beyond the range of float
        return False


_POSITIVE_SECONDS: Final = "a positive, finite number of seconds"
_FROM_1: Final = "a whole number of at least 1"

POSITIVE: Final = number(_POSITIVE_SECONDS, _is_positive, float, inexact=True)
LIMIT: Final = number(_POSITIVE_SECONDS, _is_positive, float, inexact=True, may_be_off=True)
FROM_ZERO: Final = number(
    "zero or a positive, finite number of seconds",
    lambda value: value == 0 or _is_positive(value),
    float,
    inexact=True,
)
COUNT: Final = number(_FROM_1, lambda value: value > 0, int)
CAP: Final = number(_FROM_1, lambda value: value > 0, int, may_be_off=True)
SWITCH: Final = Kind(takes="true or false", convert=_switch, read=lambda text: _SWITCH.get(text.lower(), text))
