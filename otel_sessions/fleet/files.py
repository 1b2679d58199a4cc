"""A file whose content is used as long as the process runs, and read again when the file has changed.

A file that cannot be read, or has a mistake, leaves the last good content in use, and is logged once.
"""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final, Generic, TypeVar

from otel_sessions._core.events import Event
from otel_sessions._core.exceptions import ConfigError

_LOOK_SECONDS: Final = 1.0

V = TypeVar("V")
_logger = logging.getLogger("otel_sessions")


class Watched(Generic[V]):
    """The content of a file, as `read` understands its text. `read` raises `ConfigError` for a mistake.

    Raises `ConfigError` if the file cannot be read at first.
    """

    def __init__(self, path: str | os.PathLike[str], read: Callable[[str], V]) -> None:
        self._path = Path(path)
        self._read = read
        self._mark = self._state()
        self._content = self._load()
        self._looked = -_LOOK_SECONDS

    def current(self, now: float) -> V:
        """Return the content. The file is looked at once a second at most. `now` is in seconds."""
        if now - self._looked >= _LOOK_SECONDS:
            self._looked = now
            self._look()
        return self._content

    def latest(self) -> V:
        """Return the content after a look at the file."""
        self._look()
        return self._content

    def _look(self) -> None:
        mark = self._state()
        if mark == self._mark:
            return
        self._mark = mark
        try:
            self._content = self._load()
        except ConfigError as error:
            _logger.warning("the last good content stays in use: %s", error, extra=Event.FLEET_FILE_KEPT.extra)
        else:
            _logger.info("%s has changed and was read again", self._path, extra=Event.FLEET_FILE_READ.extra)

    def _load(self) -> V:
        try:
            text = self._path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{self._path} cannot be read: {error}") from error
        try:
            return self._read(text)
        except ConfigError as error:
            raise ConfigError(f"{self._path}: {error}") from error

    def _state(self) -> tuple[int, int, int] | None:
        """Return what changes when somebody writes or replaces the file, or None without the file."""
        try:
            state = self._path.stat()
        except OSError:
            return None
        return state.st_mtime_ns, state.st_size, state.st_ino
