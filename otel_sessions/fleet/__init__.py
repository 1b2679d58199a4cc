"""Fleets: several processes that find each other's sessions.

A public name is imported on first use, since some of them need an extra.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from .static import StaticPeers
    from .workers import WorkerPeers

__all__ = ["StaticPeers", "WorkerPeers"]

_HOMES: Final = {"StaticPeers": "static", "WorkerPeers": "workers"}


def __getattr__(name: str) -> object:
    """Import a public name from its module. Raises `AttributeError` if the name is not public."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
