"""A way for the parts of an answer past `send`: by a plain call, outside any task. asyncio only.

An app whose server has this way sends one message `DIRECT` behind the start of its answer. Each layer between the app
and the server adds what it notes of a part. The server adds how it writes a part. The end of the answer goes by `send`,
and so may any other part: an empty part waits until the client takes more.
"""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

DIRECT: Final = "otel_sessions.http.response.direct"
"""The type of the message, which has a `Way` as `way`."""
Write = Callable[[bytes], bool]
"""Writes a part at once. Returns whether the client takes more; if not, the app must wait."""


class Way:
    """What the layers do with a part of an answer."""

    def __init__(self) -> None:
        self.notes: list[Callable[[bytes], None]] = []
        self.write: Write | None = None
        self.now = asyncio.get_running_loop().time
        """The clock for notes: the clock of anyio needs a task."""


async def direct(send: Callable[[MutableMapping[str, Any]], Awaitable[None]]) -> Write:
    """Return how to write a part past `send`. Raises `RuntimeError` if the server does not have this way."""
    way = Way()
    await send({"type": DIRECT, "way": way})
    write = way.write
    if write is None:
        raise RuntimeError("the server has no direct way for the parts of an answer")
    for note in way.notes:
        write = _noted(note, write)
    return write


def _noted(note: Callable[[bytes], None], write: Write) -> Write:
    def note_and_write(part: bytes) -> bool:
        note(part)
        return write(part)

    return note_and_write
