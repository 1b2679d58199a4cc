"""How a program of the demo serves until it is told to stop.

It listens on an address of its own, or on a socket that its parent has bound. It stops in order on SIGTERM, and a child
does so when its parent is gone, however that came. What it has to say goes to stderr.
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
from otel_sessions._program.logs import complain, log_to_stderr
from otel_sessions._program.otlp import require_exporters
from otel_sessions._program.sockets import listen_as


def add_descriptor(parser: argparse.ArgumentParser) -> None:
    """Add the flag that a parent gives its child."""
    parser.add_argument(
        "--descriptor", type=int, metavar="N", help="the listening socket that the parent has left (default: none)"
    )


def inherited(options: argparse.Namespace) -> socket.socket | None:
    """Return the socket that the parent has left, None without one; from then on the process stops with its parent."""
    if options.descriptor is None:
        return None
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    return socket.socket(fileno=options.descriptor)


def log(options: argparse.Namespace, log_format: str = "text") -> None:
    """Write the log to stderr; of a child, whose parent shows a view, only what is wrong."""
    log_to_stderr(log_format, shown=logging.INFO if options.descriptor is None else logging.WARNING)


def serve(app: Starlette, options: argparse.Namespace) -> None:
    """Serve `app` where the options say, until SIGTERM; leave with status 2 where that is not possible.

    The process dies of that signal in the end, as is usual, once the app's lifespan is over.
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
        timeout_keep_alive=60,  # longer than any client keeps a connection, so that only clients drop one
        timeout_graceful_shutdown=1,
    )
    uvicorn.Server(config).run(sockets=[listener])


def give_up(error: Exception) -> NoReturn:
    """Say what is wrong, in a line, and leave with status 2."""
    complain(error)
    raise SystemExit(2)


def _stop_with_parent() -> None:
    """Wait for the end of stdin: the parent never writes to it, but its end of the pipe goes when it does."""
    while os.read(sys.stdin.fileno(), 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
