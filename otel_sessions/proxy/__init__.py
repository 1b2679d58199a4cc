"""The reference proxy: a reverse proxy whose clients' sessions are bounded and accounted for.

`Proxy` runs the reverse proxy, and `Settings` holds its settings. `server` has `Proxy`, and `_uvicorn` serves it.
`forward` and `websocket` pass exchanges on, and `upstream` is the client towards the upstream. `rules` and `headers`
decide what passes. After an exchange, the proxy keeps nothing of it except its session.
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
    """Import `Proxy` when it is first used: settings can be read without the extra `proxy`."""
    if name != "Proxy":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    proxy: object = import_module(".server", __name__).Proxy
    globals()[name] = proxy
    return proxy
