"""Fleets: several processes that find each other's sessions.

A public name is imported on first use, since some of them need an extra.
"""

from typing import TYPE_CHECKING, Final

from otel_sessions._lazy import lazily

if TYPE_CHECKING:
    from .orphan_hooks import Orphan
    from .static import StaticPeers
    from .valkey_fleet import ValkeyFleet
    from .workers import WorkerPeers

__all__ = ["Orphan", "StaticPeers", "ValkeyFleet", "WorkerPeers"]

_HOMES: Final = {
    "Orphan": "orphan_hooks",
    "StaticPeers": "static",
    "ValkeyFleet": "valkey_fleet",
    "WorkerPeers": "workers",
}

__getattr__ = lazily(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
