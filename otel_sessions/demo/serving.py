"""How a process of the demo serves its app: on a socket that its parent has bound, until it is told to stop.

It stops in order on SIGTERM, and so it does when its parent is gone, however that came.
"""

import os
import signal
import socket
import sys
import threading

import uvicorn
from starlette.applications import Starlette


def serve(app: Starlette, listener: int) -> None:
    """Serve `app` on the listening socket with that file descriptor, until SIGTERM.

    The process dies of that signal in the end, as is usual, once the app's lifespan is over.
    """
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    config = uvicorn.Config(
        app,
        lifespan="on",
        ws="none",
        log_level="warning",
        access_log=False,
        timeout_keep_alive=60,  # longer than any client keeps a connection, so that only clients drop one
        timeout_graceful_shutdown=1,
    )
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=listener)])


def _stop_with_parent() -> None:
    """Wait for the end of stdin: the parent never writes to it, but its end of the pipe goes when it does."""
    while os.read(sys.stdin.fileno(), 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
