"""Two replicas that share nothing but a wire: each has a network of its own, as on two machines."""

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from tests.exchanges import INITIALIZE
from tests.processes import running, until_answers
from tests.waiting import until

from .several import LIST, MCP, asked, hint_of

pytestmark = pytest.mark.processes
NAMES = ("w1", "w2")


def ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"ip {' '.join(words)}: {done.stderr.strip()}")


@dataclass(frozen=True, kw_only=True)
class Network:
    """A bridge with an address for the upstream and the clients, and a namespace with an address for each replica."""

    subnet: str
    tag: str

    @property
    def here(self) -> str:
        return f"{self.subnet}.254"

    def space(self, name: str) -> str:
        return f"{self.tag}-{name}"

    def wire(self, name: str) -> str:
        return f"{self.tag}{name}"

    def address(self, name: str) -> str:
        return f"{self.subnet}.{NAMES.index(name) + 1}"

    def set_up(self) -> None:
        ip("link", "add", self.tag, "type", "bridge")
        ip("address", "add", f"{self.here}/24", "dev", self.tag)
        ip("link", "set", self.tag, "up")
        for name in NAMES:
            inside = ("-n", self.space(name))
            ip("netns", "add", self.space(name))
            ip("link", "add", self.wire(name), "type", "veth", "peer", "name", "e0", "netns", self.space(name))
            ip("link", "set", self.wire(name), "master", self.tag, "up")
            ip(*inside, "address", "add", f"{self.address(name)}/24", "dev", "e0")
            ip(*inside, "link", "set", "e0", "up")
            ip(*inside, "link", "set", "lo", "up")

    def take_down(self) -> None:
        for name in NAMES:
            with contextlib.suppress(OSError):
                ip("netns", "delete", self.space(name))
        with contextlib.suppress(OSError):
            ip("link", "delete", self.tag)


@pytest.fixture
def network() -> Iterator[Network]:
    if os.geteuid() or shutil.which("ip") is None:
        pytest.skip("a network of its own needs root, and the program ip (apt-get install iproute2)")
    network = Network(subnet=f"10.201.{os.getpid() % 250}", tag=f"os{os.getpid()}")
    try:
        try:
            network.set_up()
        except OSError as error:
            pytest.skip(f"this system gives no network of its own: {error}")
        yield network
    finally:
        network.take_down()


@contextlib.contextmanager
def replicas(network: Network, folder: Path) -> Iterator[dict[str, str]]:
    """Run a replica in each namespace, and return their URLs by name."""
    peers, secret = folder / "peers", folder / "secret"
    peers.write_text("".join(f"{name}=http://{network.address(name)}:9001\n" for name in NAMES))
    secret.write_text("a secret of the whole fleet\n")
    upstream = f"{network.here}:8000"
    with contextlib.ExitStack() as started:
        module = [sys.executable, "-m", "otel_sessions.demo.processes.upstream", "--listen", upstream]
        started.enter_context(running("upstream", module, folder))
        for name in NAMES:
            address = network.address(name)
            command = ["ip", "netns", "exec", network.space(name), sys.executable, "-m", "otel_sessions.cli", "proxy"]
            command += [
                "--upstream",
                f"http://{upstream}",
                "--listen",
                f"{address}:8080",
                "--health",
                f"{address}:8081",
            ]
            command += ["--peers-file", str(peers), "--peer-secret-file", str(secret), "--peer-name", name]
            command += ["--peer-listen", f"{address}:9001"]
            process = started.enter_context(running(name, command, folder))
            until_answers(f"http://{address}:8081/healthz", process)
        yield {name: f"http://{network.address(name)}:8080" for name in NAMES}


def used(url: str, session_id: str) -> httpx2.Response:
    return asked("POST", f"{url}/mcp", content=LIST, headers={**MCP, "mcp-session-id": session_id})


def test_replicas_on_two_networks_share_sessions_and_outlive_a_cut_wire(network: Network, tmp_path: Path) -> None:
    with replicas(network, tmp_path) as urls:

        def open_at_first() -> str:
            answer = asked("POST", f"{urls['w1']}/mcp", content=INITIALIZE, headers=MCP)
            return str(answer.headers.get("mcp-session-id", ""))

        session_id = until(open_at_first, bool)  # once the upstream listens
        assert hint_of(session_id) == "w1"
        assert [used(url, session_id).status_code for url in urls.values()] == [200, 200]

        ip("link", "set", network.wire("w1"), "down")  # packets vanish, and nobody says so
        refused = used(urls["w2"], session_id)
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) > 0

        ip("link", "set", network.wire("w1"), "up")
        until(lambda: used(urls["w2"], session_id).status_code, lambda status: status == 200)

        ip("-n", network.space("w2"), "route", "add", "blackhole", f"{network.address('w1')}/32")
        assert used(urls["w2"], session_id).status_code in (404, 503)
        assert used(urls["w1"], session_id).status_code == 200
        ip("-n", network.space("w2"), "route", "delete", "blackhole", f"{network.address('w1')}/32")
        until(lambda: used(urls["w2"], session_id).status_code, lambda status: status == 200)
