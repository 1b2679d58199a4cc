"""How a program of the demo serves until it is told to stop.

The program listens on an address, or on a socket that its parent has bound. It stops in order on SIGTERM. A child also
stops when its parent is gone, for whatever reason. The log goes to stderr.
"""

import argparse
import logging
import os
import signal
import socket
import sys
import threading
from typing import NoReturn

import uvicorn
from starlette.applications import Starlette

from otel_sessions import ConfigError
from otel_sessions._program.exporters import require_exporters
from otel_sessions._program.logs import complain, log_to_stderr
from otel_sessions._program.sockets import listen_as


def add_descriptor(parser: argparse.ArgumentParser) -> None:
    """Add the flag that a parent passes to its child."""
    parser.add_argument(
        "--descriptor", type=int, metavar="N", help="the listening socket that the parent passes on (default: none)"
    )


def inherited(options: argparse.Namespace) -> socket.socket | None:
    """Return the parent's socket and stop with the parent from now on, or return None without `--descriptor`."""
    if options.descriptor is None:
        return None
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    return socket.socket(fileno=options.descriptor)


def log(options: argparse.Namespace, log_format: str = "text") -> None:
    """Write the log to stderr. A child writes only warnings and errors, since its parent shows a view."""
    log_to_stderr(log_format, shown=logging.INFO if options.descriptor is None else logging.WARNING)


def serve(app: Starlette, options: argparse.Namespace) -> None:
    """Serve `app` until SIGTERM. Exit with status 2 if this is not possible.

    When the app's lifespan is over, the process dies of the signal, as is usual.
    """
    try:
        require_exporters()
        listener = inherited(options) or listen_as("--listen", options.listen)
    except ConfigError as error:
        give_up(error)
    log(options)
    config = uvicorn.Config(
        app,
        lifespan="on",
        ws="none",
        log_config=None,
        access_log=False,
        timeout_keep_alive=60,  # longer than any client keeps a connection, so only clients close connections
        timeout_graceful_shutdown=1,
    )
    uvicorn.Server(config).run(sockets=[listener])


def give_up(error: Exception) -> NoReturn:
    """Write an error in one line and exit with status 2."""
    complain(error)
    raise SystemExit(2)


def _stop_with_parent() -> None:
    """Wait for the end of stdin. The parent never writes to it, but its end of the pipe closes when the parent ends."""
    while os.read(sys.stdin.fileno(), 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
