"""One round of streams: some are open, their events are counted for some seconds, and what that took the target."""

import asyncio
import contextlib
import time
from urllib.parse import urlsplit

import httpx2

from .asked import Request
from .cpu import CpuClock, spent
from .streaming import END, MARK
from .wrk import LoadFailed, Round, Target

_PATIENCE = 30.0
"""Seconds within which every stream has to begin."""


class Streams:
    """Open streams of a target, and how many events have come in all of them."""

    def __init__(self, target: Target, count: int) -> None:
        self._target = target
        self._count = count
        self._begun: set[int] = set()
        self._all_begun = asyncio.Event()
        self.events = 0

    async def read(self, number: int) -> None:
        """Read one stream. Raises `LoadFailed` if the stream ends."""
        where = urlsplit(self._target.url)
        reader, writer = await asyncio.open_connection(where.hostname, where.port)
        try:
            writer.write(head(self._target.request, where.netloc))
            said = await reader.readuntil(b"\r\n")
            if b" 200 " not in said:
                raise LoadFailed(said.decode("latin-1").strip())
            while part := await reader.read(65536):
                self.events += part.count(MARK)
                self._note_begun(number)
            raise LoadFailed("a stream ended")
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def _note_begun(self, number: int) -> None:
        if self.events and len(self._begun) < self._count:
            self._begun.add(number)
            if len(self._begun) == self._count:
                self._all_begun.set()

    async def wait(self) -> None:
        """Return once every stream has begun. Raises `LoadFailed` if that takes too long."""
        try:
            await asyncio.wait_for(self._all_begun.wait(), _PATIENCE)
        except TimeoutError:
            raise LoadFailed(f"{len(self._begun)} of {self._count} streams began") from None


def head(request: Request, host: str) -> bytes:
    """Return the head of a request as bytes."""
    lines = [f"{request.method} {request.path} HTTP/1.1", f"host: {host}"]
    lines += [f"{name}: {value}" for name, value in request.headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("ascii")


def end_all(origin: str) -> None:
    """End every stream of the origin. A proxy that has not heard of its client's end hears of this end."""
    httpx2.get(origin + END, trust_env=False, timeout=_PATIENCE).raise_for_status()


def load(target: Target, count: int, seconds: float, clock: CpuClock) -> Round:
    """Read so many streams of a target. Raises `LoadFailed` if a stream does not begin, or ends."""
    return asyncio.run(_load(target, count, seconds, clock))


async def _load(target: Target, count: int, seconds: float, clock: CpuClock) -> Round:
    streams = Streams(target, count)
    reading = [asyncio.ensure_future(streams.read(number)) for number in range(count)]
    measuring = asyncio.ensure_future(_measure(streams, seconds, clock, target))
    try:
        done, _ = await asyncio.wait([*reading, measuring], return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            if task is not measuring:
                task.result()
        return await measuring
    except (OSError, asyncio.IncompleteReadError) as error:
        raise LoadFailed(f"a stream broke: {error}") from error
    finally:
        for task in (*reading, measuring):
            task.cancel()
        await asyncio.gather(*reading, measuring, return_exceptions=True)


async def _measure(streams: Streams, seconds: float, clock: CpuClock, target: Target) -> Round:
    await streams.wait()
    before, began, first = clock.read(target.process), time.perf_counter(), streams.events
    await asyncio.sleep(seconds)
    events, took = streams.events - first, spent(before, clock.read(target.process))
    return Round(rate=events / (time.perf_counter() - began), cpu=took / max(1, events))
