"""The flags of `sessions`, `close`, `cleanup` and `stats`.

What the commands do stands in `commands`, which is imported once one of them runs: a proxy never needs it.
"""

import argparse
import re
from collections.abc import Callable
from typing import Any, Final

from otel_sessions._core.options import Expected, Kind, text
from otel_sessions._program.arguments import argument, count, positive

from . import target

_STATES: Final = ("active", "closing", "failed")
_FINGERPRINT: Final = re.compile("[0-9a-f]{16}")
_DURATION: Final = re.compile(r"(?:(\d{1,9})d)?(?:(\d{1,9})h)?(?:(\d{1,9})m)?(?:(\d{1,9}(?:\.\d{1,9})?)s?)?", re.ASCII)
_PARTS: Final = (86400, 3600, 60, 1)
_STATUSES: Final = (
    "The exit status is 0 if it is done, and 1 if the API answers but something is not done. It is 2 for a wrong flag "
    "or setting, 3 if no admin API answers there, 4 if it does not let us in, and 130 on Ctrl-C."
)


def add_commands(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the commands. `add` makes the parser of a command from its name and its `help`."""
    _add_sessions(add("sessions", help="list the sessions of a running proxy"))
    _add_close(add("close", help="end sessions of a running proxy"))
    _add_cleanup(add("cleanup", help="run a cleanup pass in a running proxy"))
    _add_stats(add("stats", help="show the books of a running proxy, also live"))


def _fingerprint(written: str) -> str:
    if not _FINGERPRINT.fullmatch(written):
        raise ValueError
    return written


def _seconds(written: str) -> float:
    """Return the seconds in a number, or in a time like 1h30m."""
    match = _DURATION.fullmatch(written)
    if match is None or not any(match.groups()):
        raise ValueError
    return sum(float(given) * part for given, part in zip(match.groups(), _PARTS, strict=True) if given)


def _limit(written: str) -> float:
    if (seconds := _seconds(written)) <= 0:
        raise Expected("more than zero seconds")
    return seconds


_TIME: Final = "seconds, or a time as in 90s, 5m or 1h30m"
DURATION: Final = text(_TIME, _seconds)
LIMIT: Final = text(_TIME, _limit, may_be_off=True)
FINGERPRINT: Final = text("the 16 hexadecimal digits that lists and logs show", _fingerprint)
CLIENT: Final = Kind(takes="the name of a client", convert=str)


def _run(command: str, options: argparse.Namespace) -> int:
    from .commands import run

    return run(command, options)


def _prepare(parser: argparse.ArgumentParser, does: str, command: str) -> Callable[..., argparse.Action]:
    """Give a parser its description and the flags that all have. Return its `add_argument`."""
    parser.description = f"{does} {_STATUSES}"
    parser.set_defaults(command=lambda options: _run(command, options), needs=None)
    target.add_flags(parser)
    return parser.add_argument


def _add_sessions(parser: argparse.ArgumentParser) -> None:
    add = _prepare(parser, "List sessions, oldest first.", "sessions")
    add("--client", type=argument(CLIENT), metavar="CLIENT", help="only the sessions of this client (default: all)")
    add("--state", choices=_STATES, metavar="STATE", help=f"only in this state: {', '.join(_STATES)} (default: all)")
    add("--idle-for", type=argument(DURATION), metavar="TIME", help="only sessions idle for as long, as in 5m")
    add("--older-than", type=argument(DURATION), metavar="TIME", help="only sessions of this age or older, as in 2h")
    add("--limit", type=count, metavar="NUMBER", help="at most so many sessions (default: all)")
    add("--json", action="store_true", help="print an object of JSON a line (default: a table)")


def _add_close(parser: argparse.ArgumentParser) -> None:
    add = _prepare(parser, "End sessions, and wait for their close hooks.", "close")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument(
        "fingerprints",
        nargs="*",
        default=[],
        type=argument(FINGERPRINT),
        metavar="FINGERPRINT",
        help="end this session",
    )
    which.add_argument("--client", type=argument(CLIENT), metavar="CLIENT", help="end all sessions of this client")
    add("--yes", action="store_true", help="do not ask at a terminal (default: ask)")


def _add_cleanup(parser: argparse.ArgumentParser) -> None:
    add = _prepare(parser, "Run a cleanup pass. At a terminal, it is previewed and asked for first.", "cleanup")
    add("--preview", action="store_true", help="only say what would be ended (default: run the pass)")
    usual: dict[str, Any] = {"type": argument(LIMIT), "default": argparse.SUPPRESS, "metavar": "TIME"}
    add("--max-idle-time", **usual, help="the idle limit of this pass, as in 10m, or off (default: as configured)")
    add("--max-session-age", **usual, help="the age limit of this pass, as in 12h, or off (default: as configured)")
    add("--yes", action="store_true", help="do not ask at a terminal (default: ask)")
    add("--json", action="store_true", help="print the report as JSON (default: in words)")


def _add_stats(parser: argparse.ArgumentParser) -> None:
    add = _prepare(parser, "Show the books: created is always cleaned and active together.", "stats")
    add("--watch", action="store_true", help="show them live until Ctrl-C, which is status 0 (default: once)")
    add("--interval", type=positive, default=2.0, metavar="SECONDS", help="between two looks (default: %(default)g)")
    add("--json", action="store_true", help="print them as JSON (default: in words)")
