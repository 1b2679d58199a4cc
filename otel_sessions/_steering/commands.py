"""The flags of `sessions`, `close`, `cleanup` and `stats`, and what each command does with the admin API.

What a person ends at a terminal is asked for first. A script, whose stdin is no terminal, is not asked.
"""

import argparse
import json
import os
import re
import sys
from collections.abc import Callable
from itertools import islice
from typing import Any, Final

from otel_sessions._core.exceptions import ConfigError
from otel_sessions._core.options import Expected, Kind, text
from otel_sessions._core.words import Outcome
from otel_sessions._program.arguments import argument, count, positive
from otel_sessions._program.logs import complain
from otel_sessions.sinks._table import printable

from . import target
from .api import NOT_DONE, Api, Refused
from .watch import is_plain, watch, watch_as_json
from .written import TITLE, report_line, session_row, statistics, unreached

_WRONG: Final = 2
_CLOSED_PIPE: Final = 128 + 13
"""128 and the number of SIGPIPE."""
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


def _sessions(api: Api, options: argparse.Namespace) -> int:
    filters = {name: getattr(options, name) for name in ("client", "state", "idle_for", "older_than")}
    listed = islice(api.sessions(filters), options.limit)
    if options.json:
        for session in listed:
            _say(json.dumps(session))
        return _all_reached(api)
    number = 0
    for number, session in enumerate(listed, 1):
        if number == 1:
            _say(TITLE)
        _say(session_row(session))
    _say(f"sessions: {number}")
    return _all_reached(api)


def _close(api: Api, options: argparse.Namespace) -> int:
    if options.client is not None:
        whose = f"all sessions of client {options.client}"
        return _done(api.end_client(options.client)) if _may(options, f"end {whose}?") else _not_done()
    wanted = list(dict.fromkeys(options.fingerprints))
    if not _may(options, f"end {len(wanted)} session{'s' if len(wanted) > 1 else ''}?"):
        return _not_done()
    ended = 0
    for fingerprint in wanted:
        try:
            ended += api.end(fingerprint)
        except Refused as error:
            if not error.is_missing:
                _done(ended)
                raise
            _fail(f"{fingerprint}: no session has this fingerprint; it may have ended")
    _done(ended)
    return 0 if ended == len(wanted) else NOT_DONE


def _cleanup(api: Api, options: argparse.Namespace) -> int:
    limits = _given_limits(options)
    if options.preview:
        return max(_report(api.preview(limits), options, is_preview=True), _all_reached(api))
    if _asks(options):
        foreseen = api.preview(limits)
        if not _may(options, f"{report_line(foreseen, is_preview=True)}. Run the pass?"):
            return _not_done()
    return max(_report(api.clean_up(limits), options, is_preview=False), _all_reached(api))


def _stats(api: Api, options: argparse.Namespace) -> int:
    if options.watch:
        try:
            (watch_as_json if options.json else watch)(api, sys.stdout, options.interval)
        except KeyboardInterrupt:
            return 0  # this is how a view is meant to end
    stats = api.statistics()
    if options.json:
        _say(json.dumps(stats))
        return 0
    config = api.config()
    _say(f"{config['name']} at {api.url}")
    for line in statistics(stats, config["settings"].get("max_sessions"), (), is_plain=is_plain(sys.stdout)):
        _say(line)
    return 0


def _given_limits(options: argparse.Namespace) -> dict[str, float | None]:
    names = ("max_idle_time", "max_session_age")
    return {name: getattr(options, name) for name in names if hasattr(options, name)}


def _report(report: dict[str, Any], options: argparse.Namespace, *, is_preview: bool) -> int:
    _say(json.dumps(report) if options.json else report_line(report, is_preview=is_preview))
    return 0 if report["outcome"] == Outcome.SUCCESS else NOT_DONE


def _all_reached(api: Api) -> int:
    """Return 0 if all processes were reached. Else name the others on stderr, and return the status for it."""
    for line in unreached(api.unreached):
        _fail(line)
    return NOT_DONE if api.unreached else 0


