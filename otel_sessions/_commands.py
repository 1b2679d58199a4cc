"""The commands: `otel-sessions proxy`, `demo`, `load`, `export show`, and those of `_steering`.

This module reads the arguments and turns errors into exit statuses: 0 is success, 1 a failed run, 2 a run that could
not start, and 141 a closed pipe, as shells report it. Without a command, the help is printed and the status is 2: a
script that has lost its command should notice.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeVar

from . import ConfigError, EndReason, __version__
from ._core.options import text
from ._program.arguments import ORIGIN, argument, count, port, positive, whole
from ._program.logs import complain
from ._steering.flags import add_commands
from .proxy.settings import add_arguments

if TYPE_CHECKING:
    from .demo.load.clients import LoadOptions

V = TypeVar("V", bound="LoadOptions")

_NEEDS = {
    "proxy": ("httptools", "uvicorn", "websockets"),
    "demo": ("coredis", "httptools", "httpx2", "matplotlib", "psutil", "rich", "starlette", "uvicorn", "websockets"),
    "load": ("httpx2",),
}
"""The modules that each command needs. The extra of the command installs them."""
_OF_TWO_PROXIES = {
    "twin": "--no-twin",
    "report": "--report",
    "port": "--port",
    "twin_port": "--twin-port",
    "upstream_port": "--upstream-port",
}
"""What `demo` takes only without `--fleet`."""
_CLOSED_PIPE = 128 + 13
"""128 and the number of SIGPIPE."""
_STDERR = 2
"""The number of the last standard stream."""
_REASONS = [reason.value for reason in EndReason]
_SO = "(default: %(default)s)"
_SECONDS = "(seconds; default: %(default)g)"


class _Parser(argparse.ArgumentParser):
    """Says in one line what is wrong with the arguments. The usage of the proxy alone would fill a screen."""

    def error(self, message: str) -> NoReturn:
        said = message if message.isprintable() else repr(message)
        self.exit(2, f"otel-sessions: {said}; see {self.prog} --help\n")


def run(arguments: Sequence[str]) -> int:
    """Run a command and return its exit status. Wrong arguments leave by `SystemExit`, with status 2."""
    _fill_closed_streams()
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.command is None:
        options.helped.print_help(sys.stderr)
        parser.exit(2)
    return _start(options)


def _fill_closed_streams() -> None:
    """Open the null device in place of each standard stream that is closed. Else a socket would get its number.

    `sys.stdout` stays None if it is closed: commands that are there to print then say so.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= _STDERR:
        pass
    os.close(descriptor)
    if sys.stderr is None:
        sys.stderr = open(_STDERR, "w", encoding="utf-8", closefd=False)  # noqa: SIM115  # open until the process ends


def _start(options: argparse.Namespace) -> int:
    """Run the chosen command, if the modules that it needs are installed."""
    try:
        if options.needs is not None:
            _require(options.needs)
    except ImportError as error:
        return _fail(f"this command needs {error.name or error}; pip install 'otel-sessions[{options.extra}]'", 2)
    except ConfigError as error:
        return _fail(error, 2)
    command: Callable[[argparse.Namespace], int] = options.command
    return command(options)


def _proxy(options: argparse.Namespace) -> int:
    from .proxy.command import run
    from .proxy.settings import read

    try:
        return run(read(options, os.environ))
    except (ConfigError, OSError) as error:
        return _fail(error, 2)


def _load(options: argparse.Namespace) -> int:
    from .demo.load.generator import Options, generate

    try:
        return generate(_made(Options, options))
    except ConfigError as error:
        return _fail(error, 2)


