"""What a person reads who gives a wrong store, or the right one in a wrong way: the entry ends with one clear line."""

import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from otel_sessions import ConfigError, SessionManager
from tests.fleet.member import fleet
from tests.fleet.servers import (
    Program,
    Watched,
    answering,
    cluster,
    program,
    redis_6,
    redis_program,
    sentinels,
    tls_by,
    valkey_program,
)
from tests.proxy.certificates import trusting
from tests.waiting import PATIENCE

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.processes,
    pytest.mark.usefixtures("garbage"),
    pytest.mark.filterwarnings("ignore:Unclosed <MemoryObject:ResourceWarning"),  # coredis, where it cannot connect
    pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"]),  # real servers need real time
]

LEASE = 3 * PATIENCE
"""Seconds. A call, for which the entry waits, may take a third of it."""
PASSWORD = "not-for-any-eye"


async def complaint(url: str, **options: object) -> str:
    """Return what the entry of a manager raises, without the address of the server."""
    with pytest.raises(ConfigError) as caught:
        async with SessionManager(fleet=fleet(url, lease=LEASE, **options)):
            pass
    text = str(caught.value)
    assert "\n" not in text
    assert PASSWORD not in text
    return text.replace(f"at {url.partition('://')[2].rpartition('@')[2].split('/')[0]} ", "")


@pytest.fixture(scope="module", params=["valkey", "redis"])
def server(request: pytest.FixtureRequest) -> Iterator[Program]:
    with program(valkey_program() if request.param == "valkey" else redis_program()) as running:
        yield running


