"""Writes the documentation page that lists every option, in Markdown."""

from collections.abc import Sequence
from typing import Any, Final

from otel_sessions._core.options import Option

from .flags import CONFIG, Tables

_HEAD: Final = f"""# Settings

<!-- Written by `make settings` from the options in the code; a change here is lost. -->

A flag overrides its variable, the variable overrides the file of `{CONFIG}`, and the file overrides the default. Each
source is checked. The error for a wrong value names the flag, the variable or the key, and says what it takes.

The column *setting* has the name in code, the key in a file if it differs, the variable, and the flag.

- A variable that is empty counts as unset. A flag that is empty is an error.
- The word `off` switches a limit off. In code, `None` does.
- A switch takes `true`, `yes`, `on` or `1`, and `false`, `no`, `off` or `0`. In a file it takes `true` and `false`.
- A list is a list in a file. In a variable, commas separate its items. As a flag, repeat the flag for each item.
- A variable that starts with `OTEL_SESSIONS_` and that no setting reads is logged once as a warning. Variables that
  Kubernetes sets for a service `otel-sessions` (`..._PORT`, `..._PORT_*`, `..._SERVICE_*`) cause no warning.
- A file may have the tables `[session]`, `[proxy]`, `[admin]` and `[fleet]`. An unknown table or key is an error.
"""
_TITLES: Final = {
    "session": """Every manager has these settings. In code they are the fields of `SessionConfig`.
`SessionConfig.from_toml(path)` reads the table, and `SessionConfig.from_env()` reads the variables.
`otel-sessions proxy` has the flags, and `otel-sessions demo` reads the variables.""",
    "proxy": "Only `otel-sessions proxy` has these settings.",
    "fleet": "Only `otel-sessions proxy` has these settings. Several proxies find each other's sessions with them.",
    "admin": """The [admin API](../how-to/admin.md) of `otel-sessions proxy` has these settings. The token has no flag,
since other users of the machine see the flags of a process.""",
}
_COLUMNS: Final = ("setting", "unit", "default", "what it does")


def page(tables: Tables) -> str:
    """Return the page: a chapter for each table, and a row for each option."""
    chapters = [line for name, options in tables.items() if options for line in _chapter(name, options)]
    return "\n".join([_HEAD, *chapters])


def _chapter(name: str, options: Sequence[Option[Any]]) -> list[str]:
    rows = [_COLUMNS, ("---",) * len(_COLUMNS), *map(_row, options)]
    return [f"## `[{name}]`\n", f"{_TITLES[name]}\n", *(f"| {' | '.join(row)} |" for row in rows), ""]


def _row(option: Option[Any]) -> tuple[str, ...]:
    unit = option.written_unit if option.is_measured else f"`{option.written_unit}`".replace("|", "` or `")
    default = "required" if option.required else f"`{option.written_default}`"
    names = dict.fromkeys((option.name, option.key, option.variable, *([option.flag] if option.has_flag else [])))
    return "<br>".join(f"`{name}`" for name in names), unit, default, option.help.replace("*", "\\*")
