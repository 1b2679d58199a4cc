"""Virtual clients of an MCP server: each client opens sessions, uses them, closes or abandons them, and rests.

Activity is Zipf-shaped: the client of rank r rests r times as long as the first client. A scenario says which clients
are active. No request is cut short at the end of the run, so the clients' counts agree with the proxy's books.
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
"""The average rest of the client of the last rank between two sessions, in seconds."""
_PAUSES: Final = (0.4, 2.4)
"""The shortest and the longest pause between two requests of a session, in seconds."""
_ABSENCE: Final = 1.0
"""The seconds between two looks of an inactive client at the scenario, on average."""
_UNEXPECTED_REST: Final = 1.0
"""The wait of a client after no answer or an unexpected answer, in seconds."""
_REQUESTS_PER_SESSION: Final = 5
_CLIENTS_PER_POOL: Final = 10
"""For each request, a pool looks at all its connections. So many small pools cost less than a large pool."""
_ABANDON: Final = 0.6
"""The share of sessions that are abandoned without a DELETE. Clients of MCP seldom send a DELETE."""

Connect = Callable[[], httpx2.AsyncClient]


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadOptions:
    """The number of clients, their speed (1 is usual), and the seed of their random numbers.

    `rate` divides every pause and every rest. A `Retry-After` is not divided.
    """

    clients: int
    rate: float
    seed: int


class Load:
    """The clients of a proxy. They run for `seconds`, or until `stop` if `seconds` is None.

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
        """The current stage of the scenario."""
        return self._scenario.at(0.0 if self._began is None else anyio.current_time() - self._began)

    async def run(self) -> None:
        """Run all clients until the end."""
        self._began = anyio.current_time()
        async with anyio.create_task_group() as groups:
            groups.start_soon(self._end_in_time)
            for first in range(1, self._clients + 1, _CLIENTS_PER_POOL):
                groups.start_soon(self._run_group, range(first, min(first + _CLIENTS_PER_POOL, self._clients + 1)))

    def stop(self) -> None:
        """End the run as soon as no request is running."""
        self._over.set()

    async def goes_on_after(self, seconds: float) -> bool:
        """Wait, at most until the end of the run. Return whether the run goes on."""
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
    """One client. `place` is its rank as a share of all clients: a small `place` is active early and often."""

    def __init__(self, load: Load, http: httpx2.AsyncClient, rng: random.Random, place: float) -> None:
        self._load = load
        self._http = http
        self._rng = rng
        self._place = place
        self._counts = load.counts
        self._rest = 0.0
        """Seconds until the next session is tried."""

    async def live(self) -> None:
        """Use one session after the other, while the scenario has the client active, until the run ends.

        A client that is active at the start opens a session, however short the run is.
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
        """Open a session, use it for some requests, and close or abandon it, unless it ends before."""
        opening = await self._ask("POST", OPENING, None)
        if opening is None:
            return
        session_id = opening.headers.get(HEADER)
        if session_id is None:  # the server has no sessions
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
        """Send a request. Return a successful answer. Count any other result and return None."""
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
        """Return the `Retry-After` of a refusal in seconds, or the usual wait if it has none."""
        seconds = refusal.headers.get("retry-after", "")
        if not seconds.isdecimal():
            return _UNEXPECTED_REST
        self._counts.told_to_wait += 1
        return float(seconds)
