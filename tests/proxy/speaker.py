"""An upstream of WebSockets whose every byte the test says."""

import contextlib
import re
import socket
import threading
from collections.abc import Callable, Iterator

from websockets.utils import accept_key

from tests.processes import HOST


@contextlib.contextmanager
def speaking(frames: bytes, before: bytes = b"") -> Iterator[str]:
    """Serve one WebSocket after the other, to each of which these frames are sent, whatever it says; yield the URL.

    `before` is what comes before the answer to the handshake.
    """

    def speak(client: socket.socket) -> None:
        client.sendall(frames)
        client.shutdown(socket.SHUT_WR)
        while client.recv(65536):
            pass

    with acting(speak, before) as url:
        yield url


@contextlib.contextmanager
def acting(act: Callable[[socket.socket], None], before: bytes = b"") -> Iterator[str]:
    """Serve one WebSocket after the other: answer its handshake, call `act` with its connection, close; yield the URL.

    `before` is what comes before the answer to the handshake.
    """
    with socket.create_server((HOST, 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    with client, contextlib.suppress(OSError):
                        client.sendall(before + switching(client.recv(65536)))
                        act(client)

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://{HOST}:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)


def switching(handshake: bytes) -> bytes:
    """Return the answer to a handshake (RFC 6455, 4.2.2)."""
    key = re.search(rb"(?i)sec-websocket-key: *(\S+)", handshake)
    assert key is not None
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Accept: %s\r\n\r\n" % accept_key(key[1].decode()).encode()
    )
