"""Asks URLs whether what is behind them is well, in little memory: `python -I -S probe.py URL ...`.

For health checks in containers, which run within the container's own limit and in images without curl and wget. Uses
nothing but sockets. Exits 0 if every URL answers 200, else 1 and says which one did not.
"""

import socket
import sys


def status(url: str, seconds: float = 3.0) -> str:
    """Return the first line of the answer. Raises `OSError`."""
    host, _, path = url.removeprefix("http://").partition("/")
    name, _, port = host.partition(":")
    with socket.create_connection((name, int(port or 80)), seconds) as connection:
        connection.settimeout(seconds)
        connection.sendall(f"GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        return connection.recv(4096).split(b"\r\n")[0].decode()


def main(urls: list[str]) -> int:
    for url in urls:
        try:
            answer = status(url)
        except OSError as error:
            answer = str(error)
        if " 200 " not in f"{answer} ":
            print(f"{url}: {answer}")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
