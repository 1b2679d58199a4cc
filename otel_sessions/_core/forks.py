"""What begins anew in a forked process, since all that it counts and writes is the parent's."""

import logging
import os
import sys
import weakref
from typing import Protocol

_logger = logging.getLogger("otel_sessions")


class BeginsAnew(Protocol):
    """What a forked process must not go on with."""

    def start_anew_after_fork(self) -> None:
        """Forget what is the parent's. Called in the child, before anything else of it runs."""


class Forks:
    """All that begins anew after a fork, in the order in which it was added, for as long as it lives."""

    def __init__(self) -> None:
        self._known: weakref.WeakValueDictionary[int, BeginsAnew] = weakref.WeakValueDictionary()

    def add(self, thing: BeginsAnew) -> None:
        self._known.pop(id(thing), None)
        self._known[id(thing)] = thing

    def start_anew(self) -> None:
        for thing in list(self._known.values()):
            try:
                thing.start_anew_after_fork()
            except Exception:  # the others must begin anew all the same
                _logger.exception("a copy in a forked process could not begin anew")


forks = Forks()
if sys.platform != "win32":  # pragma: no branch
    os.register_at_fork(after_in_child=forks.start_anew)
