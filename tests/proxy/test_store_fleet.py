"""Proxies that share one cap and one set of books in a real Valkey, each a process of its own."""

import contextlib
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest

from otel_sessions.cli import main
from tests.fleet.servers import Program, program, valkey_program
from tests.processes import HOST, ROOT, clean_environ, free_port, running, running_module, until_answers, until_listens
from tests.waiting import NEVER, PATIENCE, until

from .conftest import Origin, Proxy
from .store_fleets import SHORT, opened, opening, refused, said, start_member, until_counted, used

pytestmark = pytest.mark.processes

FAREWELL = "--fleet-farewell"

StartTwo = Callable[..., contextlib.AbstractContextManager[tuple[Proxy, Proxy]]]


@pytest.fixture
def start_two(own_origin: Origin, store: Program, tmp_path: Path) -> StartTwo:
    """Start two proxies of the fleet, with the same flags and settings."""

    @contextlib.contextmanager
    def start(*flags: str, **settings: str) -> Iterator[tuple[Proxy, Proxy]]:
        with (
            start_member(tmp_path, store, own_origin.url, *flags, **settings) as one,
            start_member(tmp_path, store, own_origin.url, *flags, **settings) as other,
        ):
            yield one, other

    return start


def test_a_session_is_served_through_the_other_proxy_and_both_leave_nothing(
    own_origin: Origin, store: Program, start_two: StartTwo, http: httpx2.Client
) -> None:
    with start_two() as (one, other):
        session_id = opened(http, one)
        assert [used(http, proxy, session_id) for proxy in (one, other)] == [200, 200]
        assert http.delete(f"{other.url}/mcp", headers={"mcp-session-id": session_id}).status_code == 204
        one.until_active(0)
        opened(http, other)
        assert own_origin.counts()["sessions"] == 1
    until_counted(store, created=2, active=0)
    assert own_origin.counts()["sessions"] == 0


def test_a_survivor_ends_the_sessions_of_a_killed_proxy_at_the_upstream(
    own_origin: Origin, store: Program, start_two: StartTwo, http: httpx2.Client
) -> None:
    with start_two(FAREWELL, lease=SHORT) as (killed, survivor):
        opened(http, killed, authorization="Bearer of the client")
        kept = opened(http, survivor)
        assert b"Bearer" not in store.send("HGETALL", "{f.0}:s") + store.send("HGETALL", "{f.1}:s")
        killed.process.kill()
        own_origin.until("sessions", 1)
        until_counted(store, orphaned=1, active=1)
        assert used(http, survivor, kept) == 200
        assert "Bearer" not in said(survivor)


def test_without_farewell_orphans_are_counted_and_stay_at_the_upstream(
    own_origin: Origin, store: Program, start_two: StartTwo, http: httpx2.Client
) -> None:
    with start_two(lease=SHORT) as (killed, _):
        opened(http, killed)
        killed.process.kill()
        until_counted(store, orphaned=1, active=0)
    assert (own_origin.counts()["sessions"], own_origin.counts()["farewells"]) == (1, 0)


def test_a_proxy_that_was_counted_as_dead_says_no_second_farewell(
    own_origin: Origin, store: Program, start_two: StartTwo, http: httpx2.Client
) -> None:
    with start_two(FAREWELL, lease=SHORT) as (paused, survivor):
        session_id = opened(http, paused)
        paused.process.pause()
        until_counted(store, orphaned=1, active=0)
        paused.process.resume()
        paused.until_active(0)
        assert [used(http, proxy, session_id) for proxy in (paused, survivor)] == [404, 404]
    assert (own_origin.counts()["sessions"], own_origin.counts()["farewells"]) == (0, 1)


def test_credentials_that_do_not_fit_cost_the_farewell_only(
    own_origin: Origin, store: Program, start_two: StartTwo, http: httpx2.Client
) -> None:
    with start_two(FAREWELL, lease=SHORT) as (killed, survivor):
        for _ in range(2):
            opened(http, killed, authorization="Bearer " + "x" * 600)
        assert said(killed).count("exceed 512 bytes") == 1
        killed.process.kill()
        until_counted(store, orphaned=2, active=0)
        until(lambda: said(survivor), lambda text: "it has no ticket" in text)
    assert (own_origin.counts()["sessions"], own_origin.counts()["farewells"]) == (2, 0)


