"""The reference proxy: a reverse proxy whose clients' sessions are bounded and accounted for.

`Proxy` runs the reverse proxy, and `Settings` holds its settings. `server` has `Proxy`, and `_uvicorn` serves it.
`forward` and `websocket` pass exchanges on, and `upstream` is the client towards the upstream. `rules` and `headers`
decide what passes. After an exchange, the proxy keeps nothing of it except its session.

`Proxy` is imported on first use: settings can be read without the extra `proxy`.
"""

from typing import TYPE_CHECKING

from otel_sessions._lazy import lazily

from .fleet_settings import FleetSettings
from .headers import Trust
from .peer import Peer
from .rules import Rules, Timeouts
from .settings import Settings

if TYPE_CHECKING:
    from .server import Proxy

__all__ = ["FleetSettings", "Peer", "Proxy", "Rules", "Settings", "Timeouts", "Trust"]

__getattr__ = lazily(__name__, {"Proxy": "server"})
