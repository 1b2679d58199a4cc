"""A Valkey or Redis as a fleet's store: one server, Sentinels or a Cluster, through coredis.

What always holds: a call returns or raises within the time limit, whatever the store does. A client lives in the task
of `serve` only, and each call is a task of its own there. So a caller that is cancelled, or that waits no longer, takes
nothing away from the client: coredis loses a place of its pool if a task is cancelled while it connects.
"""

import logging
import math
import random
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, cast

import anyio
from anyio.abc import TaskGroup
from coredis import Redis
from coredis.exceptions import NoScriptError

from otel_sessions._core.events import Event
from otel_sessions._core.exceptions import ConfigError, StoreUnavailable

from .scripts import Script
from .store import Argument, Value
from .store_checks import Verdict, judge, judge_single, read_facts
from .store_clients import Client, Links, Way, client_of
from .store_errors import explain, is_refusal, is_wrong_setting
from .store_probe import find_wrong_setting
from .store_url import parse_store_url, require_topology

_SHORTEST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 1.0
"""Seconds between two attempts to connect. The pause doubles from the shortest on, and is shortened at random."""
_LATE: Final = 1.0
"""Seconds without a client after which the store looks what answers."""
_MOST_CALLS: Final = 256
"""Calls under way at most. Those of a store that stands still would fill memory."""
_FAILURES: Final = 1
_CLUSTER_FAILURES: Final = 16
"""Failed calls in a row after which a new client is made. A Cluster's client finds the new master by itself."""
_SERVERS_NOW: Final = 0
"""The argument `now` that stands for the server's own clock."""

_logger = logging.getLogger("otel_sessions")


@dataclass(kw_only=True, eq=False)
class _Call:
    """A call under way. It is done with an answer or a failure; with neither if its client ended."""

    script: Script
    keys: tuple[str, ...]
    args: tuple[Argument, ...]
    done: anyio.Event = field(default_factory=anyio.Event)
    answer: Sequence[Value] | None = None
    failure: Exception | None = None