def _demo(options: argparse.Namespace) -> int:
    """Run the demo, of one proxy or of a fleet."""
    from ._program.exporters import CONSOLE, ENDPOINT, PROMETHEUS, asked, require_exporters
    from .demo.result.live import OutputClosed, OutputFailed
    from .demo.result.report import ReportFailed
    from .demo.run import DemoFailed, Options, run
    from .proxy.settings import unread_variables

    for warning in unread_variables(os.environ):
        complain(warning)
    try:
        if asked(os.environ).get("METRICS") in (PROMETHEUS, CONSOLE):
            raise ConfigError("the demo is three processes: OTEL_METRICS_EXPORTER takes otlp or none here")
        if options.otlp is not None:
            require_exporters({**os.environ, ENDPOINT: options.otlp})
        if options.fleet:
            return _demo_fleet(options)
        return run(_made(Options, options))
    except (ConfigError, OutputFailed, ReportFailed) as error:
        return _fail(error, 2)
    except DemoFailed as error:
        return _fail(error, 1)
    except OutputClosed:
        return _CLOSED_PIPE


def _demo_fleet(options: argparse.Namespace) -> int:
    from .demo.fleet.run import Options, run

    for name, flag in _OF_TWO_PROXIES.items():
        # As texts: a default is what a person would write, a value is what was read from it.
        if str(getattr(options, name)) != str(options.helped.get_default(name)):
            raise ConfigError(f"demo --fleet takes no {flag}")
    return run(_made(Options, options))


def _export_show(options: argparse.Namespace) -> int:
    from .sinks._table import show

    if sys.stdout is None:
        return _fail("the table cannot be written: stdout is closed", 1)
    if sys.stdin is None and "-" in options.files:
        return _fail("the records cannot be read: stdin is closed", 2)
    try:
        unreadable = show(options.files, sys.stdout, reasons=options.reason or _REASONS, client=options.client or "")
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the flush at exit fails again
        return 0 if isinstance(error, BrokenPipeError) else _fail(f"the table cannot be written: {error}", 1)
    for failure in unreadable:
        complain(failure)
    return 2 if unreadable else 0


def _require(needs: str) -> None:
    """Raise `ImportError` if a module is not installed, `ConfigError` if the environment sets up a wrong export."""
    for module in _NEEDS[needs]:
        if find_spec(module) is None:  # not imported: matplotlib takes half a second, and is needed only at the end
            raise ModuleNotFoundError(name=module)
    from ._program.exporters import require_exporters

    require_exporters()


def _made(kind: type[V], options: argparse.Namespace) -> V:
    """Return a command's options, from the flags of the same names."""
    return kind(**{field.name: getattr(options, field.name) for field in fields(kind)})


def _fail(error: object, status: int) -> int:
    complain(error)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="otel-sessions",
        description="Keep the sessions of a proxy bounded and accounted for, and watch them in OpenTelemetry.",
    )
    parser.set_defaults(command=None, helped=parser)
    parser.add_argument("--version", action="version", version=f"otel-sessions {__version__}")
    commands = parser.add_subparsers(metavar="command")
    _add_demo(commands.add_parser("demo", help="run a proxy under load, and show that its memory stays bounded"))
    proxy = commands.add_parser("proxy", help="run a reverse proxy with bounded sessions", allow_abbrev=False)
    _add_proxy(proxy)
    _add_load(commands.add_parser("load", help="load a running proxy with virtual clients"))
    _add_export(commands.add_parser("export", help="read the records of ended sessions"))
    add_commands(commands.add_parser)
    return parser


def _add_export(parser: argparse.ArgumentParser) -> None:
    parser.description = "Read the files that a JsonLinesSink, or a proxy with --export, has written."
    parser.set_defaults(command=None, helped=parser)
    commands = parser.add_subparsers(metavar="command")
    parser = commands.add_parser("show", help="print the records as a table")
    parser.description = (
        "Print records as a table. Rotated files are read from the oldest to the newest. Lines that are not records "
        "are skipped and counted, for example lines that a crash or a full disk has cut off."
    )
    parser.set_defaults(command=_export_show, needs=None)
    parser.add_argument("files", nargs="+", metavar="FILE", help="a file, also a rotated one; - is stdin")
    parser.add_argument(
        "--reason",
        action="append",
        choices=_REASONS,
        metavar="REASON",
        help=f"only records with this end reason: {', '.join(_REASONS)}; repeatable (default: all)",
    )
    parser.add_argument(
        "--client",
        type=argument(text("the beginning of a client's hash", str)),
        metavar="HASH",
        help="only records of the client whose hash begins with HASH (default: all)",
    )


