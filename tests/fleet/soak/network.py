"""A network namespace beside this one, joined by a link that can be cut without a sign to either side.

While the link is cut, packets go to a station that does not exist. TCP sends them again: they arrive late.
"""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from typing import Final

import pytest

_NOBODY: Final = "02:00:00:00:00:99"


class Network:
    """The namespace `name`. `here` is the address of this side."""

    def __init__(self) -> None:
        number = os.getpid() % 10_000
        self.name = f"soak{number}"
        self._link = f"sk{number}"
        self.here, self._there = (f"10.{200 + number // 250}.{number % 250}.{host}" for host in (1, 2))

    def make(self) -> None:
        _ip("netns", "add", self.name)
        _ip("link", "add", self._link, "type", "veth", "peer", "name", "e0", "netns", self.name)
        _ip("addr", "add", f"{self.here}/30", "dev", self._link)
        _ip("link", "set", self._link, "up")
        _ip("-n", self.name, "addr", "add", f"{self._there}/30", "dev", "e0")
        for device in ("e0", "lo"):
            _ip("-n", self.name, "link", "set", device, "up")

    def remove(self) -> None:
        for words in (("link", "del", self._link), ("netns", "del", self.name)):
            subprocess.run(["ip", *words], check=False, capture_output=True)

    def inside(self) -> tuple[str, ...]:
        """Return the words in front of a command that is to run in the namespace."""
        return ("ip", "netns", "exec", self.name)

    def cut(self) -> None:
        _ip("-n", self.name, "neigh", "replace", self.here, "lladdr", _NOBODY, "dev", "e0", "nud", "permanent")
        _ip("neigh", "replace", self._there, "lladdr", _NOBODY, "dev", self._link, "nud", "permanent")

    def heal(self) -> None:
        _ip("-n", self.name, "neigh", "del", self.here, "dev", "e0")
        _ip("neigh", "del", self._there, "dev", self._link)


@contextlib.contextmanager
def network() -> Iterator[Network]:
    """Make a network. Skip the test where this process may not."""
    made = Network()
    try:
        try:
            made.make()
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"no network namespace can be made here: {error}")
        yield made
    finally:
        made.remove()


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)