def test_a_proxy_with_another_secret_gets_nothing_and_ends_nothing(
    own_origin: Origin, store: Program, tmp_path: Path, http: httpx2.Client
) -> None:
    with (
        start_member(tmp_path, store, own_origin.url, FAREWELL, lease=SHORT) as one,
        start_member(tmp_path, store, own_origin.url, FAREWELL, lease=SHORT, secret="quite another secret") as other,
    ):
        session_id = opened(http, one)
        until(lambda: used(http, other, session_id), lambda status: status == 503)
        one.process.kill()
        until_counted(store, orphaned=1, active=0)
        until(lambda: said(other), lambda text: "no secret of this proxy opens its ticket" in text)
    assert own_origin.counts()["sessions"] == 1


def test_at_the_cap_of_the_fleet_every_proxy_says_when_to_come_back(
    own_origin: Origin, store: Program, start_two: StartTwo, http: httpx2.Client
) -> None:
    with start_two("--fleet-max-sessions=1") as (one, other):
        opened(http, one)
        assert [refused(opening(http, proxy)) for proxy in (one, other)] == [True, True]
        assert own_origin.counts()["sessions"] == 1


def test_a_store_that_stands_still_holds_no_request_no_health_answer_and_no_exit(
    own_origin: Origin, store: Program, tmp_path: Path, http: httpx2.Client
) -> None:
    with start_member(tmp_path, store, own_origin.url, lease=SHORT) as proxy:
        session_id = opened(http, proxy)
        store.pause()
        assert proxy.said_of_itself()["active"] == 1
        assert used(http, proxy, session_id) == 200
        opened(http, proxy)  # after a third of a lease, within the last grant
        with start_member(tmp_path, store, own_origin.url, lease=SHORT) as late:
            assert refused(opening(http, late))
            assert late.process.terminate() == 0
        assert proxy.process.terminate() == 0
    assert own_origin.counts()["sessions"] == 0


def test_health_is_answered_while_a_proxy_waits_for_its_store(
    store: Program, tmp_path: Path, http: httpx2.Client
) -> None:
    store.pause()
    health = f"{HOST}:{free_port()}"
    flags = fleet_flags(tmp_path, **{"--fleet": store.url, "--fleet-lease": NEVER, "--health": health})
    given = ("proxy", "--upstream", "http://127.0.0.1:1", "--listen", f"{HOST}:0", *flags)
    with running_module("cli", tmp_path, *given) as process:
        until_answers(f"http://{health}/healthz", process, status=503)
        assert http.get(f"http://{health}/healthz").json()["status"] == "starting"
        store.go_on()
        until_answers(f"http://{health}/healthz", process)
        assert process.terminate() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_signal_ends_a_proxy_at_once_that_waits_for_its_store(
    store: Program, tmp_path: Path, loop: str, number: signal.Signals
) -> None:
    store.pause()
    health = f"{HOST}:{free_port()}"
    flags = fleet_flags(tmp_path, **{"--fleet": store.url, "--fleet-lease": NEVER, "--health": health, "--loop": loop})
    given = ("proxy", "--upstream", "http://127.0.0.1:1", "--listen", f"{HOST}:0", *flags)
    with running_module("cli", tmp_path, *given) as process:
        until_answers(f"http://{health}/healthz", process, status=503)
        process.process.send_signal(number)
        assert process.end() == 0
        assert "listening on" not in process.said()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("waits_for", ["store", "upstream"])
def test_a_signal_ends_a_proxy_at_once_that_waits_for_the_address_of_a_name(
    tmp_path: Path, http: httpx2.Client, waits_for: str, number: signal.Signals
) -> None:
    where = f"{HOST}:{free_port()}"
    flags = ["--listen", where, "--loop=asyncio"]
    if waits_for == "store":
        store = {"--fleet": "valkey://slow.test:1", "--fleet-lease": NEVER}
        flags += ["--upstream=http://127.0.0.1:1", *fleet_flags(tmp_path, **store)]
    else:
        flags += ["--upstream=http://slow.test:1"]
    with running("proxy", [sys.executable, "-c", SLOW_NAMES, "proxy", *flags], tmp_path) as process:
        if waits_for == "upstream":
            until_listens(int(where.rpartition(":")[2]), process)
            threading.Thread(target=lambda: asked_in_vain(f"http://{where}/")).start()
        until(process.said, lambda text: "looks up slow.test" in text)
        process.process.send_signal(number)
        assert process.end() == 0


