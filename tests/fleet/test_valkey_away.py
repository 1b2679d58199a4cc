"""`ValkeyFleet` and a store that stops, pauses, is not there, refuses, or speaks TLS only. In real time."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import anyio
import pytest
import trustme

from otel_sessions import ConfigError, SessionManager, TooManySessions
from tests.fleet.member import fleet
from tests.fleet.real import balance, books
from tests.fleet.servers import Program, program, redis_program, tls_by, valkey_program
from tests.proxy.certificates import trusting
from tests.waiting import until_happened

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.processes,
    pytest.mark.usefixtures("garbage"),
    pytest.mark.filterwarnings("ignore:Unclosed <MemoryObject:ResourceWarning"),  # coredis, where it cannot connect
    pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"]),  # real servers need real time
]

LEASE = 6.0
"""Seconds. A third of it, the time limit of a call, is enough on a machine that is busy."""
PASSWORD = "not-for-any-eye"


@pytest.fixture
def valkey() -> Iterator[Program]:
    """A server that keeps on disk whatever it has acknowledged."""
    with program(valkey_program(), "--appendonly", "yes", "--appendfsync", "always") as started:
        yield started


@pytest.fixture
def is_heard(caplog: pytest.LogCaptureFixture) -> Callable[[], bool]:
    """Whether no part of the store is silent by its last call. Who leaves before, tells the store nothing more."""
    caplog.set_level(logging.INFO, "otel_sessions")
    return lambda: caplog.text.count("does not answer:") == caplog.text.count("answers again")


async def test_a_store_that_is_started_again_goes_on_with_the_same_books(
    valkey: Program, is_heard: Callable[[], bool]
) -> None:
    async with SessionManager(fleet=fleet(valkey.url, lease=LEASE)) as manager:
        before = [await manager.create_session() for _ in range(3)]
        valkey.kill()
        await manager.close_session(before[0].id)
        meanwhile = await manager.create_session()
        assert manager.get(before[1].id) is before[1]

        valkey.start()
        await until_happened(lambda: books(valkey)["closed"] == 1 and books(valkey)["active"] == 3)
        assert balance(valkey)
        await until_happened(lambda: manager.get(meanwhile.id) is meanwhile and is_heard())
    assert books(valkey) == {"created": 4, "closed": 1, "shutdown": 3, "active": 0}


async def test_a_store_that_is_started_again_empty_is_told_of_all_sessions(is_heard: Callable[[], bool]) -> None:
    with program(valkey_program()) as valkey:
        async with SessionManager(fleet=fleet(valkey.url, lease=LEASE)) as manager:
            for _ in range(3):
                await manager.create_session()
            valkey.kill()
            valkey.start()
            await until_happened(lambda: books(valkey)["active"] == 3 and is_heard())
        assert books(valkey) == {"created": 3, "shutdown": 3, "active": 0}


async def test_a_store_that_stood_still_goes_on_with_the_same_books(valkey: Program) -> None:
    async with SessionManager(fleet=fleet(valkey.url)) as manager:
        before = [await manager.create_session() for _ in range(3)]
        valkey.pause()
        await manager.close_session(before[0].id)
        meanwhile = await manager.create_session()
        await anyio.sleep(2.0)  # longer than the lease
        assert manager.get(before[1].id) is before[1]

        valkey.go_on()
        await until_happened(lambda: books(valkey)["closed"] == 1 and books(valkey)["active"] == 3)
        await until_happened(lambda: manager.get(meanwhile.id) is meanwhile)
        assert balance(valkey)


async def test_without_a_store_at_the_start_a_process_has_its_share_until_the_store_comes(
    valkey: Program, is_heard: Callable[[], bool]
) -> None:
    valkey.kill()
    async with SessionManager(fleet=fleet(valkey.url, start_share=2, lease=LEASE)) as manager:
        for _ in range(2):
            await manager.create_session()
        with pytest.raises(TooManySessions):
            await manager.create_session()

        valkey.start()
        await until_happened(lambda: books(valkey)["active"] == 2)
        await until_happened(lambda: manager.fleet.grant > 2)  # type: ignore[union-attr]
        await manager.create_session()
        await until_happened(is_heard)
    assert books(valkey) == {"created": 3, "shutdown": 3, "active": 0}


@pytest.mark.parametrize("user", ["", "fleet"])
async def test_a_wrong_password_is_refused_at_the_entry_and_shown_nowhere(
    valkey: Program, user: str, caplog: pytest.LogCaptureFixture
) -> None:
    valkey.send("ACL", "SETUSER", "default", "resetpass", ">right")
    refused = fleet(f"valkey://{user}:{PASSWORD}@127.0.0.1:{valkey.port}")
    with pytest.raises(ConfigError, match="check the credentials") as caught:
        async with SessionManager(fleet=refused):
            pass
    assert PASSWORD not in "".join((str(caught.value), repr(caught.value.__cause__), repr(refused), caplog.text))


async def test_a_server_that_wants_a_password_is_not_entered_without(valkey: Program) -> None:
    valkey.send("CONFIG", "SET", "requirepass", "right")
    with pytest.raises(ConfigError, match="check the credentials"):
        async with SessionManager(fleet=fleet(valkey.url)):
            pass


async def test_a_user_who_may_not_run_scripts_is_refused_at_the_entry(valkey: Program) -> None:
    valkey.send("ACL", "SETUSER", "fleet", "on", ">p", "~*", "+info", "+hello", "+config")
    with pytest.raises(ConfigError, match="EVALSHA"):
        async with SessionManager(fleet=fleet(f"valkey://fleet:p@127.0.0.1:{valkey.port}")):
            pass


async def test_tls_with_an_authority_of_its_own_is_spoken(tmp_path: Path) -> None:
    authority = trustme.CA()
    with program(redis_program(), tls=tls_by(authority, tmp_path)) as server:
        async with SessionManager(fleet=fleet(server.url, tls=trusting(authority), lease=LEASE)) as manager:
            await manager.create_session()
            assert books(server)["active"] == 1
        assert balance(server)
