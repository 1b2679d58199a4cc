"""The origin of the streams: it sends each stream an event every 10 ms.

An event is as large as a token of a language model's answer. Each is written alone, so that a proxy gets it alone.
A request for the path `END` ends all streams: some proxies go on reading for clients that have left.
"""

import asyncio
import contextlib
import sys
from typing import Final

PERIOD: Final = 0.01
"""Seconds from one event of a stream to the next."""
MARK: Final = b"!"
"""A byte that stands once in each event, and nowhere else in an answer."""

END: Final = "/events/end"

_DATA: Final = b'data: {"id":"chatcmpl-1","choices":[{"index":0,"delta":{"content":" token"}}]}' + MARK + b"\n\n"
_EVENT: Final = b"%x\r\n%b\r\n" % (len(_DATA), _DATA)
_HEAD: Final = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-store\r\n"
    b"transfer-encoding: chunked\r\nconnection: close\r\n\r\n"
)


class Origin:
    """Streams that go on until their client leaves, or until all of them are ended."""

    def __init__(self) -> None:
        self._ended = 0
        """How often all streams have been ended."""

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            if END.encode() in head:
                self._ended += 1
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            else:
                await self._stream(reader, writer)
        writer.close()

    async def _stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        begun = self._ended
        writer.write(_HEAD)
        while begun == self._ended and not reader.at_eof():
            writer.write(_EVENT)
            await writer.drain()
            await asyncio.sleep(PERIOD)
        writer.write(b"0\r\n\r\n")


async def serve(port: int) -> None:
    server = await asyncio.start_server(Origin().answer, "127.0.0.1", port)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(int(sys.argv[1])))
