from collections.abc import Iterator

import pytest

from tests.fleet.valkey import Server, serving


@pytest.fixture(scope="session")
def running_server() -> Iterator[Server]:
    with serving() as server:
        yield server


@pytest.fixture
def server(running_server: Server) -> Server:
    running_server.send("FLUSHALL")
    return running_server
