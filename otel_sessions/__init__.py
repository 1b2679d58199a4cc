"""A session manager for proxies. Memory is bounded, every session is counted, and OpenTelemetry shows its whole life.

A public name is imported on first use. So the command can handle Ctrl-C before it loads a heavy module, as `typing` is.
"""

from ._lazy import lazily
from ._version import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._core.config import SessionConfig
    from ._core.exceptions import (
        ConfigError,
        ManagerClosed,
        PeerUnavailable,
        SessionError,
        SessionExists,
        SessionNotFound,
        SinkClosed,
        SinkFull,
        StoreUnavailable,
        TooManySessions,
    )
    from ._core.ids import fingerprint
    from ._core.limits import UNSET, Limit, Unset
    from ._core.listing import RecentEnd, SessionInfo, SessionLimits, SessionPage
    from ._core.session import Session, SessionMetadata
    from ._core.stats import CleanupReport, SessionStats
    from ._core.words import EndReason, Outcome, PerClientAtCap, RejectionReason, SessionState, Trigger
    from ._engine.admission import Reservation
    from ._engine.ending import CloseHook
    from ._engine.hooks import SessionSink
    from ._engine.leases import Hold, Lease, Pin
    from ._engine.manager import SessionManager
    from ._engine.owners import Fleet, Here, Peer
    from .sinks._jsonlines import JsonLinesSink
    from .sinks.records import Record, Skipped, read_records

__all__ = [
    "UNSET",
    "CleanupReport",
    "CloseHook",
    "ConfigError",
    "EndReason",
    "Fleet",
    "Here",
    "Hold",
    "JsonLinesSink",
    "Lease",
    "Limit",
    "ManagerClosed",
    "Outcome",
    "Peer",
    "PeerUnavailable",
    "PerClientAtCap",
    "Pin",
    "RecentEnd",
    "Record",
    "RejectionReason",
    "Reservation",
    "Session",
    "SessionConfig",
    "SessionError",
    "SessionExists",
    "SessionInfo",
    "SessionLimits",
    "SessionManager",
    "SessionMetadata",
    "SessionNotFound",
    "SessionPage",
    "SessionSink",
    "SessionState",
    "SessionStats",
    "SinkClosed",
    "SinkFull",
    "Skipped",
    "StoreUnavailable",
    "TooManySessions",
    "Trigger",
    "Unset",
    "__version__",
    "fingerprint",
    "read_records",
]

_NAMES = {
    "_engine.ending": ("CloseHook",),
    "_engine.hooks": ("SessionSink",),
    "_engine.admission": ("Reservation",),
    "_core.ids": ("fingerprint",),
    "_engine.leases": (
        "Hold",
        "Lease",
        "Pin",
    ),
    "_core.config": ("SessionConfig",),
    "_core.exceptions": (
        "ConfigError",
        "ManagerClosed",
        "PeerUnavailable",
        "SessionError",
        "SessionExists",
        "SessionNotFound",
        "SinkClosed",
        "SinkFull",
        "StoreUnavailable",
        "TooManySessions",
    ),
    "_engine.manager": ("SessionManager",),
    "_engine.owners": ("Fleet", "Here", "Peer"),
    "sinks.records": ("Record", "Skipped", "read_records"),
    "_core.limits": ("UNSET", "Limit", "Unset"),
    "_core.listing": ("RecentEnd", "SessionInfo", "SessionLimits", "SessionPage"),
    "_core.session": ("Session", "SessionMetadata"),
    "sinks._jsonlines": ("JsonLinesSink",),
    "_core.stats": (
        "CleanupReport",
        "SessionStats",
    ),
    "_core.words": (
        "EndReason",
        "Outcome",
        "PerClientAtCap",
        "RejectionReason",
        "SessionState",
        "Trigger",
    ),
}
_HOMES = {name: module for module, names in _NAMES.items() for name in names}

__getattr__ = lazily(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
