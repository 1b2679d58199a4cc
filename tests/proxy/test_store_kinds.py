"""Proxies whose store is a set-up with Sentinels, a Cluster or a server with TLS: a failover, and wrong settings."""

import contextlib
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest
import trustme

from tests.fleet.processes import KEYS
from tests.fleet.real import balance, books, owner_of
from tests.fleet.servers import (
    Program,
    cluster,
    program,
    redis_program,
    sentinels,
    tls_by,
    url_of,
    valkey_program,
)
from tests.processes import HOST, free_port, running_module
from tests.waiting import PATIENCE, until

from .conftest import Origin, Proxy
from .store_fleets import SECRET, SHORT, opened, said, start_member, until_counted, used

pytestmark = pytest.mark.processes

PASSWORD = "hunter2"


@dataclass(frozen=True, kw_only=True)
class Url:
    """The URL of a store with several servers."""

    url: str


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def ca(authority: trustme.CA, tmp_path: Path) -> str:
    """The flag that names the file with the authority."""
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    return f"--fleet-ca={tmp_path / 'ca.pem'}"


@contextlib.contextmanager
def using(proxies: Sequence[Proxy], session_id: str) -> Iterator[Counter[int]]:
    """Use a session through each proxy in turn, for as long as the block lasts. Yields how often each status came."""
    statuses, over = Counter[int](), threading.Event()

    def use() -> None:
        with httpx2.Client(trust_env=False, timeout=PATIENCE) as http:
            while not over.wait(0.05):
                statuses.update(used(http, proxy, session_id) for proxy in proxies)

    client = threading.Thread(target=use)
    client.start()
    try:
        yield statuses
    finally:
        over.set()
        client.join()


def until_told(servers: Sequence[Program], active: int) -> None:
    """Wait until the store has so many sessions, and its books balance."""
    until(lambda: books(*servers)["active"], lambda found: found == active)
    until(lambda: balance(*servers), bool)


def until_heard(*proxies: Proxy) -> None:
    """Wait until no part of the store is silent for a proxy. Who leaves before, tells the store nothing more."""
    for proxy in proxies:
        until(lambda proxy=proxy: said(proxy), lambda text: text.count("not answer:") == text.count("answers again"))  # type: ignore[misc]


class TestFailover:
    """A primary is killed while clients go on: no request fails, and the store has all sessions afterwards."""

    def test_sentinels_name_another_primary(self, own_origin: Origin, tmp_path: Path, http: httpx2.Client) -> None:
        with (
            sentinels(valkey_program()) as watched,
            start_member(tmp_path, watched, own_origin.url, "--fleet-sentinel=main", lease=SHORT) as one,
            start_member(tmp_path, watched, own_origin.url, "--fleet-sentinel=main", lease=SHORT) as other,
        ):
            session_id = opened(http, one)
            until_told([watched.replica], 1)
            with using([one, other], session_id) as statuses:
                watched.primary.kill()
                opened(http, other)
                until(lambda: watched.replica.send("INFO", "replication"), lambda info: b"role:master" in info)
                until_told([watched.replica], 2)
                opened(http, one)
            assert set(statuses) == {200}
            until_heard(one, other)
            assert [proxy.process.terminate() for proxy in (one, other)] == [0, 0]
            until_counted(watched.replica, created=3, active=0)
            assert "Traceback" not in said(one) + said(other)
        assert own_origin.counts()["sessions"] == 0

    def test_a_cluster_with_tls_has_another_master(
        self, own_origin: Origin, tmp_path: Path, http: httpx2.Client, authority: trustme.CA, ca: str
    ) -> None:
        flags = ("--fleet-cluster", ca)
        with cluster(redis_program(), masters=3, replicas=3, tls=tls_by(authority, tmp_path)) as nodes:
            store = Url(url=url_of(nodes))
            with (
                start_member(tmp_path, store, own_origin.url, *flags, lease=SHORT) as one,
                start_member(tmp_path, store, own_origin.url, *flags, lease=SHORT) as other,
            ):
                session_id = opened(http, one)
                until_told(nodes, 1)
                master = owner_of(KEYS.fleet[0], nodes[:3])
                replica = nodes[nodes.index(master) + 3]
                with using([one, other], session_id) as statuses:
                    master.kill()
                    opened(http, other)
                    until(lambda: replica.send("INFO", "replication"), lambda info: b"role:master" in info)
                    nodes.remove(master)
                    until_told(nodes, 2)
                assert set(statuses) == {200}
                until_heard(one, other)
                assert [proxy.process.terminate() for proxy in (one, other)] == [0, 0]
                until_told(nodes, 0)
                assert "Traceback" not in said(one) + said(other)
        assert own_origin.counts()["sessions"] == 0

    def test_a_server_with_tls_and_a_password_is_started_again(
        self, own_origin: Origin, tmp_path: Path, http: httpx2.Client, authority: trustme.CA, ca: str
    ) -> None:
        with program(redis_program(), tls=tls_by(authority, tmp_path)) as server:
            server.send("ACL", "SETUSER", "fleet", "on", f">{PASSWORD}", "~*", "+@all")
            store = Url(url=server.url.replace("://", f"://fleet:{PASSWORD}@"))
            with start_member(tmp_path, store, own_origin.url, ca, lease=SHORT) as proxy:
                session_id = opened(http, proxy)
                with using([proxy], session_id) as statuses:
                    server.kill()
                    server.start()
                    until(lambda: said(proxy), lambda text: "the store refuses the user name" in text)
                    server.send("ACL", "SETUSER", "fleet", "on", f">{PASSWORD}", "~*", "+@all")
                    until_told([server], 1)
                assert set(statuses) == {200}
                until_heard(proxy)
                assert proxy.process.terminate() == 0
                assert not {PASSWORD, "Traceback"} & set(said(proxy).replace(":", " ").split())


