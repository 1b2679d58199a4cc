"""Which requests have nothing to do with sessions: health checks, metrics, icons, as the embedder names them."""

import re
from collections.abc import Callable, Iterable

from otel_sessions._core.exceptions import ConfigError
from otel_sessions.matchers import Scope, path_of

Skips = Callable[[Scope], bool]


def skips(skip: Skips | Iterable[str]) -> Skips:
    """Return a predicate of one, or of paths in which `*` stands for any text, slashes included.

    A path matches as a whole, as the app's own routes see it: without the mount. Raises `ConfigError` for a path that
    begins with neither `/` nor `*`.
    """
    if callable(skip):
        return skip
    paths = [skip] if isinstance(skip, str) else list(skip)
    for path in paths:
        if not str(path).startswith(("/", "*")):  # what is no text begins otherwise, too
            raise ConfigError(f"skip takes paths that begin with / or *, or a function of the scope, not {path!r}")
    if not paths:
        return lambda _: False
    pattern = re.compile("|".join(".*".join(map(re.escape, path.split("*"))) for path in paths), re.DOTALL)
    return lambda scope: pattern.fullmatch(path_of(scope)) is not None
