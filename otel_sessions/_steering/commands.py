"""What `sessions`, `close`, `cleanup` and `stats` do with the admin API.

What a person ends at a terminal is asked for first. A script, whose stdin is no terminal, is not asked.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any, Final

from otel_sessions._core.exceptions import ConfigError
from otel_sessions._core.words import Outcome
from otel_sessions._program.logs import complain
from otel_sessions.sinks._table import printable

from . import target
from .api import NOT_DONE, Api, Refused
from .watch import is_plain, watch, watch_as_json
from .written import TITLE, report_line, session_row, statistics, unreached

_WRONG: Final = 2
_CLOSED_PIPE: Final = 128 + 13
"""128 and the number of SIGPIPE."""


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
        return _all_reached(api)
    config = api.config()
    _say(f"{config['name']} at {api.url}")
    for line in statistics(stats, config["settings"].get("max_sessions"), (), is_plain=is_plain(sys.stdout)):
        _say(line)  # among them each process that was not reached
    return NOT_DONE if api.unreached else 0


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


_COMMANDS: Final[Mapping[str, Callable[[Api, argparse.Namespace], int]]] = {
    "sessions": _sessions,
    "close": _close,
    "cleanup": _cleanup,
    "stats": _stats,
}


def run(command: str, options: argparse.Namespace) -> int:
    """Run a command, and turn what goes wrong into its exit status."""
    if sys.stdout is None:  # before anything is ended
        return _fail("stdout cannot be written to: it is closed")
    try:
        status = _COMMANDS[command](Api(target.read(options, os.environ)), options)
        sys.stdout.flush()
    except ConfigError as error:
        return _fail(error, _WRONG)
    except Refused as error:
        return _fail(error, error.status)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the flush at exit fails again
        return _CLOSED_PIPE if isinstance(error, BrokenPipeError) else _fail(f"stdout cannot be written to: {error}")
    return status
