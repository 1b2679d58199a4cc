"""Every closed set of words that sessions, passes, signals and records use.

Each word is a `StrEnum` member: it compares and hashes as its text, so the same spelling stands in code, in
configuration, on metrics and in dashboards.
"""

from enum import StrEnum


class SessionState(StrEnum):
    """Where a session is in its life."""

    ACTIVE = "active"
    CLOSING = "closing"
    CLOSED = "closed"
    FAILED = "failed"


class EndReason(StrEnum):
    """Why a session was cleaned. Each session has exactly one."""

    IDLE_TIMEOUT = "idle_timeout"
    MAX_AGE = "max_age"
    CLOSED = "closed"
    FAILED = "failed"
    EVICTED = "evicted"
    SHUTDOWN = "shutdown"


class Trigger(StrEnum):
    """What started a cleanup pass."""

    INTERVAL = "interval"
    EMERGENCY = "emergency"
    MANUAL = "manual"
    SHUTDOWN = "shutdown"


class Outcome(StrEnum):
    """How a cleanup pass went: `partial` if a hook or the sink failed, `error` if the pass itself aborted."""

    SUCCESS = "success"
    PARTIAL = "partial"
    ERROR = "error"
    CANCELLED = "cancelled"


class RejectionReason(StrEnum):
    """Why a session was refused."""

    MAX_SESSIONS = "max_sessions"
    MAX_SESSIONS_PER_CLIENT = "max_sessions_per_client"
    SHUTDOWN = "shutdown"


class PerClientAtCap(StrEnum):
    """What happens when a client that has `max_sessions_per_client` sessions asks for one more."""

    REFUSE = "refuse"
    EVICT_OLDEST = "evict_oldest"


class Occupancy(StrEnum):
    """How a place that a session takes is used; the states of `otel_sessions.session.active`."""

    UNLEASED = "unleased"
    LEASED = "leased"
    CLOSING = "closing"


class CleanupError(StrEnum):
    """What failed during a cleanup; the `error.type` of `otel_sessions.cleanup.errors`.

    `OTHER` is the fallback that OpenTelemetry's semantic conventions name for `error.type`.
    """

    TIMEOUT = "timeout"
    HOOK = "hook"
    SINK = "sink"
    PASS = "pass"
    OTHER = "_OTHER"


class Skipped(StrEnum):
    """Why a line of a sink's file is no record: it begins like one and was not finished, or is something else."""

    TORN = "torn"
    FOREIGN = "foreign"
