"""The requests that need no session, such as health checks, metrics and icons. The embedder names them."""

import re
from collections.abc import Callable, Iterable

from otel_sessions._core.exceptions import ConfigError
from otel_sessions.matchers import Scope, path_of

Skips = Callable[[Scope], bool]


def skips(skip: Skips | Iterable[str]) -> Skips | None:
    """Return a function that says whether a scope is skipped, from a function or from paths. None without paths.

    In a path, `*` stands for any text, slashes included. A path must match as a whole, without the mount, as the routes
    of the app see it. Raises `ConfigError` if a path begins with neither `/` nor `*`.
    """
    if callable(skip):
        return skip
    paths = [skip] if isinstance(skip, str) else list(skip)
    for path in paths:
        if not str(path).startswith(("/", "*")):  # also refuses values that are not texts
            raise ConfigError(f"skip takes paths that begin with / or *, or a function of the scope, not {path!r}")
    if not paths:
        return None
    pattern = re.compile("|".join(".*".join(map(re.escape, path.split("*"))) for path in paths), re.DOTALL)
    return lambda scope: pattern.fullmatch(path_of(scope)) is not None
