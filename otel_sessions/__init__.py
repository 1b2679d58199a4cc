"""A session manager for proxies: bounded memory, every session accounted for, its whole life in OpenTelemetry."""

from ._callbacks import CloseHook
from ._capacity import Reservation
from ._ids import fingerprint
from ._leases import Hold, Lease, Pin
from ._version import __version__
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