def asked_in_vain(url: str) -> None:
    with contextlib.suppress(httpx2.HTTPError):
        httpx2.get(url, trust_env=False, timeout=PATIENCE)


def test_an_opening_that_the_store_does_not_take_is_ended_at_the_upstream(
    own_origin: Origin, store: Program, tmp_path: Path, http: httpx2.Client
) -> None:
    answers: list[httpx2.Response] = []
    with start_member(tmp_path, store, own_origin.url, "--fleet-outage=closed", lease=SHORT) as proxy:
        held = threading.Thread(target=lambda: answers.append(opening(http, proxy, "/mcp?held")))
        held.start()
        own_origin.until("held", 1)
        store.pause()
        own_origin.release()
        held.join(PATIENCE)
        assert [refused(answer) for answer in answers] == [True]
        own_origin.until_none("sessions")
        assert refused(opening(http, proxy))
        store.go_on()


def test_a_store_that_was_away_and_forgot_all_is_told_all_again(
    own_origin: Origin, store: Program, tmp_path: Path, http: httpx2.Client
) -> None:
    with start_member(tmp_path, store, own_origin.url, lease=SHORT) as proxy:
        before = opened(http, proxy)
        store.kill()
        during = opened(http, proxy)
        assert [used(http, proxy, each) for each in (before, during)] == [200, 200]
        store.start()
        until_counted(store, active=2)
        assert [used(http, proxy, each) for each in (before, during)] == [200, 200]
    until_counted(store, created=2, active=0)
    assert own_origin.counts()["sessions"] == 0


