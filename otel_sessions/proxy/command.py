"""The command `otel-sessions proxy`: one process, or several, which `workers_command` runs.

What a configuration does not use is not imported: a proxy has as little memory as it needs from the start.
"""

import asyncio
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from importlib.util import find_spec
from typing import Final

from otel_sessions._core.events import Event
from otel_sessions._core.exceptions import ConfigError
from otel_sessions._program.logs import log_to_stderr
from otel_sessions._program.otlp import exporting

from . import options
from ._uvicorn import quieten
from .listeners import open_listeners
from .server import Proxy
from .settings import Settings, export_of, unread_variables

_logger = logging.getLogger("otel_sessions.proxy")
SERVICE: Final = "otel-sessions-proxy"
_CLOSE_SECONDS: Final = 1.0
"""How long the loop may take to close, once the proxy has ended in order and its telemetry is flushed."""


def run(settings: Settings) -> int:
    """Serve until SIGINT, SIGTERM or SIGHUP, then return 0.

    Raises `ConfigError`, which names the flag, if an address cannot be listened on or the file of `--export` cannot be
    opened. With several workers, a worker says so itself, and the status is 2. A worker that could not end is 1.
    """
    log_to_stderr(settings.log_format)
    quieten()
    for warning in unread_variables(os.environ):
        _logger.warning("%s", warning, extra=Event.VARIABLE_UNKNOWN.extra)
    if settings.workers == 1:
        return _run_one(settings)
    from .workers_command import run_workers

    return run_workers(settings)


def _run_one(settings: Settings) -> int:
    settings = replace(settings, export=export_of(settings.export, 1))
    listeners, health = open_listeners(settings)
    with ExitStack() as opened, running(settings.loop) as runner, exporting(SERVICE):
        for listener in listeners:
            opened.enter_context(listener)  # also where no proxy can be made, which closes them
        runner.run(_serve(settings, listeners, health))
    return 0


async def _serve(settings: Settings, listeners: Sequence[socket.socket], health: socket.socket | None) -> None:
    await Proxy(settings, listener=listeners, health=health).serve()


@contextmanager
def running(loop: str) -> Iterator[asyncio.Runner]:
    """Run a proxy in the block, and end the process if its loop does not close soon after.

    The loop waits for the threads that look up names, and a resolver may take half a minute. Nobody needs the answer.
    """
    with asyncio.Runner(loop_factory=loop_factory(loop)) as runner:
        yield runner
        late = threading.Timer(_CLOSE_SECONDS, os._exit, (0,))
        late.daemon = True
        late.start()
        try:
            runner.close()
        finally:
            late.cancel()


def loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return what makes the event loop of that name, None for asyncio's own. Raises `ConfigError`, with the flag."""
    if name == "asyncio":
        return None
    if find_spec("uvloop") is None:
        if name == "uvloop":
            raise ConfigError(f"{options.LOOP.flag} uvloop: uvloop is not installed")
        return None
    import uvloop

    return uvloop.new_event_loop