@pytest.fixture(scope="module")
def watched() -> Iterator[Watched]:
    """Sentinels whose primary asks for a password."""
    with sentinels(valkey_program()) as watched:
        watched.primary.send("CONFIG", "SET", "requirepass", "right")
        yield watched


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def secured(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """A server that speaks TLS only. The Valkey of tests is built without TLS."""
    with program(redis_program(), tls=tls_by(authority, tmp_path_factory.mktemp("tls"))) as running:
        yield running


NO_CLUSTER = "is no node of a Cluster; leave out cluster (--fleet-cluster)"
NO_SENTINEL = "the server is no Sentinel; leave out sentinel (--fleet-sentinel)"
NO_STORE = "what answers is no Valkey or Redis; check the host and the port"
IN_A_CLUSTER = "the server is a node of a Cluster; give cluster (--fleet-cluster)"
CLEAR = "the server speaks no TLS; give the URL as valkey:// or redis://"
SECURED = "the server speaks TLS; give the URL as valkeys:// or rediss://"
UNTRUSTED = (
    "the store's certificate is refused: self-signed certificate in certificate chain; "
    "check the URL's host and the authorities (--fleet-ca)"
)
REFUSED = "the store refuses the user name or the password; check the credentials of the fleet"
USERS = ["", f":{PASSWORD}@", f"fleet:{PASSWORD}@"]
KINDS = pytest.mark.parametrize(
    "kind", [{}, {"cluster": True}, {"sentinel": "main"}], ids=["one", "cluster", "sentinel"]
)


class TestKinds:
    """A server of one kind, given as one of another kind."""

    async def test_a_single_server_is_no_cluster(self, server: Program) -> None:
        assert await complaint(server.url, cluster=True) == f"the server {NO_CLUSTER}"

    async def test_a_single_server_is_no_sentinel(self, server: Program) -> None:
        assert await complaint(server.url, sentinel="main") == NO_SENTINEL

    async def test_a_replica_is_no_primary(self) -> None:
        with program(valkey_program()) as replica:
            replica.send("REPLICAOF", "127.0.0.1", 1)
            text = await complaint(replica.url)
        assert text.startswith("the server is a replica, which takes no writes; give the primary, or Sentinels")

    async def test_a_node_of_a_cluster_is_no_single_server(self) -> None:
        with cluster(valkey_program(), masters=3, replicas=1) as nodes:
            for node in (nodes[0], nodes[-1]):
                assert await complaint(node.url) == IN_A_CLUSTER
                assert await complaint(node.url, sentinel="main") == NO_SENTINEL

    async def test_a_node_that_has_only_one_database_is_no_single_server(self) -> None:
        with program(redis_program(), "--cluster-enabled", "yes") as node:
            text = await complaint(f"{node.url}/3")
        assert text == "the server is a node of a Cluster, with database 0 only; give cluster (--fleet-cluster)"

    async def test_a_sentinel_is_no_store(self, watched: Watched) -> None:
        url = watched.sentinels[0].url
        wanted = "the server is a Sentinel; give the name of its primary as sentinel (--fleet-sentinel)"
        assert await complaint(url) == wanted
        assert await complaint(url, cluster=True) == f"the server {NO_CLUSTER}"

    async def test_a_name_that_no_sentinel_knows_is_named(self, watched: Watched) -> None:
        wanted = "the Sentinel knows no primary 'o{th}er'; check sentinel (--fleet-sentinel)"
        assert await complaint(watched.sentinels[0].url, sentinel="o{th}er") == wanted

    async def test_a_database_that_is_not_there_is_named(self, server: Program) -> None:
        wanted = "the store has no database of this number; check the number at the end of the URL"
        assert await complaint(f"{server.url}/99") == wanted


class TestCredentials:
    """A server, Sentinel or Cluster that wants other credentials than the fleet has."""

    @pytest.mark.parametrize("kind", [{}, {"cluster": True}], ids=["one", "cluster"])
    @pytest.mark.parametrize("user", USERS)
    async def test_a_password_that_is_missing_or_wrong_is_refused(self, kind: dict[str, object], user: str) -> None:
        with program(valkey_program(), "--requirepass", "right") as server:
            assert await complaint(server.url.replace("://", f"://{user}"), **kind) == REFUSED

    @pytest.mark.parametrize("user", USERS)
    async def test_the_primary_that_sentinels_name_may_ask_for_a_password(self, watched: Watched, user: str) -> None:
        assert await complaint(watched.url.replace("://", f"://{user}"), sentinel="main") == REFUSED

    async def test_sentinels_that_ask_for_a_password_are_not_supported(self) -> None:
        with answering(b"-NOAUTH Authentication required.\r\n") as url:
            text = await complaint(url, sentinel="main")
        assert text == "the Sentinel asks for a password, which is not supported; let it answer without"

    @KINDS
    async def test_protected_mode_is_named(self, kind: dict[str, object]) -> None:
        with answering(b"-DENIED Redis is running in protected mode because protected mode is enabled\r\n") as url:
            text = await complaint(url, **kind)
        assert text == "the server is in protected mode, which refuses other machines; set a password there"


async def test_a_server_that_is_too_old_for_its_client_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    with answering(b"-ERR unknown command `HELLO`, with args beginning with: `3`\r\n") as url:
        assert await complaint(url) == "the store is too old; a fleet needs Valkey 8, Redis 7 or newer"
    assert "settings" not in caplog.text


async def test_a_server_whose_info_takes_one_section_is_asked_for_its_version(caplog: pytest.LogCaptureFixture) -> None:
    with redis_6() as url:
        assert await complaint(url) == "the store is Redis 6.2.14; a fleet needs Valkey 8, Redis 7 or newer"
    assert "settings" not in caplog.text


@KINDS
async def test_a_server_that_is_only_busy_is_waited_for(kind: dict[str, object]) -> None:
    with answering(b"-ERR max number of clients reached\r\n") as url:
        async with SessionManager(fleet=fleet(url, lease=LEASE, **kind)) as manager:
            assert manager.fleet.grant == 0  # type: ignore[union-attr]


async def test_a_single_server_with_tls_is_no_cluster_and_no_sentinel(secured: Program, authority: trustme.CA) -> None:
    assert await complaint(secured.url, tls=trusting(authority), cluster=True) == f"the server {NO_CLUSTER}"
    assert await complaint(secured.url, tls=trusting(authority), sentinel="main") == NO_SENTINEL


@KINDS
class TestTls:
    """A port that speaks TLS, or does not, and whom it shows a certificate."""

    async def test_a_port_without_tls_says_so(self, server: Program, kind: dict[str, object]) -> None:
        assert await complaint(server.url.replace("valkey:", "valkeys:"), **kind) == CLEAR

    async def test_a_port_with_tls_only_says_so(self, secured: Program, kind: dict[str, object]) -> None:
        assert await complaint(secured.url.replace("valkeys:", "valkey:"), **kind) == SECURED

    async def test_another_authority_is_refused(self, secured: Program, kind: dict[str, object]) -> None:
        assert await complaint(secured.url, tls=trusting(trustme.CA()), **kind) == UNTRUSTED
        assert await complaint(secured.url, **kind) == UNTRUSTED

    async def test_another_host_than_the_certificate_names_is_refused(
        self, secured: Program, authority: trustme.CA, kind: dict[str, object]
    ) -> None:
        url = secured.url.replace("127.0.0.1", "localhost")
        text = await complaint(url, tls=trusting(authority), **kind)
        assert "certificate is not valid for 'localhost'; check the URL's host" in text

    async def test_a_server_that_asks_for_a_certificate_says_so(
        self, authority: trustme.CA, tmp_path: Path, kind: dict[str, object]
    ) -> None:
        with program(redis_program(), tls=tls_by(authority, tmp_path, asks=True)) as server:
            for most in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
                context = trusting(authority)
                context.maximum_version = most
                text = await complaint(server.url, tls=context, **kind)
                assert "if it asks for a certificate, give one in tls, or set its tls-auth-clients to no" in text


@KINDS
@pytest.mark.parametrize("scheme", ["valkey", "valkeys"])
async def test_another_program_at_the_address_is_no_store(kind: dict[str, object], scheme: str) -> None:
    with answering(b"HTTP/1.1 400 Bad Request\r\n\r\n") as url:
        assert await complaint(url.replace("valkey", scheme), **kind) == NO_STORE
