"""Every closed set of words that sessions, passes, signals and records use.

Each word is a `StrEnum` member, which compares and hashes as its text. So code, configuration, metrics and dashboards
use the same spelling.
"""

from enum import StrEnum
from typing import Final


class SessionState(StrEnum):
    """Where a session is in its life. A `closing` session is hidden, and its end is not complete yet."""

    ACTIVE = "active"
    CLOSING = "closing"
    CLOSED = "closed"
    FAILED = "failed"


class EndReason(StrEnum):
    """Why a session was ended. Each session is ended and counted for exactly one reason.

    `fenced` is for a session that this process has lost to another process of its fleet. A close hook should let go of
    what is local then, and leave alone what the other process may use.
    """

    IDLE_TIMEOUT = "idle_timeout"
    MAX_AGE = "max_age"
    CLOSED = "closed"
    FAILED = "failed"
    EVICTED = "evicted"
    SHUTDOWN = "shutdown"
    FENCED = "fenced"


class Trigger(StrEnum):
    """What started a cleanup pass."""

    INTERVAL = "interval"
    EMERGENCY = "emergency"
    MANUAL = "manual"
    SHUTDOWN = "shutdown"


class Outcome(StrEnum):
    """How a cleanup pass went.

    `partial` if a close hook or the sink failed, `error` if the pass aborted, `cancelled` if the pass was cut short.
    """

    SUCCESS = "success"
    PARTIAL = "partial"
    ERROR = "error"
    CANCELLED = "cancelled"


class RejectionReason(StrEnum):
    """Why a session was refused."""

    MAX_SESSIONS = "max_sessions"
    MAX_SESSIONS_PER_CLIENT = "max_sessions_per_client"
    SHUTDOWN = "shutdown"
    FLEET = "fleet"


class Forwarded(StrEnum):
    """What became of a request that was passed on to another process of the fleet."""

    ANSWERED = "answered"
    """The owner of the session has answered."""
    NOT_OWNER = "not_owner"
    """The process has another name, or does not have the session any more."""
    NOT_PEER = "not_peer"
    """No process of the fleet has signed the answer."""
    GONE = "gone"
    """No process listens at the address."""
    UNAVAILABLE = "unavailable"
    """The process gave no complete answer, or this process shut down before the answer was complete."""
    REFUSED = "refused"
    """The process did not accept the signature."""
    LEFT = "left"
    """The client left, or the server of this process ended the request."""


class PerClientAtCap(StrEnum):
    """What happens when a client that has `max_sessions_per_client` sessions asks for one more."""

    REFUSE = "refuse"
    EVICT_OLDEST = "evict_oldest"


class Occupancy(StrEnum):
    """How a session uses its place: the states on the metric `otel_sessions.session.active`."""

    UNLEASED = "unleased"
    LEASED = "leased"
    CLOSING = "closing"


class CleanupStage(StrEnum):
    """Where an error during cleanup happened: a close hook, the sink, or the work of the manager itself."""

    HOOK = "hook"
    SINK = "sink"
    PASS = "pass"


class OrphanOutcome(StrEnum):
    """What became of a dead process's session that this process has claimed."""

    CLEANED = "cleaned"
    """Its hook has run, and the store has counted its end."""
    FAILED = "failed"
    """Its hook failed or took too long. The store has counted its end all the same."""
    TAKEN = "taken"
    """Another process has claimed it meanwhile, since the hook took longer than the claim."""


class Resync(StrEnum):
    """What this process told the store again, since the store had lost it."""

    PUT = "put"
    """A session that lives."""
    ENDED = "ended"
    """The end of a session."""


class LookupOutcome(StrEnum):
    """How the owner of a session that is not here was looked for."""

    HINT = "hint"
    """The id names its owner."""
    CACHE = "cache"
    """The store has said so within the last beat."""
    FOUND = "found"
    """The store was asked, and named the owner."""
    NONE = "none"
    """The store was asked, and has no such session."""
    REFUSED = "refused"
    """Too many look-ups were under way, or the store gave no answer."""


class StoreOperation(StrEnum):
    """What a fleet asks its store: the names of the scripts."""

    JOIN = "join"
    BEAT = "beat"
    BURY = "bury"
    LEAVE = "leave"
    SUSPECT = "suspect"
    MEMBERS = "members"
    PUT = "put"
    END = "end"
    LOOK = "look"
    CLAIM = "claim"
    SETTLE = "settle"
    RECLAIM = "reclaim"
    AUDIT = "audit"
    PAGE = "page"


class StoreOutcome(StrEnum):
    """What became of a call to the store of a fleet."""

    ANSWERED = "answered"
    UNAVAILABLE = "unavailable"
    """No answer came in time. The store may have done its work all the same."""


class MemberState(StrEnum):
    """What the store says of a process of the fleet. A `dead` process is one whose sessions are not all cleaned."""

    LIVING = "living"
    DEAD = "dead"


class FleetEndReason(StrEnum):
    """Why the fleet's own books count a session ended, besides the reasons of its processes."""

    ORPHANED = "orphaned"
    """Its process died, and another process has cleaned it."""
    LOST = "lost"
    """The store had it, and its process did not know it any more."""


TIMEOUT: Final = "timeout"
"""The `error.type` of a close hook or a sink that has run out of time."""
OTHER: Final = "_OTHER"
"""The fallback that OpenTelemetry's semantic conventions name for `error.type`."""


def type_of(error: BaseException) -> str:
    """Return the `error.type` of an exception: the name of its class."""
    return type(error).__qualname__
