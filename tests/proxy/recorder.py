"""An upstream that keeps every whole request that reaches it, byte by byte, and answers from a script."""

import re
import socket
import socketserver
import ssl
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.processes import HOST
from tests.waiting import PATIENCE

OK: Final = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One request."""

    line: str
    headers: list[tuple[str, str]]
    body: bytes

    def values(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name]


class Recorder:
    """A server on loopback, or at the path of a Unix socket, with `tls` under TLS.

    `answers` are told by path; every other request gets a 200.
    """

    def __init__(
        self, answers: Mapping[str, bytes], path: Path | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        self._answers = answers
        self._seen: list[Seen] = []
        recorder = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                while recorder._serve_one(self):
                    pass

        class Server(socketserver.ThreadingTCPServer):
            address_family = socket.AF_INET if path is None else socket.AF_UNIX
            allow_reuse_address = True
            daemon_threads = True

            def handle_error(self, request: object, client_address: object) -> None:
                """Say nothing of a connection without TLS."""

        place: Any = (HOST, 0) if path is None else str(path)
        self._server = Server(place, Handler)
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.port: Final[int] = self._server.server_address[1] if path is None else 0
        scheme = "http" if tls is None else "https"
        self.url: Final = f"unix:{path}" if path is not None else f"{scheme}://{HOST}:{self.port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def taken(self) -> list[Seen]:
        """Return what has been seen since the last call."""
        seen, self._seen = self._seen, []
        return seen

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _serve_one(self, handler: socketserver.StreamRequestHandler) -> bool:
        try:
            seen = _read(handler)
        except OSError:
            return False
        if seen is None:
            return False
        self._seen.append(seen)
        target = seen.line.split(" ")[1]
        handler.wfile.write(self._answers.get(target, OK))
        return True


def _read(handler: socketserver.StreamRequestHandler) -> Seen | None:
    """Return the next request, or None if none comes as a whole."""
    line = handler.rfile.readline().decode("latin-1")
    if not line:
        return None
    headers = []
    while (raw := handler.rfile.readline().decode("latin-1").rstrip("\r\n")) != "":
        name, _, value = raw.partition(":")
        headers.append((name.lower(), value.strip()))
    said = dict(headers)
    body = b""
    if "transfer-encoding" in said:
        while size := int(handler.rfile.readline() or b"0", 16):
            body += handler.rfile.read(size)
            handler.rfile.readline()
        if handler.rfile.readline() != b"\r\n":
            return None
    elif length := int(said.get("content-length", "0")):
        body = handler.rfile.read(length)
        if len(body) < length:
            return None
    return Seen(line=line.rstrip("\r\n"), headers=headers, body=body)


def talk(port: int, *parts: bytes, seconds: float = PATIENCE) -> bytes:
    """Send bytes as they are, each part in a segment of its own, and return all that is said until the other closes."""
    with socket.create_connection((HOST, port), seconds) as connection:
        said = b""
        for part in parts:
            connection.sendall(part)
        while more := connection.recv(65536):
            said += more
        return said


def heard(connection: socket.socket, end: bytes) -> bytes:
    """Return what comes, up to the part that brings these bytes."""
    connection.settimeout(PATIENCE)
    said = b""
    while end not in said:
        more = connection.recv(65536)
        assert more, said
        said += more
    return said


def statuses(said: bytes) -> list[int]:
    """Return the statuses of all answers in what was said."""
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d\d\d) ", said)]