FLEET = {
    "--fleet": "valkey://127.0.0.1:1",
    "--fleet-name": "f",
    "--fleet-address": "http://127.0.0.1:1",
    "--fleet-max-sessions": "5",
    "--fleet-secret-file": "secret",
    "--peer-listen": "127.0.0.1:0",
}
AUTO = {"--fleet-address": "auto", "--peer-listen": None}
PASSWORD = "hunter2"
SLOW_NAMES = """
import socket, sys, time
find = socket.getaddrinfo
def find_slowly(host, *rest, **named):
    if host in ("slow.test", b"slow.test"):
        print("looks up slow.test", flush=True)
        time.sleep(600)
    return find(host, *rest, **named)
socket.getaddrinfo = find_slowly
from otel_sessions.cli import main
sys.exit(main())
"""
"""A program that never hears the address of one name."""


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        *(({flag: None}, f"--fleet needs {flag}") for flag in FLEET if flag != "--fleet"),
        ({"--fleet": None, "--peer-listen": None}, "--fleet-name needs --fleet, the URL of the store"),
        ({"--peers": "w1=http://h:1"}, "--fleet and a list of peers exclude each other"),
        ({"--peer-name": "w1"}, "leave out --peer-name and --peer-secret-file"),
        ({"--workers": "2"}, "--workers and --fleet exclude each other"),
        ({"--fleet-address": "auto"}, "--peer-listen and --fleet-address auto exclude each other"),
        ({"--fleet-address": "auto:"}, "argument --fleet-address: takes an address"),
        ({"--fleet-address": f"auto:/{'x' * 120}"}, "argument --fleet-address: takes an address"),
        ({"--fleet-address": "http://127.0.0.1:0"}, "argument --fleet-address: takes an address"),
        ({**AUTO, "--fleet-address": f"auto:{__file__}"}, "the folder of the workers cannot be used"),
        ({**AUTO, "--fleet-address": f"auto:{__file__}", "--workers": "2"}, "the folder of the workers cannot be used"),
        ({**AUTO, "--fleet-allow-peers": "10.0.0.0/8"}, "--fleet-allow-peers and --fleet-address auto exclude"),
        ({**AUTO, "--peer-tls-cert": "a", "--peer-tls-key": "b"}, "--peer-tls-cert needs a --peer-listen HOST:PORT"),
        ({**AUTO, "--workers": "2", "--max-connections": "1"}, "--max-connections 1 is too few for --workers 2"),
        ({"--fleet-farewell": "true", "--matcher": "cookie"}, "--fleet-farewell needs --matcher mcp"),
        ({"--fleet-secret-file": "/nowhere/secret"}, "/nowhere/secret cannot be read"),
        ({"--fleet-ca": "/nowhere/ca"}, "--fleet-ca /nowhere/ca"),
        ({"--fleet-ca": __file__}, f"--fleet-ca {__file__}: the file has no certificate in PEM"),
        ({"--peer-ca": "/nowhere/ca"}, "--peer-ca /nowhere/ca"),
        ({"--fleet-allow-peers": "10.0.0.1/8"}, "argument --fleet-allow-peers: takes a network"),
        ({"--fleet-name": "f}"}, "argument --fleet-name: takes 1 to 32 letters"),
        ({"--fleet-outage": "half"}, "argument --fleet-outage: takes"),
        ({"--fleet": f"valkey://me:{PASSWORD}@h:1/x"}, "argument --fleet: takes the URL of a store"),
        ({"--fleet": f"http://me:{PASSWORD}@h:1"}, "its scheme is 'http'"),
        ({"--fleet": f"me:{PASSWORD}@h:1"}, "it has no scheme"),
        ({"--fleet": f"valkey://me:{PASSWORD}@h:1,i:1"}, "only a Cluster and Sentinels have several hosts"),
        ({"--fleet-address": f"http://me:{PASSWORD}@h:1"}, "argument --fleet-address: takes an address"),
    ],
)
def test_a_fleet_with_a_store_that_is_described_wrongly_is_an_error_that_says_so(
    tmp_path: Path, changes: dict[str, str | None], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = fleet_flags(tmp_path, **changes)
    try:
        status: object = main(["proxy", "--upstream", "http://127.0.0.1:1", "--listen", f"{HOST}:0", *flags])
    except SystemExit as refused_by_argparse:
        status = refused_by_argparse.code
    said_so = capsys.readouterr().err
    assert status == 2
    assert complaint in said_so
    assert PASSWORD not in said_so


@pytest.mark.parametrize("missing", ["coredis", "cryptography"])
def test_without_the_extra_the_error_says_what_to_install(tmp_path: Path, missing: str) -> None:
    program = f"import sys; sys.modules[{missing!r}] = None; from otel_sessions.cli import main; sys.exit(main())"
    done = ended("--listen", f"{HOST}:0", *fleet_flags(tmp_path), FAREWELL, start=("-c", program))
    assert done.returncode == 2
    assert "pip install 'otel-sessions[fleet]'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("user", [":wrong-one@", "me:wrong-one@", ""])
def test_a_store_that_refuses_the_password_ends_the_proxy_and_no_text_shows_it(tmp_path: Path, user: str) -> None:
    with program(valkey_program(), "--requirepass", PASSWORD) as store:
        flags = fleet_flags(tmp_path, **{"--fleet": store.url.replace("://", f"://{user}")})
        given = ("proxy", "--upstream", "http://127.0.0.1:1", "--listen", f"{HOST}:0", *flags)
        with running_module("cli", tmp_path, *given) as process:
            assert process.end() == 2
            assert "the store refuses the user" in process.said()
            assert PASSWORD not in process.said()
            assert "wrong-one" not in process.said()
            assert "Traceback" not in process.said()


def fleet_flags(folder: Path, **changes: str | None) -> list[str]:
    """Return the flags of a fleet, with some changed or left out. Its secret is in the folder."""
    secret = folder / "secret"
    secret.write_text("a secret of the whole fleet")
    flags = {**FLEET, "--fleet-secret-file": str(secret), **changes}
    return [f"{flag}={value}" for flag, value in flags.items() if value is not None]


def ended(*flags: str, start: tuple[str, ...] = ("-m", "otel_sessions")) -> "subprocess.CompletedProcess[str]":
    """Run a proxy that ends by itself, and return what it said."""
    command = [sys.executable, *start, "proxy", "--upstream", "http://127.0.0.1:1", *flags]
    return subprocess.run(
        command, env=clean_environ(), capture_output=True, text=True, timeout=PATIENCE, check=False, cwd=ROOT
    )