def _add_proxy(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Pass HTTP requests and WebSockets on to an upstream, in sessions that are bounded and accounted for. A flag "
        "overrides its variable (OTEL_SESSIONS_*), the variable overrides the file of --config, and the file overrides "
        "the default. If OTEL_EXPORTER_OTLP_ENDPOINT is set, metrics, traces and logs go to this collector."
    )
    parser.set_defaults(command=_proxy, needs="proxy", extra="proxy")
    add_arguments(parser)


def _add_demo(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Start an upstream and two proxies on this machine. The twin is a proxy without cleanup and cap. Load both "
        "proxies with the same virtual clients, show their memory and sessions, sum up, and write a report. "
        "OTEL_SESSIONS_* changes the limits of the proxy with cleanup and cap, not of the twin. "
        "OTEL_SESSIONS_PROXY_* has no effect on either proxy. With "
        "--otlp, or if OTEL_EXPORTER_OTLP_ENDPOINT is set, both proxies export metrics, traces and logs to this "
        "collector. The exit status is 0 if the books balance, cleanup works and memory is bounded. It is 1 if one of "
        "these claims fails, or if the run was too short to tell. It is 2 if the demo could not start or the report "
        "could not be written, 130 on Ctrl-C, and 141 if the output is no longer read."
    )
    parser.set_defaults(command=_demo, needs="demo", extra="demo", helped=parser)
    add = parser.add_argument
    add(
        "--fleet",
        action="store_true",
        help="instead, run three replicas that share one cap in a Valkey of this machine, and kill some (default: off)",
    )
    add("--duration", type=positive, default=45.0, metavar="SECONDS", help=f"the length of the load {_SECONDS}")
    _add_clients(parser, 200)
    add("--no-twin", action="store_false", dest="twin", help="run only the proxy with cleanup and cap (default: both)")
    add(
        "--report",
        type=argument(text("the path of a folder", Path)),
        default="otel-sessions-demo",
        metavar="DIR",
        help=f"the folder of the report {_SO}",
    )
    add("--otlp", type=argument(ORIGIN), metavar="URL", help="the collector that both proxies export to (default: off)")
    add("--port", type=port, default=8080, metavar="PORT", help=f"the proxy's port; 0 is any free port {_SO}")
    add("--twin-port", type=port, default=0, metavar="PORT", help=f"the port of the other proxy, the twin {_SO}")
    add("--upstream-port", type=port, default=0, metavar="PORT", help=f"the upstream's port {_SO}")


def _add_load(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Load a proxy in front of an MCP server with virtual clients, until the load is stopped. Five phases repeat: a "
        "ramp, steady use, a burst past the cap, a mass abandonment and a recovery. If OTEL_EXPORTER_OTLP_ENDPOINT is "
        "set, the log also goes to this collector. The exit status is 0, or 1 if the proxy has never answered. It is "
        "also 1 if no request was made."
    )
    parser.set_defaults(command=_load, needs="load", extra="demo")
    add = parser.add_argument
    add("--target", type=argument(ORIGIN), required=True, metavar="URL", help="the URL of the proxy (required)")
    add("--duration", type=positive, metavar="SECONDS", help="the length of the load (seconds; default: until stopped)")
    _add_clients(parser, 300)
    add(
        "--cycle", type=positive, default=150.0, metavar="SECONDS", help=f"the length of all phases together {_SECONDS}"
    )
    add("--steady", action="store_true", help="no phases: all clients are active all the time (default: phases)")


def _add_clients(parser: argparse.ArgumentParser, usual: int) -> None:
    add = parser.add_argument
    add("--clients", type=count, default=usual, metavar="CLIENTS", help=f"the number of virtual clients {_SO}")
    add("--rate", type=positive, default=1.0, metavar="FACTOR", help=f"the clients' speed; 2 is twice as fast {_SO}")
    add("--seed", type=whole, default=1, metavar="NUMBER", help=f"the seed of the clients' random numbers {_SO}")
