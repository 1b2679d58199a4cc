"""A session manager for proxies: bounded memory, every session accounted for, its whole life in OpenTelemetry."""

from ._leases import Hold
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
from .session import UNSET, Session, SessionMetadata
from .sink import JsonLinesSink, SessionSink
from .stats import CleanupReport, SessionStats
from .words import EndReason, Outcome, RejectionReason, SessionState, Trigger

__all__ = [
    "UNSET",
    "CleanupReport",
    "ConfigError",
    "EndReason",
    "Hold",
    "JsonLinesSink",
    "ManagerClosed",
    "Outcome",
    "RejectionReason",
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
    "TooManySessions",
    "Trigger",
    "__version__",
]
