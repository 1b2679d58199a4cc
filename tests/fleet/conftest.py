import gc
import os
from collections.abc import Iterator

import pytest

from tests.fleet.mutants import MUTANTS as ALL
from tests.fleet.servers import Program, program, valkey_program
from tests.fleet.valkey import Server, serving

MUTANTS = {mutant.name: mutant for mutant in ALL if os.environ.get("FLEET_MUTANTS")}


@pytest.fixture(scope="session")
def running_server() -> Iterator[Server]:
    with serving() as server:
        yield server


@pytest.fixture(params=[*MUTANTS] or ["sound"])
def server(request: pytest.FixtureRequest, running_server: Server) -> Iterator[Server]:
    """An empty store. With `FLEET_MUTANTS` in the environment, each test runs on every mutant."""
    running_server.send("FLUSHALL")
    running_server.mutants = MUTANTS[request.param].scripts() if request.param in MUTANTS else {}
    yield running_server
    running_server.mutants = {}


@pytest.fixture
def valkey() -> Iterator[Program]:
    """A real server of a test's own."""
    with program(valkey_program()) as started:
        yield started


@pytest.fixture
def garbage() -> Iterator[None]:
    """Collect what coredis left unclosed, before another test is blamed for it."""
    yield
    gc.collect()
