"""What an error of a client or a server means for the fleet, and what to do about it.

What always holds: no text of this module holds credentials. So it repeats a server's text only up to a length, and
never the text of an error that this module does not know.
"""

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

_BY_TYPE: Final[dict[type[Exception], str]] = {
    TimeoutError: "the store does not answer in time",
    AuthenticationError: "the store refuses the user name or the password; check the credentials of the fleet",
    AuthorizationError: "the store's user may not run the fleet's scripts; give it EVAL, EVALSHA and the fleet's keys",
    BusyLoadingError: "the store is loading its data; it answers once the data is loaded",
    ReadOnlyError: "the server is a replica, which takes no writes; the store fails over, or the URL names a replica",
    ClusterDownError: "the Cluster is down, since a part of its slots has no master; it answers once each slot has one",
    TryAgainError: "the Cluster moves the keys of this call to another node; the call is repeated",
    MovedError: "the server is a node of a Cluster; give cluster, if the store is a Cluster",
    PrimaryNotFoundError: "no Sentinel that answers knows a primary of this name; check the name and the Sentinels",
    StalePrimaryError: "the Sentinels name a server that is a replica; the store fails over",
    RedisClusterError: "no node of the Cluster can serve the call; check that the nodes can be reached",
    ConnectionError: "the store cannot be reached; check its address and that the server runs",
}
"""The first type that fits; narrower types come first."""
_BY_WORD: Final = {
    "OOM": "the store is full; give it more memory",
    "NOREPLICAS": "the store has too few replicas for min-replicas-to-write; the replicas must come back",
    "MISCONF": "the store cannot save its data to disk, and takes no writes; look at the server's disk",
    "MASTERDOWN": "the server is a replica that has lost its primary; the store fails over",
    "BUSY": "the store is busy with a script that does not end; end it with SCRIPT KILL",
}
"""What a server's text says, by its first word."""
_LONGEST: Final = 200
"""Characters of a server's own text."""


def explain(error: BaseException) -> str:
    """Return one line for people: what happened, and what to do."""
    word = str(error).partition(" ")[0]
    if isinstance(error, ResponseError) and word in _BY_WORD:
        return _BY_WORD[word]
    for kind, text in _BY_TYPE.items():
        if isinstance(error, kind):
            return text
    if isinstance(error, ResponseError):
        return f"the store refuses the call: {str(error)[:_LONGEST]}"
    return f"the call to the store failed ({type(error).__name__})"


def is_refusal(error: BaseException) -> bool:
    """Return whether the server answered, with a refusal. So the connection is sound."""
    return isinstance(error, ResponseError) and not isinstance(error, AuthenticationError | ReadOnlyError)


def is_wrong_setting(error: BaseException) -> bool:
    """Return whether the server refuses this fleet's credentials, or what its user wants: waiting does not help."""
    return isinstance(error, AuthenticationError | AuthorizationError)
