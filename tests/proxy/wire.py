"""A transport in memory: it notes what is written and done, and loses its protocol's connection once it is closed."""

import asyncio
from collections.abc import Iterable


class Wire(asyncio.Transport):
    """What a protocol writes to. `unwritten` is how many bytes the other side has not taken.

    Once `is_stuck` is set, the other side takes nothing more.
    """

    def __init__(self, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self.protocol = protocol
        self.written = bytearray()
        self.done: list[str] = []
        self.unwritten = 0
        self.is_stuck = False
        self._goes_on = asyncio.Event()
        self._goes_on.set()
        protocol.connection_made(self)

    async def says(self, parts: Iterable[bytes]) -> None:
        """Give the protocol what the other side says, part by part, each of them once the protocol reads."""
        for part in parts:
            await self._goes_on.wait()
            self.protocol.data_received(part)
        await self._goes_on.wait()

    async def ends(self) -> None:
        """Tell the protocol that the other side says no more. A transport closes then."""
        await self._goes_on.wait()
        if not self.protocol.eof_received():
            self.close()

    @property
    def is_paused(self) -> bool:
        """Whether the protocol does not read now."""
        return not self._goes_on.is_set()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data
        if self.is_stuck:
            was_taken, self.unwritten = not self.unwritten, self.unwritten + len(data)
            if was_taken:
                self.protocol.pause_writing()

    def get_write_buffer_size(self) -> int:
        return self.unwritten

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Take any limits: the test says when the buffer is full."""

    def pause_reading(self) -> None:
        if not self.is_closing():
            self._goes_on.clear()

    def resume_reading(self) -> None:
        self._goes_on.set()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        assert isinstance(protocol, asyncio.Protocol)
        self.protocol = protocol

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.done.append("eof")

    def is_closing(self) -> bool:
        return "close" in self.done or "abort" in self.done

    def close(self) -> None:
        self._end("close", is_lost=not self.unwritten)

    def abort(self) -> None:
        self._end("abort", is_lost=True)

    def _end(self, how: str, *, is_lost: bool) -> None:
        was_lost = "abort" in self.done or ("close" in self.done and not self.unwritten)
        self.done.append(how)
        self._goes_on.set()
        if is_lost and not was_lost:
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)
