"""Virtual clients of an MCP server: each opens sessions, uses them, leaves them well or badly, and rests.

Activity is Zipf-shaped: the client of rank r rests r times as long as the first. Who is there follows a scenario. No
request is cut short at the end of the run, so that what the clients have counted is what the proxy has seen.
"""

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import anyio
import httpx2

from .counts import ClientCounts
from .mcp import CALL, HEADER, OPENED, OPENING, PATH, headers_of
from .scenario import Scenario, Stage

_LONGEST_REST: Final = 40.0
"""How long the client of the last rank rests between two sessions on average, in seconds."""
_PAUSES: Final = (0.4, 2.4)
"""The shortest and the longest pause between two requests of a session, in seconds."""
_ABSENCE: Final = 1.0
"""How often a client who is not there looks whether it should come, and how long it takes to come, in seconds."""
_UNEXPECTED_REST: Final = 1.0
"""How long a client waits after no answer, or one that is nothing it knows, in seconds."""
_REQUESTS_PER_SESSION: Final = 5
_CLIENTS_PER_POOL: Final = 10
"""A pool looks at each of its connections for each request, so many small ones cost less than a large one."""
_ABANDON: Final = 0.6
"""The share of sessions that are left without a word; clients of MCP seldom say goodbye."""

Connect = Callable[[], httpx2.AsyncClient]


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadOptions:
    """How many clients there are, how many times faster than usual they are, and what their random numbers start from.

    `rate` divides every pause and every rest of the clients' own; a `Retry-After` is kept.
    """

    clients: int
    rate: float
    seed: int


class Load:
    """Clients of a proxy, for some seconds, or until `stop` if that is None.

    `connect` opens a pool of connections to the proxy.
    """

    def __init__(self, connect: Connect, options: LoadOptions, *, seconds: float | None, scenario: Scenario) -> None:
        self.counts: Final = ClientCounts()
        self.rate: Final = options.rate
        self._connect = connect
        self._clients = options.clients
        self._seed = options.seed
        self._seconds = seconds
        self._scenario = scenario
        self._began: float | None = None
        self._over = anyio.Event()

    @property
    def stage(self) -> Stage:
        """Where the scenario is now."""
        return self._scenario.at(0.0 if self._began is None else anyio.current_time() - self._began)

    async def run(self) -> None:
        """Let all clients live until the end."""
        self._began = anyio.current_time()
        async with anyio.create_task_group() as groups:
            groups.start_soon(self._end_in_time)
            for first in range(1, self._clients + 1, _CLIENTS_PER_POOL):
                groups.start_soon(self._run_group, range(first, min(first + _CLIENTS_PER_POOL, self._clients + 1)))

    def stop(self) -> None:
        """End the run as soon as no request is under way."""
        self._over.set()

    async def goes_on_after(self, seconds: float) -> bool:
        """Wait, but not beyond the end of the run; return whether it goes on."""
        with anyio.move_on_after(seconds):
            await self._over.wait()
        return not self._over.is_set()

    async def _end_in_time(self) -> None:
        with anyio.move_on_after(self._seconds):
            await self._over.wait()
        self.stop()

    async def _run_group(self, ranks: range) -> None:
        async with self._connect() as http, anyio.create_task_group() as clients:
            for rank in ranks:
                rng = random.Random(f"{self._seed} {rank}")
                clients.start_soon(_Client(self, http, rng, rank / self._clients).live)


class _Client:
    """One client; `place` is its rank as a share of all: it comes early, and rests briefly, where that is small."""

    def __init__(self, load: Load, http: httpx2.AsyncClient, rng: random.Random, place: float) -> None:
        self._load = load
        self._http = http
        self._rng = rng
        self._place = place
        self._counts = load.counts
        self._rest = 0.0
        """Seconds until the next session is tried."""

    async def live(self) -> None:
        """Have one session after the other, while the scenario wants the client there, until the run ends.

        A client who is there at the start opens a session, however short the run is.
        """
        goes_on = True
        while goes_on:
            if self._place > self._load.stage.present:
                self._rest = self._rng.uniform(0, 2 * _ABSENCE) / self._load.rate
            else:
                self._rest = self._rng.expovariate(1 / (_LONGEST_REST * self._place)) / self._load.rate
                await self._session()
            goes_on = await self._load.goes_on_after(self._rest)

    async def _session(self) -> None:
        """Open a session, use it for some requests, and leave it, unless it ends before."""
        opening = await self._ask("POST", OPENING, None)
        if opening is None:
            return
        session_id = opening.headers.get(HEADER)
        if session_id is None:  # whoever answers, it is no server with sessions
            self._counts.unexpected += 1
            return
        self._counts.opened += 1
        if await self._ask("POST", OPENED, session_id) is None:
            return
        for _ in range(round(self._rng.expovariate(1 / _REQUESTS_PER_SESSION))):
            if not await self._load.goes_on_after(self._rng.uniform(*_PAUSES) / self._load.rate):
                return
            if self._load.stage.leaves:
                self._counts.abandoned += 1
                return
            if await self._ask("POST", CALL, session_id) is None:
                return
        await self._leave(session_id)

    async def _leave(self, session_id: str) -> None:
        if self._rng.random() < _ABANDON:
            self._counts.abandoned += 1
        elif await self._ask("DELETE", None, session_id):
            self._counts.closed += 1

    async def _ask(
        self, method: str, message: Mapping[str, object] | None, session_id: str | None
    ) -> httpx2.Response | None:
        """Send a request; return the answer if it is a success, else count what it was and return None."""
        began = time.perf_counter()
        self._counts.requests += 1
        try:
            answer = await self._http.request(method, PATH, json=message, headers=headers_of(session_id))
        except httpx2.HTTPError as error:
            self._counts.unanswered += 1
            self._counts.silence = f"{type(error).__name__}: {error}".removesuffix(": ")
            self._counts.unexpected += 1
            self._rest = _UNEXPECTED_REST
            return None
        self._counts.answered += 1
        if answer.is_success:
            self._counts.latencies.append(time.perf_counter() - began)
            return answer
        if answer.status_code == httpx2.codes.NOT_FOUND and session_id is not None:
            self._counts.gone += 1
            self._rest = 0.0  # a new session, at once
        elif answer.status_code == httpx2.codes.SERVICE_UNAVAILABLE:
            self._counts.rejected += 1
            self._rest = self._told_to_wait(answer) + self._rng.random()
        else:
            self._counts.unexpected += 1
            self._rest = _UNEXPECTED_REST
        return None

    def _told_to_wait(self, refusal: httpx2.Response) -> float:
        """Return how many seconds a refusal asks for, or what is usual if it does not say."""
        seconds = refusal.headers.get("retry-after", "")
        if not seconds.isdecimal():
            return _UNEXPECTED_REST
        self._counts.told_to_wait += 1
        return float(seconds)
