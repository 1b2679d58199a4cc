"""The session of a request, typed."""

from collections.abc import Mapping
from typing import Any, Protocol, TypeVar, cast, overload

from otel_sessions._core.session import Session

from ._roles import SESSION

DataT = TypeVar("DataT")


class HasScope(Protocol):
    """A framework's request or WebSocket."""

    @property
    def scope(self) -> Mapping[str, Any]: ...


@overload
def session_of(request: HasScope | Mapping[str, Any]) -> Session[Any] | None: ...
@overload
def session_of(request: HasScope | Mapping[str, Any], data_type: type[DataT]) -> Session[DataT] | None: ...
def session_of(request: HasScope | Mapping[str, Any], data_type: type[Any] | None = None) -> Session[Any] | None:
    """Return the session of a framework's request or WebSocket, or of a scope; None if it is in no session.

    With `data_type` the session's data has that type, for type checkers too. Raises `TypeError` if it has another type,
    and `LookupError` if the request did not come through a `SessionLeaseMiddleware`.
    """
    scope = cast("Mapping[str, Any]", getattr(request, "scope", request))
    if SESSION not in scope:
        raise LookupError("this request has not come through a SessionLeaseMiddleware; add it to the app")
    session: Session[Any] | None = scope[SESSION]
    if session is not None and data_type is not None and not isinstance(session.data, data_type):
        raise TypeError(f"the session's data is {type(session.data).__name__}, not {data_type.__name__}")
    return session
