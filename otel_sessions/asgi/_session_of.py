"""The session of a request, typed."""

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
    """Return the session of a framework's request or WebSocket, or of a scope; None if it is in no session.

    With `data_type` the session's data has that type, for type checkers too. Of a generic type, as `list[str]`, the
    class alone is checked, and of a `TypedDict` that the data is a dict. Raises `TypeError` if the data has another
    type, or if `data_type` is nothing that Python can check; and `LookupError` if the request did not come through a
    `SessionLeaseMiddleware`.
    """
    kind = None if data_type is None else _checkable(data_type)
    scope = cast("Mapping[str, Any]", getattr(request, "scope", request))
    if SESSION not in scope:
        raise LookupError("this request has not come through a SessionLeaseMiddleware; add it to the app")
    session: Session[Any] | None = scope[SESSION]
    if session is not None and kind is not None and not isinstance(session.data, kind):
        wanted = getattr(data_type, "__name__", data_type)
        raise TypeError(f"the session's data is {type(session.data).__name__}, not {wanted}")
    return session


def _checkable(data_type: Any) -> Any:
    """Return what `isinstance` takes in place of a type."""
    origin = get_origin(data_type)
    if origin in (Union, UnionType):
        return tuple(map(_checkable, get_args(data_type)))
    kind = dict if is_typeddict(data_type) else origin or data_type
    try:
        isinstance(None, kind)
    except TypeError as error:
        raise TypeError(f"data_type takes a class, or a generic type of one, not {data_type!r}: {error}") from None
    return kind
