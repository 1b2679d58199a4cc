"""The settings of a program, merged once: a flag overrides a variable, a variable a file, a file the default.

The same options read every source, so all sources take the same values. A wrong value is an error in any source, even
if another source overrides it.
"""

import argparse
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, TypeVar, cast

from otel_sessions._core.config import no_table, read_file, unknown
from otel_sessions._core.exceptions import ConfigError
from otel_sessions._core.options import SWITCH, Option, from_environ, from_table, require_known, unknown_variables

from .arguments import FILE, argument

CONFIG: Final = "--config"

V = TypeVar("V")
Tables = Mapping[str, Sequence[Option[Any]]]
"""The options of a program by the tables that its file may have."""


class Values:
    """The merged settings. `values[option]` is the value of an option."""

    def __init__(self, values: Mapping[str, object]) -> None:
        self._values = values

    def __getitem__(self, option: Option[V]) -> V:
        return cast("V", self._values[option.name])

    def of(self, options: Sequence[Option[Any]]) -> dict[str, Any]:
        """Return the values of some options by their names."""
        return {option.name: self._values[option.name] for option in options}


def add_flags(parser: argparse.ArgumentParser, tables: Tables) -> None:
    """Add `--config` and a flag for each option. `merged` makes values from the parsed flags."""
    filled = {name: options for name, options in tables.items() if options}
    parser.add_argument(
        CONFIG,
        type=argument(FILE),
        metavar="FILE",
        help=f"a TOML file with settings in the tables {' and '.join(f'[{name}]' for name in filled)} (default: none)",
    )
    for name, options in filled.items():
        group = parser.add_argument_group(f"settings of table [{name}]")
        for option in options:
            if option.has_flag:
                _add_flag(group, option)


def merged(tables: Tables, flags: argparse.Namespace, environ: Mapping[str, str]) -> Values:
    """Return the settings.

    Raises `ConfigError` if a value is wrong or missing. The error names the flag, the variable or the key.
    """
    options = _all(tables)
    given: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in vars(flags).items()
    }
    values = {
        **{option.name: option.usual for option in options},
        **_from_file(tables, given.get("config")),
        **from_environ(options, environ),
        **{option.name: given[option.name] for option in options if option.name in given},
    }
    for option in options:
        if option.required and values[option.name] is None:
            raise ConfigError(
                f"{option.flag} is missing; give the flag, the variable {option.variable}, or the key {option.key} in "
                f"table [{option.table}] of the file of {CONFIG}"
            )
    return Values(values)


def warnings_of(tables: Tables, environ: Mapping[str, str]) -> list[str]:
    """Return a warning for each variable with our prefix that no option reads."""
    return [unknown(name, similar) for name, similar in unknown_variables(_all(tables), environ).items()]


@contextmanager
def naming(flag: str, value: str) -> Iterator[None]:
    """Turn an `OSError` in the block into a `ConfigError` that names the flag, its value and the reason."""
    try:
        yield
    except OSError as error:
        raise ConfigError(f"{flag} {value}: {_reason(error)}") from error


_ADDED: Final = " (while attempting to bind on address "
"""What `socket.create_server` adds to the reason: the address stands there already."""


def _reason(error: OSError) -> str:
    """Return why a call failed: in the words of whoever raised it, without the address that Python adds to its own."""
    said = (error.strerror or str(error)).partition(_ADDED)[0]
    usual = os.strerror(error.errno) if error.errno and error.errno > 0 else said
    return usual if said.startswith(usual) else said


def described(option: Option[Any]) -> str:
    """Return an option's help, with its unit and its default."""
    notes = [option.written_unit] if option.is_measured or option.kind.may_be_off else []
    notes.append("required" if option.required else f"default: {option.written_default}")
    return f"{option.help} ({'; '.join(notes)})"


def _all(tables: Tables) -> list[Option[Any]]:
    return [option for options in tables.values() for option in options]


def _add_flag(group: argparse._ArgumentGroup, option: Option[Any]) -> None:
    settings: dict[str, Any] = {}
    if option.kind.item is not None:
        settings = {"action": "append"}
    elif option.kind is SWITCH:
        settings = {"nargs": "?", "const": True}
    group.add_argument(
        option.flag,
        type=argument(option.kind.item or option.kind),
        default=argparse.SUPPRESS,
        metavar=option.unit.upper() if option.is_measured else option.unit,
        help=described(option).replace("%", "%%"),
        **settings,
    )


def _from_file(tables: Tables, path: str | None) -> dict[str, object]:
    if path is None:
        return {}
    with naming(CONFIG, path):
        try:
            document = read_file(path)
        except ConfigError as error:
            raise ConfigError(f"{CONFIG} {error}") from error
    try:
        return _from_document(tables, document)
    except ConfigError as error:
        raise ConfigError(f"{CONFIG} {path}: {error}") from error


def _from_document(tables: Tables, document: Mapping[str, object]) -> dict[str, object]:
    values: dict[str, object] = {}
    for name, table in document.items():
        if name not in tables:
            raise ConfigError(f"there is no table [{name}]; the tables are {', '.join(tables)}")
        if not isinstance(table, dict):
            raise ConfigError(no_table(name, table))
        require_known(name, tables[name], table)
        values |= from_table(tables[name], table)
    return values
