"""The command line: `otel-sessions demo`. It reads arguments, and turns what goes wrong into an exit status.

0 means well, 1 that what was asked for went wrong, 2 that it could not be tried, 130 that it was interrupted.
"""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from . import ConfigError, __version__

_DEMO_NEEDS = ("httpx2", "psutil", "rich", "starlette", "uvicorn")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status. Wrong arguments leave by `SystemExit`, with status 2."""
    options = _parser().parse_args(arguments)
    try:
        return _demo(options)
    except KeyboardInterrupt:
        return _complain("interrupted; everything is stopped", 130)


def _demo(options: argparse.Namespace) -> int:
    try:
        _require_demo()
    except ImportError as error:
        return _complain(f"the demo needs {error.name or error}; pip install 'otel-sessions[demo]'", 2)
    except ConfigError as error:
        return _complain(str(error), 2)
    from .demo.processes import PortTaken
    from .demo.run import Options, ProxyLost, run

    try:
        return run(
            Options(
                duration=options.duration,
                clients=options.clients,
                seed=options.seed,
                port=options.port,
                upstream_port=options.upstream_port,
            )
        )
    except (ConfigError, PortTaken) as error:
        return _complain(str(error), 2)
    except ProxyLost as error:
        return _complain(str(error), 1)


def _require_demo() -> None:
    """Raise `ImportError` for what is not installed, `ConfigError` for an export that the environment asks wrongly."""
    for module in _DEMO_NEEDS:
        import_module(module)
    from .demo.otlp import require_exporters

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
    demo = commands.add_parser(
        "demo",
        help="run a proxy under load and show that its memory stays bounded and its books balance",
        description="Start an upstream and a proxy on this machine, drive them with virtual clients, and sum up. "
        "With OTEL_EXPORTER_OTLP_ENDPOINT set, the proxy exports metrics and traces to that collector. "
        "OTEL_SESSIONS_* changes the proxy's limits.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    demo.add_argument("--duration", type=_seconds, default=30.0, metavar="SECONDS", help="how long the load lasts")
    demo.add_argument("--clients", type=_count, default=300, metavar="N", help="how many virtual clients there are")
    demo.add_argument("--seed", type=int, default=1, metavar="N", help="what the clients' dice start from")
    demo.add_argument("--port", type=_port, default=8080, help="where the proxy listens, 0 for any free port")
    demo.add_argument("--upstream-port", type=_port, default=0, metavar="PORT", help="the same for the upstream")
    return parser


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"takes a positive number of seconds, not {text}")
    return seconds


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError(f"takes a whole number of at least 1, not {text}")
    return count


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65535:
        raise argparse.ArgumentTypeError(f"takes a port from 0 to 65535, not {text}")
    return port


if __name__ == "__main__":
    sys.exit(main())
