"""What can go wrong, each error named for the state that it met.

    SessionError
    ├── TooManySessions    a cap is reached; come back after `retry_after` seconds
    ├── SessionNotFound    no such session, or it has ended; `reason` says why, if that is still known
    ├── SessionExists      the id is in use, or its session is still closing
    ├── ManagerClosed      the manager is not running: not entered yet, shutting down, or shut down
    ├── SinkFull           a sink's queue is full; this session's record is dropped
    ├── SinkClosed         a sink is used outside its block; a record that it was given is dropped
    └── ConfigError        a setting is wrong; also a `ValueError`

No message shows a session id, only its fingerprint.
"""

from .ids import fingerprint
from .words import EndReason, RejectionReason


class SessionError(Exception):
    """Base of every error that this package raises on purpose."""


class TooManySessions(SessionError):
    """A cap is reached and no place could be freed.

    `limit` is the cap that was met, and `reason` says which cap. `retry_after` is the number of seconds until the next
    place may be free, or None if the number is unknown.
    """

    __slots__ = ("limit", "reason", "retry_after")  # without a dict for each, a flood is refused faster

    def __init__(
        self,
        limit: int,
        retry_after: float | None = None,
        reason: RejectionReason = RejectionReason.MAX_SESSIONS,
    ) -> None:
        self.limit = limit
        self.retry_after = retry_after
        self.reason = reason

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.limit, self.retry_after, self.reason), vars(self)

    def __str__(self) -> str:
        hint = "" if self.retry_after is None else f"; a place may be free in {self.retry_after:.3g} s"
        return f"all {self.limit} places of {self.reason} are taken{hint}"


class SessionNotFound(SessionError):
    """There is no such session to use. `reason` says why it ended, if it ended lately; else it is None."""

    def __init__(self, session_id: str, reason: EndReason | None = None) -> None:
        super().__init__(f"no session {fingerprint(session_id)}" + (f": it ended ({reason})" if reason else ""))
        self.session_id = session_id
        self.reason = reason

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.session_id, self.reason), vars(self)


class SessionExists(SessionError):
    """The id is taken: by a live session, or by a session whose close hook has not ended yet."""

    def __init__(self, session_id: str) -> None:
        super().__init__(f"session {fingerprint(session_id)} exists already; choose another id or close it first")
        self.session_id = session_id

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.session_id,), vars(self)


class ManagerClosed(SessionError):
    """The manager is not running; use it inside its `async with` block.

    `entered` is False if the manager was never entered: that is a mistake in the program. It is True if the manager
    shuts down, or has ended.
    """

    def __init__(self, message: str = "the session manager is not running", *, entered: bool = True) -> None:
        super().__init__(message)
        self.entered = entered


class SinkFull(SessionError):
    """The sink's queue is full, because its disk is slow or takes nothing. The record is dropped."""


class SinkClosed(SessionError):
    """The sink is not running; use it inside its `async with` block. A record that it was given is dropped."""


class ConfigError(SessionError, ValueError):
    """A setting is wrong. The message names its key and says what it takes."""
