"""The time that decides about the sessions of a proxy: it passes while the machine sleeps, with a fleet and without."""

import subprocess
import sys
import time
from typing import Final

import pytest

from tests.processes import ROOT, clean_environ
from tests.waiting import PATIENCE

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(not hasattr(time, "CLOCK_BOOTTIME"), reason="this system has no clock that counts its sleep"),
]

SLEEPING: Final = """
import asyncio, time

read, slept = time.clock_gettime, 0.0
time.clock_gettime = lambda clock: read(clock) + (slept if clock == time.CLOCK_BOOTTIME else 0.0)

from otel_sessions.proxy import Peer, Proxy, Settings

async def main():
    global slept
    async with Proxy(Settings(upstream="http://127.0.0.1:1", listen=("127.0.0.1", 0))) as proxy:
        session = await proxy.manager.create_session(data=Peer(b"/", ()))
        assert proxy.manager.get(session.id) is session
        slept = 3600.0
        print(proxy.manager.get(session.id))

asyncio.run(main())
"""


def test_a_session_grows_stale_while_the_machine_sleeps() -> None:
    command = [sys.executable, "-c", SLEEPING]
    said = subprocess.run(
        command, env=clean_environ(), cwd=ROOT, capture_output=True, text=True, check=True, timeout=PATIENCE
    )

    assert said.stdout == "None\n"
