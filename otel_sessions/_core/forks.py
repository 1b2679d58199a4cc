"""Objects that begin anew in a forked process, since their counts and writes belong to the parent process."""

import logging
import os
import sys
import weakref
from typing import Protocol

from .events import Event

_logger = logging.getLogger("otel_sessions")


class BeginsAnew(Protocol):
    """An object with a state that a forked process must not go on with."""

    def start_anew_after_fork(self) -> None:
        """Forget the parent's state. Python calls this in the child, right after the fork."""


class Forks:
    """The objects that begin anew after a fork, in the order of `add`. They are held weakly."""

    def __init__(self) -> None:
        self._known: weakref.WeakValueDictionary[int, BeginsAnew] = weakref.WeakValueDictionary()

    def add(self, thing: BeginsAnew) -> None:
        self._known.pop(id(thing), None)
        self._known[id(thing)] = thing

    def start_anew(self) -> None:
        for thing in list(self._known.values()):
            try:
                thing.start_anew_after_fork()
            except Exception as error:  # the other objects must begin anew, too
                _logger.error(
                    "an object in a forked process could not begin anew", exc_info=error, extra=Event.FORK_FAILED.extra
                )


forks = Forks()
if sys.platform != "win32":  # pragma: no branch
    os.register_at_fork(after_in_child=forks.start_anew)
