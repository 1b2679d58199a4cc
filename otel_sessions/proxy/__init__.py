"""The reference proxy: a reverse proxy whose clients' sessions are bounded and accounted for.

`Proxy` runs it and `Settings` say how; `server` has the former and `_uvicorn` what serves it. `forward` and `websocket`
pass exchanges on, `upstream` is the way to the server behind, `rules` and `headers` say what passes, `settings` what
can be set. Nothing of an exchange is kept but its session.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from .headers import Trust
from .peer import Peer
from .rules import Rules, Timeouts
from .settings import Settings

if TYPE_CHECKING:
    from .server import Proxy

__all__ = ["Peer", "Proxy", "Rules", "Settings", "Timeouts", "Trust"]


def __getattr__(name: str) -> object:
    """Import `Proxy` when it is first used: settings can be read where the extra `proxy` is not installed."""
    if name != "Proxy":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    proxy: object = import_module(".server", __name__).Proxy
    globals()[name] = proxy
    return proxy
