"""The command line: `otel-sessions proxy`, `demo`, `load` and `export show`.

It reads arguments, and turns what goes wrong into an exit status:
0 means well, 1 that what was asked for went wrong, 2 that it could not be tried, 130 that it was interrupted, 141 that
nobody reads any more what it prints. The last two are what shells report for Ctrl-C and for a closed pipe.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

from . import ConfigError, EndReason, __version__
from .proxy.arguments import count, origin, port, positive, whole
from .proxy.settings import add_arguments, preset

_NEEDS = {
    "proxy": ("httpx2", "uvicorn", "websockets"),
    "demo": ("httpx2", "matplotlib", "psutil", "rich", "starlette", "uvicorn", "websockets"),
    "load": ("httpx2",),
}
"""What each command cannot do without; all of it comes with its extra."""
_CLOSED_PIPE = 128 + 13
"""128 and the number of SIGPIPE."""
_REASONS = [reason.value for reason in EndReason]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status. Wrong arguments leave by `SystemExit`, with status 2."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["proxy"]:
        try:
            given[1:1] = preset(given[1:], os.environ)
        except (ConfigError, OSError) as error:
            return _complain(str(error), 2)
    options = _parser().parse_args(given)
    try:
        return _start(options)
    except KeyboardInterrupt:
        return _complain("interrupted; everything is stopped", 130)


def _start(options: argparse.Namespace) -> int:
    """Run the chosen command, if all is there that it needs."""
    try:
        if options.needs is not None:
            _require(options.needs)
    except ImportError as error:
        return _complain(f"this command needs {error.name or error}; pip install 'otel-sessions[{options.extra}]'", 2)
    except ConfigError as error:
        return _complain(str(error), 2)
    command: Callable[[argparse.Namespace], int] = options.command
    return command(options)


def _proxy(options: argparse.Namespace) -> int:
    from .proxy.server import run
    from .proxy.settings import read

    try:
        return run(read(options, os.environ))
    except (ConfigError, OSError) as error:
        return _complain(str(error), 2)


def _load(options: argparse.Namespace) -> int:
    from .demo.generator import LoadOptions, generate

    return generate(
        LoadOptions(
            target=options.target,
            duration=options.duration,
            clients=options.clients,
            rate=options.rate,
            seed=options.seed,
            cycle=None if options.steady else options.cycle,
        )
    )


def _demo(options: argparse.Namespace) -> int:
    from .demo.processes import PortTaken
    from .demo.report import ReportFailed
    from .demo.run import DemoFailed, Options, run
    from .demo.show import OutputClosed, OutputFailed
    from .proxy.otlp import ENDPOINT, require_exporters

    try:
        if options.otlp is not None:
            require_exporters({**os.environ, ENDPOINT: options.otlp})
        return run(
            Options(
                duration=options.duration,
                clients=options.clients,
                rate=options.rate,
                seed=options.seed,
                twin=not options.no_twin,
                report=options.report,
                otlp=options.otlp,
                port=options.port,
                twin_port=options.twin_port,
                upstream_port=options.upstream_port,
            )
        )
    except (ConfigError, OutputFailed, PortTaken, ReportFailed) as error:
        return _complain(str(error), 2)
    except DemoFailed as error:
        return _complain(str(error), 1)
    except OutputClosed:
        return _CLOSED_PIPE


def _export_show(options: argparse.Namespace) -> int:
    from .show import show

    try:
        unreadable = show(options.files, sys.stdout, reasons=options.reason or _REASONS, client=options.client)
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else it is flushed, and fails, again at exit
        return 0 if isinstance(error, BrokenPipeError) else _complain(f"the table cannot be written: {error}", 1)
    for failure in unreadable:
        _complain(str(failure), 2)
    return 2 if unreadable else 0


def _require(needs: str) -> None:
    """Raise `ImportError` for what is not installed, `ConfigError` for an export that the environment asks wrongly."""
    for module in _NEEDS[needs]:
        if find_spec(module) is None:  # not imported: matplotlib takes half a second, and is needed last
            raise ModuleNotFoundError(name=module)
    from .proxy.otlp import require_exporters

    require_exporters()


def _complain(text: str, status: int) -> int:
    print(f"otel-sessions: {text}", file=sys.stderr)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="otel-sessions", description="Sessions of a proxy, bounded and accounted for, in OpenTelemetry."
    )
    parser.add_argument("--version", action="version", version=f"otel-sessions {__version__}")
    commands = parser.add_subparsers(metavar="command", required=True)
    _add_demo(commands.add_parser("demo", help="run a proxy under load, and show that its memory stays bounded"))
    proxy = commands.add_parser("proxy", help="a reverse proxy whose clients' sessions are bounded", allow_abbrev=False)
    _add_proxy(proxy)
    _add_load(commands.add_parser("load", help="drive a proxy that runs somewhere with virtual clients"))
    _add_export(commands.add_parser("export", help="read the records of ended sessions that a sink has written"))
    return parser


def _add_export(parser: argparse.ArgumentParser) -> None:
    parser.description = "Read the files that a JsonLinesSink, or a proxy with --export, has written."
    commands = parser.add_subparsers(metavar="command", required=True)
    parser = commands.add_parser("show", help="print them as a table")
    parser.description = (
        "Print records as a table, rotated files from the oldest on, and count what is skipped: lines that a crash or "
        "a full disk has torn, and lines that are no records."
    )
    parser.set_defaults(command=_export_show, needs=None)
    parser.add_argument("files", nargs="+", metavar="FILE", help="a file, also a rotated one; - is stdin")
    parser.add_argument(
        "--reason", action="append", choices=_REASONS, metavar="REASON", help=f"only {', '.join(_REASONS)}; repeatable"
    )
    parser.add_argument("--client", default="", metavar="HASH", help="only the client whose hash begins so")


def _add_proxy(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Pass HTTP requests and WebSockets on to an upstream, each in a session that is bounded and accounted for. "
        "Flags go over the environment (OTEL_SESSIONS_*), that over --config, that over the defaults. With "
        "OTEL_EXPORTER_OTLP_ENDPOINT set, metrics, traces and logs go to that collector."
    )
    parser.set_defaults(command=_proxy, needs="proxy", extra="proxy")
    add_arguments(parser)


def _add_demo(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Start an upstream and two proxies on this machine, one of them without cleanup and cap, drive both with the "
        "same virtual clients, show how they do, sum up, and write a report. OTEL_SESSIONS_* changes the limits of the "
        "proxy with cleanup and cap. With --otlp, or OTEL_EXPORTER_OTLP_ENDPOINT set, both export metrics, traces and "
        "logs to that collector. Exits 0 when the books balance, cleanup works and memory is bounded, 1 when they do "
        "not or the run was too short to tell, 2 when it could not be tried or its report not written, 130 on Ctrl-C, "
        "141 when nobody reads its output any more."
    )
    parser.formatter_class = argparse.ArgumentDefaultsHelpFormatter
    parser.set_defaults(command=_demo, needs="demo", extra="demo")
    add = parser.add_argument
    add("--duration", type=positive, default=45.0, metavar="SECONDS", help="how long the load lasts")
    _add_clients(parser, 200)
    add("--no-twin", action="store_true", help="only the proxy with cleanup and cap")
    add("--report", type=Path, default=Path("otel-sessions-demo"), metavar="DIR", help="where the report is written to")
    add("--otlp", type=origin, metavar="ENDPOINT", help="the collector that both proxies export to")
    add("--port", type=port, default=8080, help="where the proxy listens, 0 for any free port")
    add("--twin-port", type=port, default=0, metavar="PORT", help="the same for the twin")
    add("--upstream-port", type=port, default=0, metavar="PORT", help="the same for the upstream")


def _add_load(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Drive a proxy in front of an MCP server with virtual clients, until it is stopped: a ramp, steady use, a "
        "burst past the cap, a mass abandonment and a recovery, again and again. With OTEL_EXPORTER_OTLP_ENDPOINT set, "
        "what it says goes to that collector, too. Exits 0, or 1 if the proxy has never answered."
    )
    parser.formatter_class = argparse.ArgumentDefaultsHelpFormatter
    parser.set_defaults(command=_load, needs="load", extra="demo")
    parser.add_argument("--target", type=origin, required=True, metavar="URL", help="where the proxy is")
    parser.add_argument("--duration", type=positive, metavar="SECONDS", help="stop by itself after so long")
    _add_clients(parser, 300)
    parser.add_argument("--cycle", type=positive, default=150.0, metavar="SECONDS", help="how long all phases take")
    parser.add_argument("--steady", action="store_true", help="no phases: all clients, all the time")


def _add_clients(parser: argparse.ArgumentParser, usual: int) -> None:
    parser.add_argument("--clients", type=count, default=usual, metavar="N", help="how many virtual clients there are")
    parser.add_argument("--rate", type=positive, default=1.0, metavar="X", help="how much faster than usual they are")
    parser.add_argument("--seed", type=whole, default=1, metavar="N", help="what the clients' dice start from")


if __name__ == "__main__":
    sys.exit(main())
