"""The demo's proxy: the reference proxy with sessions that hold memory, and readings of its manager on stdout.

Everything else is the same as in `otel-sessions proxy`, also the flags and the environment.
"""

import argparse
import asyncio
import logging
import os
import socket
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from typing import NoReturn

from otel_sessions import ConfigError
from otel_sessions._core.options import text
from otel_sessions._program.arguments import argument, positive
from otel_sessions._program.exporters import require_exporters
from otel_sessions._program.otlp import exporting
from otel_sessions.proxy import Proxy, Settings
from otel_sessions.proxy._uvicorn import quieten
from otel_sessions.proxy.listeners import open_listeners
from otel_sessions.proxy.settings import add_arguments, read, unread_variables

from .mortal import die_in_turn, read_turn
from .readings import Readings, Weights
from .serving import add_descriptor, give_up, inherited, log

_logger = logging.getLogger("otel_sessions.proxy")


def main() -> None:
    """Serve until SIGTERM. If this is not possible, write a line that says why and exit with status 2."""
    options = _parser().parse_args()
    try:
        require_exporters()
        settings = read(options, os.environ)
        if settings.workers > 1:
            _run_workers(options, settings)
        given = inherited(options)
        listeners, health = open_listeners(settings, () if given is None else (given,))
    except (ConfigError, OSError) as error:
        give_up(error)
    log(options, settings.log_format)
    quieten()
    for warning in unread_variables(os.environ) if options.descriptor is None else ():  # else the parent has said it
        _logger.warning("%s", warning)
    if options.dies_in_turn is not None:
        die_in_turn(options.dies_in_turn)
    weights = Weights()
    with ExitStack() as stack:
        readings = stack.enter_context(Readings(options.readings, weights)) if options.readings else None
        stack.enter_context(exporting("otel-sessions-proxy"))
        asyncio.run(_serve(settings, listeners, health, weights, readings))


def _run_workers(options: argparse.Namespace, settings: Settings) -> NoReturn:
    """Run several workers, each with sessions that hold memory. They give no readings."""
    from otel_sessions.proxy.workers_command import run_workers

    if options.readings or options.descriptor is not None:
        raise ConfigError("--workers gives no readings, and takes no socket of a parent")
    log(options, settings.log_format)
    quieten()
    sys.exit(run_workers(settings, Weights().remember))


async def _serve(
    settings: Settings,
    listeners: Sequence[socket.socket],
    health: socket.socket | None,
    weights: Weights,
    readings: Readings | None,
) -> None:
    proxy = Proxy(settings, listener=listeners, health=health, session_data=weights.remember)
    with proxy.ended_by_signals():
        async with proxy:
            if readings is not None:
                readings.follow(proxy.manager)
            await proxy.wait_closed()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="otel-sessions proxy with sessions that hold memory.")
    add_arguments(parser)
    add_descriptor(parser)
    parser.add_argument(
        "--readings",
        type=positive,
        metavar="SECONDS",
        help="the interval at which readings are written to stdout (seconds; default: off)",
    )
    parser.add_argument(
        "--dies-in-turn",
        type=argument(text("a turn as 1/3", read_turn)),
        metavar="N/TURNS",
        help="the turn in which the process kills itself; each minute is the turn of another one (default: never)",
    )
    return parser


if __name__ == "__main__":
    main()
