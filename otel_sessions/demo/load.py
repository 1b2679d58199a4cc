"""Virtual clients: each opens sessions, uses them, leaves them well or badly, and rests.

Activity is Zipf-shaped: the client of rank r rests r times as long as the first. No request is cut short at the end of
the run, so that what the clients have counted is what the proxy has seen.
"""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import anyio
import httpx2

from .tally import Tally

HEADER: Final = "x-session-id"
_ARRIVAL: Final = 1 / 6
"""The share of the run within which all clients come."""
_LONGEST_REST: Final = 40.0
"""How long the client of the last rank rests between two sessions on average, in seconds."""
_PAUSES: Final = (0.2, 1.4)
"""The shortest and the longest pause between two requests of a session, in seconds."""
_REQUESTS_PER_SESSION: Final = 8
_CLIENTS_PER_POOL: Final = 20
"""A pool looks at each of its connections for each request, so many small ones cost less than a large one."""
_ABANDON: Final = 0.30
_FAIL: Final = 0.02


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """How many clients come, for how many seconds, and what their dice start from."""

    clients: int
    seconds: float
    seed: int

    async def run(self, connect: Callable[[], httpx2.AsyncClient], tally: Tally) -> None:
        """Let all clients live; `connect` opens a pool of connections to the proxy, `tally` is where they count."""
        end = anyio.current_time() + self.seconds
        async with anyio.create_task_group() as groups:
            for first in range(1, self.clients + 1, _CLIENTS_PER_POOL):
                ranks = range(first, min(first + _CLIENTS_PER_POOL, self.clients + 1))
                groups.start_soon(self._run_group, ranks, end, connect, tally)

    async def _run_group(
        self, ranks: range, end: float, connect: Callable[[], httpx2.AsyncClient], tally: Tally
    ) -> None:
        async with connect() as http, anyio.create_task_group() as clients:
            for rank in ranks:
                dice = random.Random(f"{self.seed} {rank}")
                first, rest = dice.uniform(0, self.seconds * _ARRIVAL), _LONGEST_REST * rank / self.clients
                clients.start_soon(_Client(http, dice, first, rest, end, tally).live)


class _Client:
    """One client; it comes after `first` seconds, and rests for `rest` on average between two sessions."""

    def __init__(
        self, http: httpx2.AsyncClient, dice: random.Random, first: float, rest: float, end: float, tally: Tally
    ) -> None:
        self._http = http
        self._dice = dice
        self._mean_rest = rest
        self._end = end
        self._tally = tally
        self._rest = first
        """Seconds until the next session is tried."""

    async def live(self) -> None:
        """Have one session after the other until the run ends."""
        while await self._goes_on_after(self._rest):
            self._rest = self._dice.expovariate(1 / self._mean_rest)
            await self._session()

    async def _session(self) -> None:
        """Open a session, use it for some requests, and leave it, unless it ends before."""
        opening = await self._ask("GET", "/work", None, expect=200)
        if opening is None:
            return
        self._tally.opened += 1
        session_id = opening.headers[HEADER]
        for _ in range(round(self._dice.expovariate(1 / _REQUESTS_PER_SESSION))):
            if not await self._goes_on_after(self._dice.uniform(*_PAUSES)):
                return
            if await self._ask("GET", "/work", session_id, expect=200) is None:
                return
        await self._leave(session_id)

    async def _leave(self, session_id: str) -> None:
        fate = self._dice.random()
        if fate < _ABANDON:
            self._tally.abandoned += 1
        elif fate < _ABANDON + _FAIL:
            if await self._ask("GET", "/fail", session_id, expect=502):
                self._tally.failed += 1
        elif await self._ask("DELETE", "/session", session_id, expect=204):
            self._tally.closed += 1

    async def _ask(self, method: str, path: str, session_id: str | None, *, expect: int) -> httpx2.Response | None:
        """Send a request; return the answer if it is the expected one, else count what it was and return None."""
        began = time.perf_counter()
        self._tally.requests += 1
        try:
            answer = await self._http.request(method, path, headers={HEADER: session_id} if session_id else None)
        except httpx2.HTTPError:
            self._tally.unexpected += 1
            return None
        if answer.status_code == expect:
            self._tally.latencies.append(time.perf_counter() - began)
            return answer
        if answer.status_code == httpx2.codes.NOT_FOUND:
            self._tally.gone += 1
            self._rest = 0.0  # a new session, at once
        elif answer.status_code == httpx2.codes.SERVICE_UNAVAILABLE:
            self._tally.rejected += 1
            self._rest = float(answer.headers.get("retry-after", 1)) + self._dice.random()
        else:
            self._tally.unexpected += 1
        return None

    async def _goes_on_after(self, seconds: float) -> bool:
        """Wait, but not beyond the end of the run; return whether it goes on."""
        await anyio.sleep_until(min(anyio.current_time() + seconds, self._end))
        return anyio.current_time() < self._end
