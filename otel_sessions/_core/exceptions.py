"""The errors of this package, each named for the state that causes it.

    SessionError
    ├── TooManySessions    a cap is reached; try again after `retry_after` seconds
    ├── SessionNotFound    no usable session has this id; `reason` says why, if the reason is known
    ├── SessionExists      a session with this id is live or still closing
    ├── PeerUnavailable    the process that has the session does not answer; try again after `retry_after` seconds
    ├── StoreUnavailable   the fleet's store does not answer, and the fleet is `closed` then; try again later
    ├── ManagerClosed      the manager is not running, or is entered while it runs
    ├── SinkFull           the sink's queue is full; the record of this session is dropped
    ├── SinkClosed         the sink is used outside its block, or is entered while it is in use
    └── ConfigError        a setting is wrong; also a `ValueError`

A message shows the fingerprint of a session id, never the id.
"""

from .ids import fingerprint
from .words import EndReason, RejectionReason


class SessionError(Exception):
    """Base class of this package's own errors."""


class TooManySessions(SessionError):
    """A cap is reached and no place could be freed.

    `limit` is the cap that is reached; `reason` says which cap. `retry_after` is the number of seconds until the next
    place may be free, or None if this number is unknown.
    """

    __slots__ = ("limit", "reason", "retry_after")  # no dict for each: a flood is refused faster

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
    """No usable session has this id. `reason` is the reason of a session that is due or ended lately, else None."""

    def __init__(self, session_id: str, reason: EndReason | None = None) -> None:
        super().__init__(f"no session {fingerprint(session_id)}" + (f": it ended ({reason})" if reason else ""))
        self.session_id = session_id
        self.reason = reason

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.session_id, self.reason), vars(self)


class SessionExists(SessionError):
    """The id is in use: a session with this id is live, here or in another process of the fleet, or it is closing."""

    def __init__(self, session_id: str) -> None:
        super().__init__(f"session {fingerprint(session_id)} exists already; choose another id or close the session")
        self.session_id = session_id

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.session_id,), vars(self)


class PeerUnavailable(SessionError):
    """The process that has the session cannot be reached now, or does not answer in time. The session may go on.

    `name` is the name of the process. `retry_after` is the number of seconds after which to try again.
    """

    def __init__(self, name: str, retry_after: float) -> None:
        super().__init__(f"process {name!r} does not answer; try again in {retry_after:.3g} s")
        self.name = name
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.name, self.retry_after), vars(self)


class StoreUnavailable(SessionError):
    """The store of the fleet gives no answer, and without an answer the session may not begin.

    `retry_after` is the number of seconds after which to try again, or None if this number is unknown.
    """

    def __init__(
        self, message: str = "the store of the fleet does not answer", retry_after: float | None = None
    ) -> None:
        hint = "" if retry_after is None else f"; try again in {retry_after:.3g} s"
        super().__init__(message + hint)
        self.message = message
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.message, self.retry_after), vars(self)


class ManagerClosed(SessionError):
    """The manager is not running, or is entered while it runs. Use the manager inside its `async with` block.

    `entered` is False if the manager was never entered, which is a mistake in the program. Otherwise it is True: the
    manager runs already, shuts down, or has ended.
    """

    def __init__(self, message: str = "the session manager is not running", *, entered: bool = True) -> None:
        super().__init__(message)
        self.entered = entered


class SinkFull(SessionError):
    """The sink's queue is full, since the disk is slow or refuses writes. The record is dropped."""


class SinkClosed(SessionError):
    """The sink is not running, or is entered while it is in use. A record given to `export` is dropped.

    Use the sink inside its `async with` block.
    """


class ConfigError(SessionError, ValueError):
    """A setting is wrong. The message names the setting and says what the setting takes."""
