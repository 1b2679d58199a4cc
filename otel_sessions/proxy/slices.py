"""What a WebSocket has sent and nobody has read yet: it is read in slices, a bounded number in a turn of the loop.

So small frames leave others their turns, and what comes behind a message waits until the message is taken.
"""

import asyncio
from collections.abc import Callable
from typing import Final

_SLICE: Final = 256
"""Bytes that are read at once."""
_MOST_SLICES: Final = 64
_MOST_FRAMES: Final = 64
"""How many slices, and how many frames, one turn of the loop reads."""


class Slices:
    """The bytes that wait to be read, by `read`, as long as `takes_more` returns True.

    `read` counts the `frames` of a turn. `has_read` hears that no more is read in a turn.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        takes_more: Callable[[], bool],
        read: Callable[[bytes], None],
        has_read: Callable[[], None],
    ) -> None:
        self.waiting: Final = bytearray()
        self.frames = 0
        self._loop = loop
        self._takes_more = takes_more
        self._read_slice = read
        self._has_read = has_read
        self._is_due = False

    def go_on(self) -> None:
        """Read now, unless the loop's next turn does."""
        if not self._is_due:
            self._read()

    def go_on_soon(self) -> None:
        """Read in the loop's next turn."""
        if not self._is_due:
            self._is_due = True
            self._loop.call_soon(self._read)

    def _read(self) -> None:
        """Read some of what waits; the rest waits for the reader, or for the loop's next turn."""
        self._is_due = False
        self.frames = 0
        for _ in range(_MOST_SLICES):
            if not self._is_ready() or self.frames >= _MOST_FRAMES:
                break
            part = bytes(self.waiting[:_SLICE])
            del self.waiting[:_SLICE]
            self._read_slice(part)
        if self._is_ready():
            self.go_on_soon()
        self._has_read()

    def _is_ready(self) -> bool:
        return bool(self.waiting) and self._takes_more()