def _asks(options: argparse.Namespace) -> bool:
    return not options.yes and sys.stdin is not None and sys.stdin.isatty()


def _may(options: argparse.Namespace, question: str) -> bool:
    """Return whether to go on. A person at a terminal is asked, unless there is `--yes`."""
    if not _asks(options):
        return True
    sys.stderr.write(printable(f"{question} [y/N] ", sys.stderr.encoding))
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _done(ended: int) -> int:
    _say(f"ended: {ended}")
    return 0


def _not_done() -> int:
    return _fail("nothing was ended")


def _say(line: str) -> None:
    sys.stdout.write(f"{printable(line, sys.stdout.encoding)}\n")


def _fail(error: object, status: int = NOT_DONE) -> int:
    complain(printable(str(error), sys.stderr.encoding))
    return status


def _run(command: Callable[[Api, argparse.Namespace], int], options: argparse.Namespace) -> int:
    """Run a command, and turn what goes wrong into its exit status."""
    try:
        status = command(Api(target.read(options, os.environ)), options)
        sys.stdout.flush()
    except ConfigError as error:
        return _fail(error, _WRONG)
    except Refused as error:
        return _fail(error, error.status)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the flush at exit fails again
        return _CLOSED_PIPE if isinstance(error, BrokenPipeError) else _fail(f"stdout cannot be written to: {error}")
    return status


def _prepare(
    parser: argparse.ArgumentParser, does: str, command: Callable[[Api, argparse.Namespace], int]
) -> Callable[..., argparse.Action]:
    """Give a parser its description and the flags that all have. Return its `add_argument`."""
    parser.description = f"{does} {_STATUSES}"
    parser.set_defaults(command=lambda options: _run(command, options), needs=None)
    target.add_flags(parser)
    return parser.add_argument


def _add_sessions(parser: argparse.ArgumentParser) -> None:
    add = _prepare(parser, "List sessions, oldest first.", _sessions)
    add("--client", type=argument(CLIENT), metavar="CLIENT", help="only the sessions of this client (default: all)")
    add("--state", choices=_STATES, metavar="STATE", help=f"only in this state: {', '.join(_STATES)} (default: all)")
    add("--idle-for", type=argument(DURATION), metavar="TIME", help="only sessions idle for as long, as in 5m")
    add("--older-than", type=argument(DURATION), metavar="TIME", help="only sessions of this age or older, as in 2h")
    add("--limit", type=count, metavar="NUMBER", help="at most so many sessions (default: all)")
    add("--json", action="store_true", help="print an object of JSON a line (default: a table)")


def _add_close(parser: argparse.ArgumentParser) -> None:
    add = _prepare(parser, "End sessions, and wait for their close hooks.", _close)
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
    add = _prepare(parser, "Run a cleanup pass. At a terminal, it is previewed and asked for first.", _cleanup)
    add("--preview", action="store_true", help="only say what would be ended (default: run the pass)")
    usual: dict[str, Any] = {"type": argument(LIMIT), "default": argparse.SUPPRESS, "metavar": "TIME"}
    add("--max-idle-time", **usual, help="the idle limit of this pass, as in 10m, or off (default: as configured)")
    add("--max-session-age", **usual, help="the age limit of this pass, as in 12h, or off (default: as configured)")
    add("--yes", action="store_true", help="do not ask at a terminal (default: ask)")
    add("--json", action="store_true", help="print the report as JSON (default: in words)")


def _add_stats(parser: argparse.ArgumentParser) -> None:
    add = _prepare(parser, "Show the books: created is always cleaned and active together.", _stats)
    add("--watch", action="store_true", help="show them live until Ctrl-C, which is status 0 (default: once)")
    add("--interval", type=positive, default=2.0, metavar="SECONDS", help="between two looks (default: %(default)g)")
    add("--json", action="store_true", help="print them as JSON (default: in words)")
