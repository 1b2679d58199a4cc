"""Virtual clients: each opens sessions, uses them at its own pace, and leaves them well or badly.

Activity is Zipf-shaped: the client of rank r makes 1/r of the requests of the first. No request is cut short at the
end of the run, so that what the clients have counted is what the proxy has seen.
"""

import random
import time
from typing import Final

import anyio
import httpx2

from .tally import Tally

HEADER: Final = "x-session-id"
_REQUESTS_PER_SECOND: Final = 0.6
"""What a client makes on average, over all ranks."""
_REQUESTS_PER_SESSION: Final = 10
_ARRIVAL_SECONDS: Final = 1.0
"""Within that time, all clients have come."""
_ABANDON: Final = 0.30
_FAIL: Final = 0.02


async def load(http: httpx2.AsyncClient, clients: int, seconds: float, seed: int, tally: Tally) -> None:
    """Run that many clients for that long; `http` has the proxy's address, `tally` is where they count."""
    end = anyio.current_time() + seconds
    async with anyio.create_task_group() as tasks:
        for rank, pause in enumerate(pauses(clients), start=1):
            dice = random.Random(f"{seed} {rank}")
            tasks.start_soon(_Client(http, dice, pause, end, tally).live)


def pauses(clients: int) -> list[float]:
    """Return each client's mean pause between two requests, in seconds, the busiest one's first."""
    shares = [1 / rank for rank in range(1, clients + 1)]
    total = _REQUESTS_PER_SECOND * clients
    return [sum(shares) / (share * total) for share in shares]


class _Client:
    def __init__(
        self, http: httpx2.AsyncClient, dice: random.Random, pause: float, end: float, tally: Tally
    ) -> None:
        self._http = http
        self._dice = dice
        self._pause = pause
        self._end = end
        self._tally = tally
        self._rest = dice.uniform(0, _ARRIVAL_SECONDS)
        """Seconds until the next session is tried."""

    async def live(self) -> None:
        """Have one session after the other until the run ends."""
        while await self._goes_on_after(self._rest):
            self._rest = self._dice.expovariate(1 / self._pause)
            await self._session()

    async def _session(self) -> None:
        """Open a session, use it for some requests, and leave it, unless it ends before."""
        opening = await self._ask("GET", "/work", None, expect=200)
        if opening is None:
            return
        self._tally.opened += 1
        session_id = opening.headers[HEADER]
        for _ in range(self._dice.randint(1, 2 * _REQUESTS_PER_SESSION)):
            if not await self._goes_on_after(self._dice.expovariate(1 / self._pause)):
                return
            if await self._ask("GET", "/work", session_id, expect=200) is None:
                return
        await self._leave(session_id)

    async def _leave(self, session_id: str) -> None:
        fate = self._dice.random()
        if fate < _ABANDON:
            self._tally.abandoned += 1
        elif fate < _ABANDON + _FAIL:
            self._tally.failed += await self._ask("GET", "/fail", session_id, expect=502) is not None
        else:
            self._tally.closed += await self._ask("DELETE", "/session", session_id, expect=204) is not None

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
