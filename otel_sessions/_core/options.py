"""What a setting is: its name, what it takes, its default, its unit and its help, in one value.

Everything else about a setting comes from its `Option`: the flag, the variable, the key in a file, and the line of the
documentation. A value is checked where it enters, and the error names that place. Nothing here knows where the values
come from: tables and environments are passed in.
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
"""The table of the settings that every manager has. Their variables have no word of their own behind the prefix."""
OFF: Final = "off"
SECONDS: Final = "seconds"
_SWITCH: Final = {
    **dict.fromkeys(["true", "1", "yes", "on"], True),
    **dict.fromkeys(["false", "0", "no", "off"], False),
}
_OF_KUBERNETES: Final = re.compile(rf"{PREFIX}(\w+_)?(PORT(_\w+)?|SERVICE_\w+)", re.ASCII)
"""What Kubernetes sets in every container for a service `otel-sessions` or `otel-sessions-...` (Kubernetes, Service,
Discovering services, Environment variables)."""

V = TypeVar("V")
V_co = TypeVar("V_co", covariant=True)


class NotTaken(ValueError):
    """A value is wrong; the text says what is taken instead, and is ready to stand behind the name of the setting."""


class Expected(ValueError):
    """What `Kind.convert` raises if it can say more exactly than `Kind.takes` what it expects."""


def _shown(value: object) -> str:
    try:
        return repr(value)
    except ValueError:  # Python prints no int of more than 4,300 digits
        return "one with so many digits"


def _plain(value: object) -> str:
    """Return a text as it is, unless that could not be seen."""
    return value if isinstance(value, str) and value.strip() else _shown(value)


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind(Generic[V_co]):
    """What a setting takes.

    `takes` says it in words. `convert` makes a value of what a file or code gives, and raises `ValueError` if that is
    wrong. `read` makes of a text what a file would have given. `show` writes a wrong value into the error; None if the
    value may be secret. `item`: the setting is a list of such items, in a variable parted by commas, as a flag
    repeatable.
    """

    takes: str
    convert: Callable[[Any], V_co]
    read: Callable[[str], object] = str
    may_be_off: bool = False
    show: Callable[[object], str] | None = _shown
    item: "Kind[object] | None" = None

    def take(self, value: object, off: str = f'"{OFF}"') -> V_co | None:
        """Return the value of a setting as code gives it, where None stands for off. Raises `NotTaken`."""
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
        """The same for a value from a file, where the word `off` stands for None."""
        return self.take(None if self.may_be_off and isinstance(value, str) and value.lower() == OFF else value)

    def take_text(self, text: str) -> V_co | None:
        """The same for a text, as flags and variables are."""
        return self.take_written(self.read(text.strip()))

    def check(self, name: str, value: object) -> V_co | None:
        """Return the value of a setting that is called `name` in code. Raises `ConfigError`."""
        return _named(name, lambda: self.take(value, off="None"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Option(Generic[V]):
    """One setting. `default` is written as in a file; None stands for a setting that is off or must be given."""

    name: str
    table: str
    kind: Kind[V]
    default: object
    help: str
    unit: str
    """The unit of a number, or the form of a text."""
    required: bool = False

    @property
    def key(self) -> str:
        """The key in a file; a setting of sessions in seconds says so in its key."""
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
        """Whether the unit is that of a number, and not the form of a text."""
        return self.unit.isalpha() and self.unit.islower()

    @property
    def written_unit(self) -> str:
        """The unit as people read it, with the word that switches a limit off."""
        return f"{self.unit} or {OFF}" if self.kind.may_be_off else self.unit

    @property
    def usual(self) -> V | None:
        """The default, as code gives it."""
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
    """Return the values in a table of a file, by the names of their options. Raises `ConfigError`."""
    known = {option.key: option for option in options}
    return {known[key].name: _named(key, partial(known[key].kind.take_written, value)) for key, value in table.items()}


def require_known(name: str, options: Iterable[Option[Any]], table: Mapping[str, object]) -> None:
    """Raise `ConfigError` for a key that table `name` has not."""
    known = [option.key for option in options]
    for key in table:
        if key not in known:
            raise ConfigError(f"[{name}] has no key {key!r}; it takes {', '.join(known) or 'no key'}")


def from_environ(options: Iterable[Option[Any]], environ: Mapping[str, str]) -> dict[str, object]:
    """Return the values in an environment, by the names of their options. Raises `ConfigError`.

    An empty variable counts as unset, as OpenTelemetry's own do.
    """
    return {
        option.name: _named(option.variable, partial(option.kind.take_text, environ[option.variable]))
        for option in options
        if environ.get(option.variable, "").strip()
    }


def unknown_variables(options: Iterable[Option[Any]], environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables with our prefix that no option has, each with the most similar one that there is."""
    known = [option.variable for option in options]
    return {
        name: difflib.get_close_matches(name.upper(), known, n=1, cutoff=0.0)[0]
        for name in environ
        if name.startswith(PREFIX) and name not in known and not _OF_KUBERNETES.fullmatch(name)
    }


def several(kind: Kind[V]) -> Kind[tuple[V, ...]]:
    """Return the kind of a setting that is a list of such values; a single value is a list of one."""

    def convert(value: object) -> tuple[V, ...]:
        return tuple(kind.convert(one) for one in (value if isinstance(value, (list, tuple)) else [value]))

    def read(text: str) -> list[object]:
        return [kind.read(part.strip()) for part in text.split(",")]

    return Kind(takes=f"{kind.takes}, or several", convert=convert, read=read, item=kind)


def number(
    takes: str, accepts: Callable[[float], bool], of: type[V], *, may_be_off: bool = False, inexact: bool = False
) -> Kind[V]:
    """Return the kind of a number; `inexact` if it need not be whole. A bool is no number."""

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
    """Return the kind of a text, which is never empty; `convert` raises `ValueError` for a wrong one."""

    def of_text(value: object) -> V:
        if not isinstance(value, str) or not value.strip():
            raise ValueError
        return convert(value)

    return Kind(takes=takes, convert=of_text, may_be_off=may_be_off, show=None if secret else _plain)


def word(words: Iterable[str], convert: Callable[[str], V]) -> Kind[V]:
    """Return the kind of one word out of a few. In a variable or a flag it may be in capitals."""
    known = tuple(words)

    def of_word(value: object) -> V:
        if not isinstance(value, str) or value not in known:
            raise ValueError
        return convert(value)

    return Kind(takes=" or ".join(f'"{one}"' for one in known), convert=of_word, read=str.lower)


def _named(name: str, take: Callable[[], V]) -> V:
    """Return what is taken. Raises `ConfigError`, which says the name that the setting has where it was given."""
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
