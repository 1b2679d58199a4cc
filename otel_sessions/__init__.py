"""A session manager for proxies: bounded memory, every session accounted for, its whole life in OpenTelemetry.

A name is imported when it is first used, so that the command can answer Ctrl-C before anything heavy is loaded.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Final

from ._version import __version__

if TYPE_CHECKING:
    from ._callbacks import CloseHook
    from ._capacity import Reservation
    from ._ids import fingerprint
    from ._leases import Hold, Lease, Pin
    from .config import SessionConfig
    from .exceptions import (
        ConfigError,
        ManagerClosed,
        SessionError,
        SessionExists,
        SessionNotFound,
        SinkClosed,
        SinkFull,
        TooManySessions,
    )
    from .manager import SessionManager
    from .records import Record, read_records
    from .session import UNSET, Limit, Session, SessionMetadata, Unset
    from .sink import JsonLinesSink, SessionSink
    from .stats import CleanupReport, SessionStats
    from .words import EndReason, Outcome, PerClientAtCap, RejectionReason, SessionState, Skipped, Trigger

__all__ = [
    "UNSET",
    "CleanupReport",
    "CloseHook",
    "ConfigError",
    "EndReason",
    "Hold",
    "JsonLinesSink",
    "Lease",
    "Limit",
    "ManagerClosed",
    "Outcome",
    "PerClientAtCap",
    "Pin",
    "Record",
    "RejectionReason",
    "Reservation",
    "Session",
    "SessionConfig",
    "SessionError",
    "SessionExists",
    "SessionManager",
    "SessionMetadata",
    "SessionNotFound",
    "SessionSink",
    "SessionState",
    "SessionStats",
    "SinkClosed",
    "SinkFull",
    "Skipped",
    "TooManySessions",
    "Trigger",
    "Unset",
    "__version__",
    "fingerprint",
    "read_records",
]

_NAMES: Final = {
    "_callbacks": ("CloseHook",),
    "_capacity": ("Reservation",),
    "_ids": ("fingerprint",),
    "_leases": (
        "Hold",
        "Lease",
        "Pin",
    ),
    "config": ("SessionConfig",),
    "exceptions": (
        "ConfigError",
        "ManagerClosed",
        "SessionError",
        "SessionExists",
        "SessionNotFound",
        "SinkClosed",
        "SinkFull",
        "TooManySessions",
    ),
    "manager": ("SessionManager",),
    "records": (
        "Record",
        "read_records",
    ),
    "session": (
        "UNSET",
        "Limit",
        "Session",
        "SessionMetadata",
        "Unset",
    ),
    "sink": (
        "JsonLinesSink",
        "SessionSink",
    ),
    "stats": (
        "CleanupReport",
        "SessionStats",
    ),
    "words": (
        "EndReason",
        "Outcome",
        "PerClientAtCap",
        "RejectionReason",
        "SessionState",
        "Skipped",
        "Trigger",
    ),
}
_HOMES: Final = {name: module for module, names in _NAMES.items() for name in names}


def __getattr__(name: str) -> object:
    """Import a public name from the module that has it."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
