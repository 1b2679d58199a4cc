"""The folder of the workers of one machine: one Unix socket for each worker, and a secret if they share one.

Only the user of the workers may open the folder. A socket that stands under its final name listens as long as its
worker lives: it is bound and listens under another name first. So a socket that refuses connections has no worker.
"""

import os
import secrets
import socket
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from otel_sessions._core.exceptions import ConfigError

_SOCKET: Final = ".sock"
_UNFINISHED: Final = ".new"
_UNFINISHED_SECONDS: Final = 60.0
"""How old an unfinished file is before it counts as left behind."""
_BACKLOG: Final = 2048
_SECRET_BYTES: Final = 32


class Folder:
    """The folder, which is made if it is missing. Raises `ConfigError` if others may open it or it cannot be used."""

    def __init__(self, path: Path) -> None:
        if not hasattr(socket, "AF_UNIX"):  # pragma: no cover
            raise ConfigError("the workers need Unix sockets, which this system does not have")
        self._path = path.absolute()
        self._secret = self._path / "secret"
        with _usable():
            self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
            _require_private(self._path, stat.S_ISDIR)

    def secret(self) -> Path:
        """Return the file of the secret that the workers share. It is made if it is missing. Raises `ConfigError`."""
        with _usable():
            self._make_secret()
            _require_private(self._secret, stat.S_ISREG)
        return self._secret

    def address_of(self, name: str) -> str:
        """Return the address of the worker of this name, whether it has a socket or not."""
        return f"unix:{self.path_of(name)}"

    def has(self, name: str) -> bool:
        """Return whether the worker of this name has a socket."""
        return self.path_of(name).is_socket()

    def names(self) -> list[str]:
        """Return the names of the workers that have a socket."""
        return [path.stem for path in self._path.iterdir() if path.suffix == _SOCKET]

    def listen(self, name: str) -> socket.socket:
        """Return the listening socket of a worker, and remove the sockets of dead workers. Raises `ConfigError`."""
        path = self.path_of(name)
        unfinished = path.with_suffix(_UNFINISHED)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._remove_dead()
            listener.bind(str(unfinished))
            unfinished.chmod(0o600)
            listener.listen(_BACKLOG)
            unfinished.replace(path)
        except OSError as error:
            listener.close()
            raise ConfigError(f"the worker cannot listen at {path}: {error}") from error
        listener.setblocking(False)
        return listener

    def remove(self, name: str) -> None:
        """Remove the socket of a worker that takes no more."""
        with suppress(OSError):
            self.path_of(name).unlink()

    def path_of(self, name: str) -> Path:
        """Return the path of the socket of the worker of this name."""
        return self._path / f"{name}{_SOCKET}"

    def _make_secret(self) -> None:
        """Write a secret unless there is one. Of several workers that start at once, one wins."""
        if self._secret.exists():
            return
        mine = self._path / f"secret-{secrets.token_hex(8)}{_UNFINISHED}"
        descriptor = os.open(mine, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(f"{secrets.token_hex(_SECRET_BYTES)}\n")
        try:
            with suppress(FileExistsError):
                self._secret.hardlink_to(mine)
        finally:
            mine.unlink()

    def _remove_dead(self) -> None:
        for path in self._path.iterdir():
            with suppress(FileNotFoundError):  # another worker has removed it
                if (path.suffix == _SOCKET and _is_dead(path)) or (path.suffix == _UNFINISHED and _is_old(path)):
                    path.unlink()


@contextmanager
def _usable() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(f"the folder of the workers cannot be used: {error}") from error


def _is_dead(path: Path) -> bool:
    """Return whether no process listens at a socket. A process that is stopped still listens."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # else a full backlog would keep this process waiting
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return True
        except OSError:  # a full backlog, or the worker has removed its socket meanwhile
            return False
        return False


def _is_old(path: Path) -> bool:
    return time.time() - path.lstat().st_mtime > _UNFINISHED_SECONDS


def _require_private(path: Path, is_right: Callable[[int], bool]) -> None:
    """Raise `ConfigError` unless a path is of the right kind, and of this process's user only. Raises `OSError`."""
    state = path.lstat()
    if not is_right(state.st_mode) or state.st_uid != os.geteuid() or state.st_mode & 0o077:
        raise ConfigError(
            f"{path} must belong to the user of the workers alone, and be open to no other user: "
            f"chmod {'700' if is_right is stat.S_ISDIR else '600'} it, or name another folder"
        )