def end_of(folder: Path, *flags: str, **fleet: str) -> str:
    """Start a proxy that ends by itself because of its store. Return its last line, its only one that is an error."""
    given = {"name": "f", "address": f"http://{HOST}:{free_port()}", "secret": SECRET, "max_sessions": "5", **fleet}
    variables = {f"OTEL_SESSIONS_FLEET_{key.upper()}": value for key, value in given.items()}
    listen = ("--upstream", "http://127.0.0.1:1", "--listen", f"{HOST}:0", "--peer-listen", f"{HOST}:0")
    long = ("--fleet-lease", str(3 * PATIENCE))
    name = f"proxy-{free_port()}"
    with running_module("cli", folder, "proxy", *listen, *long, *flags, name=name, **variables) as process:
        assert process.end() == 2
        text = process.said()
    assert PASSWORD not in text
    assert "Traceback" not in text
    *_, last = text.splitlines()
    assert text.count("otel-sessions: ") == 1
    return last.removeprefix("otel-sessions: ")


class TestWrongSettings:
    """A proxy whose store is given in a wrong way ends with status 2 and one line, which shows no credentials."""

    def test_another_authority(self, tmp_path: Path, authority: trustme.CA, ca: str) -> None:
        trustme.CA().cert_pem.write_to_path(str(tmp_path / "other.pem"))
        with program(redis_program(), tls=tls_by(authority, tmp_path)) as server:
            url = server.url.replace("://", f"://fleet:{PASSWORD}@")
            for flags in ([f"--fleet-ca={tmp_path / 'other.pem'}"], []):
                text = end_of(tmp_path, *flags, url=url)
                assert text.startswith("the store's certificate is refused: ")
                assert text.endswith("check the URL's host and the authorities (--fleet-ca)")

    def test_another_host_name(self, tmp_path: Path, authority: trustme.CA, ca: str) -> None:
        with program(redis_program(), tls=tls_by(authority, tmp_path)) as server:
            text = end_of(tmp_path, ca, url=server.url.replace("127.0.0.1", "localhost"))
        assert "certificate is not valid for 'localhost'" in text

    def test_a_wrong_password_through_tls(self, tmp_path: Path, authority: trustme.CA, ca: str) -> None:
        with program(redis_program(), "--requirepass", "right", tls=tls_by(authority, tmp_path)) as server:
            text = end_of(tmp_path, ca, url=server.url.replace("://", f"://:{PASSWORD}@"))
        assert text == "the store refuses the user name or the password; check the credentials of the fleet"

    def test_a_kind_of_store_that_it_is_not(self, tmp_path: Path) -> None:
        with program(valkey_program()) as server:
            assert end_of(tmp_path, "--fleet-cluster", url=server.url).endswith("leave out cluster (--fleet-cluster)")
            sentinel = end_of(tmp_path, "--fleet-sentinel=main", url=server.url)
            assert sentinel.endswith("is no Sentinel; leave out sentinel (--fleet-sentinel)")
        with cluster(valkey_program(), masters=3, replicas=0) as nodes:
            assert end_of(tmp_path, url=nodes[0].url).endswith("give cluster (--fleet-cluster)")

    def test_a_port_that_speaks_tls_or_does_not(self, tmp_path: Path, authority: trustme.CA) -> None:
        with program(redis_program(), tls=tls_by(authority, tmp_path)) as server:
            assert "give the URL as valkeys://" in end_of(tmp_path, url=server.url.replace("valkeys:", "valkey:"))
        with program(valkey_program()) as server:
            assert "give the URL as valkey://" in end_of(tmp_path, url=server.url.replace("valkey:", "valkeys:"))

    def test_a_server_that_evicts(self, tmp_path: Path) -> None:
        with program(valkey_program(), "--maxmemory-policy", "allkeys-lru") as server:
            assert "set maxmemory-policy to noeviction" in end_of(tmp_path, url=server.url)
