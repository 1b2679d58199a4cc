"""The session of a request, with the type of its data."""

from collections.abc import Mapping
from types import UnionType
from typing import Any, Protocol, TypeVar, Union, cast, get_args, get_origin, is_typeddict, overload

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
    """Return the session of a framework's request or WebSocket, or of a scope. None means that it is in no session.

    With `data_type`, the session's data is checked to be of this type, and type checkers know the type. For a generic
    type, such as `list[str]`, only the class is checked. For a `TypedDict`, the data must be a dict.

    Raises `TypeError` if the data has another type, or if Python cannot check `data_type`. Raises `LookupError` if the
    request did not come through a `SessionLeaseMiddleware`.
    """
    kind = None if data_type is None else _checkable(data_type)
    scope = cast("Mapping[str, Any]", getattr(request, "scope", request))
    if SESSION not in scope:
        raise LookupError("the request did not come through a SessionLeaseMiddleware; add the middleware to the app")
    session: Session[Any] | None = scope[SESSION]
    if session is not None and kind is not None and not isinstance(session.data, kind):
        wanted = getattr(data_type, "__name__", data_type)
        raise TypeError(f"the session's data is {type(session.data).__name__}, not {wanted}")
    return session


def _checkable(data_type: Any) -> Any:
    """Return the class or classes that `isinstance` can check in place of a type."""
    origin = get_origin(data_type)
    if origin in (Union, UnionType):
        return tuple(map(_checkable, get_args(data_type)))
    kind = dict if is_typeddict(data_type) else origin or data_type
    try:
        isinstance(None, kind)
    except TypeError as error:
        raise TypeError(f"data_type takes a class or a generic type, not {data_type!r}: {error}") from None
    return kind
