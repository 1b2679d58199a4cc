"""Programs and loops that tests run to their end: processes of their own, other loops, loops that die."""

import asyncio
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio

from .waiting import PATIENCE


def output_of(program: str) -> list[str]:
    """Run a program in a process of its own and return what it printed; any other end than a clean one is an error."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
        timeout=PATIENCE,
        check=False,
    )
    assert (done.stderr, done.returncode) == ("", 0)
    return done.stdout.splitlines()


def run(backend: tuple[str, dict[str, Any]], function: Callable[[], Any]) -> Any:
    """Run on a loop of its own, as `anyio_backend` says which."""
    name, options = backend
    return anyio.run(function, backend=name, backend_options=options)


def run_on_a_loop_that_dies(function: Callable[[], Any]) -> Any:
    """Run on an asyncio loop that is closed without a word to its other tasks."""
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)  # it says that tasks were destroyed, as they are meant to be
    try:
        return loop.run_until_complete(function())
    finally:
        loop.close()


async def let_others_run() -> None:
    """Let asyncio's other tasks take ten steps."""
    for _ in range(10):
        await asyncio.sleep(0)
