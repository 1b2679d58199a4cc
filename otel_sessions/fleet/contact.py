"""The store as one run of a process talks to it. Each call has a time limit, and shows whether the store answers.

What always holds: a part of the store counts as silent only after a call that failed within its time. A call that took
much longer than its limit says that this process stood still, and nothing of the store. Each reason of a silence is
logged once.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Final

import anyio

from otel_sessions._core.events import Event
from otel_sessions._core.exceptions import StoreUnavailable
from otel_sessions._core.words import StoreOperation, StoreOutcome
from otel_sessions._engine.owners import Called

from .store import Call, Store, Value

_STOOD_STILL: Final = 2
"""How many times its limit a call takes if the process was stopped meanwhile."""

_MOST_REASONS: Final = 8
"""Reasons of one silence that are logged. A server may say something new each time."""

_logger = logging.getLogger("otel_sessions")


class Contact:
    """Calls to the store. `limit` is in seconds. A part of the store is named by the first key of a call to it."""

    def __init__(self, store: Store, clock: Callable[[], float], limit: float, called: Called) -> None:
        self._store: Final = store
        self._clock: Final = clock
        self._limit: Final = limit
        self._called: Final = called
        self._silent: set[str] = set()
        self._reasons: set[str] = set()
        """Why the store is silent, as far as it was logged."""

    def is_silent(self, key: str) -> bool:
        """Return whether the last call to this part of the store failed."""
        return key in self._silent

    @property
    def is_whole(self) -> bool:
        """Whether no part of the store is silent."""
        return not self._silent

    async def ask(self, call: Call) -> Sequence[Value]:
        """Send a call and return its answer. Raises `StoreUnavailable` if there is none in time."""
        sent = self._clock()
        answer: Sequence[Value] | None = None
        failure: Exception | None = None
        try:
            with anyio.move_on_after(self._limit):
                answer = await self._store.run(call.script, call.keys, call.args)
        except Exception as error:  # whatever a client library raises, the call has no answer
            failure = error
        took = self._clock() - sent
        outcome = StoreOutcome.UNAVAILABLE if answer is None else StoreOutcome.ANSWERED
        self._called(StoreOperation(call.script.name), outcome, took)
        if answer is None:
            why = f"no answer in {self._limit:.3g} s" if failure is None else str(failure)
            if took < _STOOD_STILL * self._limit:
                self._fell_silent(call.keys[0], why, failure)
            raise StoreUnavailable(why) from failure
        self._answers(call.keys[0])
        return answer

    def _fell_silent(self, key: str, why: str, failure: Exception | None) -> None:
        was_silent = bool(self._silent)
        self._silent.add(key)
        if why in self._reasons or len(self._reasons) >= _MOST_REASONS:
            return
        self._reasons.add(why)
        unexpected = None if failure is None or isinstance(failure, StoreUnavailable) else failure
        _logger.warning(
            "the store of the fleet is still silent: %s"
            if was_silent
            else "the store of the fleet does not answer: %s",
            why,
            exc_info=unexpected,
            extra=Event.STORE_SILENT.extra,
        )

    def _answers(self, key: str) -> None:
        if key in self._silent:
            self._silent.discard(key)
            if not self._silent:
                self._reasons.clear()
                _logger.info("the store of the fleet answers again", extra=Event.STORE_ANSWERS.extra)