class ValkeyStore:
    """Implements `Store`. `serve` runs in a task of the caller's, for as long as calls are to be answered.

    `url` names the server, the nodes of a Cluster (`cluster`) or the Sentinels, who know the primary as `sentinel`.
    `tls` is used with `valkeys://` and `rediss://`; by default it trusts the system's authorities. `time_limit` is in
    seconds, for each call. `on_lost` is called once there is a connection again after one was lost: then the store may
    have lost writes. Raises `ConfigError` if the URL is wrong; no error and no text shows credentials.
    """

    def __init__(
        self,
        url: str,
        *,
        cluster: bool = False,
        sentinel: str | None = None,
        tls: ssl.SSLContext | None = None,
        time_limit: float,
        on_lost: Callable[[], None] = lambda: None,
    ) -> None:
        parts = parse_store_url(url, sentinel=sentinel is not None)
        require_topology(parts, cluster=cluster, sentinel=sentinel)
        if not (math.isfinite(time_limit) and time_limit > 0):
            raise ConfigError("the time limit of the store must be a positive number of seconds")
        self._way: Final = Way(url=parts, cluster=cluster, sentinel=sentinel, tls=tls, time_limit=time_limit)
        self._links: Final = Links(on_lost)
        self._client: Client | None = None
        self._tasks: TaskGroup | None = None
        self._tried: anyio.Event | None = None
        self._renew: anyio.Event | None = None
        self._why = "the store is not connected yet"
        self._under_way = 0
        self._failures = 0
        self._attempts = 0
        self._was_found = False
        """Whether there was a client since `serve` began."""
        self._advised: set[str] = set()
        self.refusal: ConfigError | None = None
        """Why the store that was found last cannot be used, or None. It is asked again and again all the same."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._way.url}>"

    async def run(self, script: Script, keys: Sequence[str], args: Sequence[Argument]) -> Sequence[Value]:
        """Run a script and return its answer, by the server's clock.

        Waits for the first attempt to connect. Raises `StoreUnavailable` if there is no answer within the time limit,
        at once if the store is not connected, and if the store refuses. The script may run all the same, even later.
        """
        with anyio.move_on_after(self._way.time_limit):
            await self._first_attempt().wait()
            call = self._start(script, keys, args)
            await call.done.wait()
            if call.answer is not None:
                return call.answer
            raise StoreUnavailable(self._why if call.failure is None else explain(call.failure)) from call.failure
        raise StoreUnavailable(f"the store does not answer within {self._way.time_limit:.3g} s")

    async def serve(self) -> None:
        """Hold a client until this task is cancelled. A client that fails is replaced; nothing is raised."""
        self._attempts, self._was_found = 0, False
        try:
            while True:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._look_late)
                    await self._hold()
                    tasks.cancel_scope.cancel()
                self._first_attempt().set()
                await anyio.sleep(self._pause())
                self._attempts += 1
        finally:
            self._tried = None
            self._why = "the store is not connected any more"

    async def _hold(self) -> None:
        """Connect, and stay connected until calls fail."""
        try:
            async with client_of(self._way, self._links) as client:
                if not await self._is_fit(client):
                    return
                async with anyio.create_task_group() as tasks:
                    self._client, self._tasks, self._renew, self._failures = client, tasks, anyio.Event(), 0
                    self._was_found = True
                    self._first_attempt().set()
                    await self._renew.wait()
                    self._client = None
                    tasks.cancel_scope.cancel()
        except Exception as error:  # whatever the client raises, the next one may do better
            self._why = explain(_first(error))
            self._note_refusal(_first(error))
            await self._look()
        finally:
            self._client = None

    async def _look_late(self) -> None:
        """Look what answers, if the client has not been opened for a while: some servers let a client wait for ever."""
        await anyio.sleep(min(_LATE, self._way.time_limit / 3))
        await self._look()

    async def _look(self) -> None:
        """Look what answers, if there was no client yet. A setting that was right once is not the cause."""
        if self._was_found:
            return
        with anyio.move_on_after(self._way.time_limit):
            found = await find_wrong_setting(self._way)
            if found is not None and not self._was_found:
                self._refuse(found)
                self._first_attempt().set()

    def _refuse(self, why: str) -> None:
        self._why = why
        self.refusal = ConfigError(why)

    async def _is_fit(self, client: Client) -> bool:
        """Ask each server that takes writes whether it is fit, and say what it could do better."""
        verdicts = []
        if isinstance(client, Redis):
            judged = judge_single if self._way.sentinel is None else judge
            verdicts.append(judged(await read_facts(client)))
        else:
            for primary in client.primaries:
                async with primary:
                    verdicts.append(judge(await read_facts(primary)))
        refusals = [verdict.refusal for verdict in verdicts if verdict.refusal is not None]
        self.refusal = None
        if refusals:
            self._refuse(refusals[0])
            return False
        for verdict in verdicts:
            self._advise(verdict)
        return True

    def _advise(self, verdict: Verdict) -> None:
        for text in self._new(verdict.warnings):
            _logger.warning("%s", text, extra=Event.STORE_ADVICE.extra)
        for text in self._new(verdict.notes):
            _logger.info("%s", text, extra=Event.STORE_NOTE.extra)

    def _new(self, texts: Sequence[str]) -> list[str]:
        new = [text for text in texts if text not in self._advised]
        self._advised.update(new)
        return new

    def _start(self, script: Script, keys: Sequence[str], args: Sequence[Argument]) -> _Call:
        if self._client is None or self._tasks is None:
            raise StoreUnavailable(self._why)
        if self._under_way >= _MOST_CALLS:
            raise StoreUnavailable("the store is too slow: too many calls are under way")
        call = _Call(script=script, keys=tuple(keys), args=tuple(args))
        self._under_way += 1
        self._tasks.start_soon(self._send, self._client, call)
        return call

    async def _send(self, client: Client, call: _Call) -> None:
        try:
            call.answer = await _evaluate(client, call)
            self._failures = self._attempts = 0
        except Exception as error:  # the caller hears of it
            call.failure = _first(error)
            self._note_refusal(call.failure)
            self._count(call.failure)
        finally:
            self._under_way -= 1
            call.done.set()

    def _count(self, failure: Exception) -> None:
        if is_refusal(failure):
            return
        self._failures += 1
        if self._renew is not None and self._failures >= (_CLUSTER_FAILURES if self._way.cluster else _FAILURES):
            self._why = explain(failure)
            self._renew.set()

    def _note_refusal(self, failure: Exception) -> None:
        if is_wrong_setting(failure):
            self.refusal = ConfigError(explain(failure))

    def _first_attempt(self) -> anyio.Event:
        self._tried = self._tried or anyio.Event()
        return self._tried

    def _pause(self) -> float:
        longest = min(_LONGEST_PAUSE, _SHORTEST_PAUSE * 2 ** min(self._attempts, 10))
        return random.uniform(longest / 2, longest)  # noqa: S311 - no secret


async def _evaluate(client: Client, call: _Call) -> Sequence[Value]:
    args = (_SERVERS_NOW, *call.args)
    try:
        answer = await client.evalsha(call.script.sha, call.keys, args)
    except NoScriptError:  # a server that started anew, or another node
        answer = await client.eval(call.script.source, call.keys, args)
    return cast("Sequence[Value]", answer)


def _first(error: Exception) -> Exception:
    """Return the first error of a group; the error itself if it is no group."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error
