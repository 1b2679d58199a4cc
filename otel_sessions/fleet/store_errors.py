"""What an error of a client or server means for the fleet, and what to do about it.

What always holds: no text of this module holds credentials. So it repeats a server's text only up to a length, and
never the text of an error that this module does not know.
"""

import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from coredis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ClusterDownError,
    ConnectionError,  # noqa: A004 - the client's own
    MovedError,
    PrimaryNotFoundError,
    ReadOnlyError,
    RedisClusterError,
    ResponseError,
    StalePrimaryError,
    TryAgainError,
)


@dataclass(frozen=True, kw_only=True)
class _Meaning:
    """What an error means. It `lasts` if waiting does not help: somebody has to change a setting."""

    text: str
    lasts: bool = False


def _waiting(text: str) -> _Meaning:
    return _Meaning(text=text)


def _lasting(text: str) -> _Meaning:
    return _Meaning(text=text, lasts=True)


_BY_TYPE: Final[dict[type[Exception], _Meaning]] = {
    TimeoutError: _waiting("the store does not answer in time"),
    AuthenticationError: _lasting(
        "the store refuses the user name or the password; check the credentials of the fleet"
    ),
    AuthorizationError: _lasting(
        "the store's user may not run the fleet's scripts; give it EVAL, EVALSHA and the fleet's keys"
    ),
    BusyLoadingError: _waiting("the store is loading its data; it answers once the data is loaded"),
    ReadOnlyError: _waiting(
        "the server is a replica, which takes no writes; the store fails over, or the URL names a replica"
    ),
    ClusterDownError: _waiting(
        "the Cluster is down, since a part of its slots has no master; it answers once each slot has one"
    ),
    TryAgainError: _waiting("the Cluster moves the keys of this call to another node; the call is repeated"),
    MovedError: _waiting("the server is a node of a Cluster; give cluster (--fleet-cluster)"),
    PrimaryNotFoundError: _waiting(
        "no Sentinel that answers knows a primary of this name; check the name and the Sentinels"
    ),
    StalePrimaryError: _waiting("the Sentinels name a server that is a replica; the store fails over"),
    RedisClusterError: _waiting("no node of the Cluster can serve the call; check that the nodes can be reached"),
    ConnectionError: _waiting("the store cannot be reached; check its address and that the server runs"),
}
"""The first type that fits; narrower types come first."""
_TOO_OLD: Final = _lasting("the store is too old; a fleet needs Valkey 8, Redis 7 or newer")
_BY_START: Final = {
    "OOM ": _waiting("the store is full; give it more memory"),
    "NOREPLICAS ": _waiting("the store has too few replicas for min-replicas-to-write; the replicas must come back"),
    "MISCONF ": _waiting("the store cannot save its data to disk, and takes no writes; look at the server's disk"),
    "MASTERDOWN ": _waiting("the server is a replica that has lost its primary; the store fails over"),
    "BUSY ": _waiting("the store is busy with a script that does not end; end it with SCRIPT KILL"),
    "DB index ": _lasting("the store has no database of this number; check the number at the end of the URL"),
    "unknown command 'HELLO'": _TOO_OLD,
    "unknown command `HELLO`": _TOO_OLD,
    "SELECT is not allowed": _lasting(
        "the server is a node of a Cluster, with database 0 only; give cluster (--fleet-cluster)"
    ),
    "This instance has cluster support disabled": _lasting(
        "the server is no node of a Cluster; leave out cluster (--fleet-cluster)"
    ),
}
"""What a server's text says, by how it begins."""
_LONGEST: Final = 200
"""Characters of a server's own text."""


def explain(error: BaseException) -> str:
    """Return one line for people: what happened, and what to do."""
    return _meaning(error).text


def is_refusal(error: BaseException) -> bool:
    """Return whether the server answered, with a refusal. So the connection is sound."""
    return isinstance(error, ResponseError) and not isinstance(error, AuthenticationError | ReadOnlyError)


def is_wrong_setting(error: BaseException) -> bool:
    """Return whether a setting of this fleet or of the server is wrong: waiting does not help."""
    return _meaning(error).lasts


def is_too_old(error: BaseException) -> bool:
    """Return whether the server does not know the first command of every client."""
    return _known(error) is _TOO_OLD


def explain_certificate(error: ssl.SSLCertVerificationError) -> str:
    """Return one line for people: why the certificate of a server is refused, and what to do."""
    why = error.verify_message.rstrip(".")
    return f"the store's certificate is refused: {why}; check the URL's host and the authorities (--fleet-ca)"


def _meaning(error: BaseException) -> _Meaning:
    """Return what an error means: what lasts, wherever it stands in the error's history, else the error itself."""
    for one in _history(error):
        if (meaning := _known(one)) is not None and meaning.lasts:
            return meaning
    return _known(error) or _unknown(error)


def _history(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what led to it. A Cluster's client tells only so why it has reached no node."""
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        one = one.__cause__ or one.__context__


def _known(error: BaseException) -> _Meaning | None:
    if isinstance(error, ssl.SSLCertVerificationError):
        return _lasting(explain_certificate(error))
    if isinstance(error, ResponseError):
        for start, meaning in _BY_START.items():
            if f"{error} ".startswith(start):
                return meaning
    return next((meaning for kind, meaning in _BY_TYPE.items() if isinstance(error, kind)), None)


def _unknown(error: BaseException) -> _Meaning:
    if isinstance(error, ResponseError):
        return _waiting(f"the store refuses the call: {str(error)[:_LONGEST]}")
    return _waiting(f"the call to the store failed ({type(error).__name__})")
