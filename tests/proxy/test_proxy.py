"""The proxy as embedders have it: a class in a process of theirs."""

import asyncio
import inspect
import re
import signal
import socket
import textwrap
import typing
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import httpx2
import pytest

import otel_sessions.proxy
from otel_sessions import ConfigError, ManagerClosed, SessionConfig
from otel_sessions._http.addresses import read_network
from otel_sessions._program.sockets import listen
from otel_sessions.proxy import Peer, Proxy, Settings, Trust
from otel_sessions.proxy.options import PROXY_OPTIONS
from tests.exchanges import INITIALIZE
from tests.waiting import PATIENCE

from .conftest import Origin

pytestmark = [
    pytest.mark.no_cover,
    pytest.mark.anyio,
    pytest.mark.processes,
    pytest.mark.parametrize("anyio_backend", ["asyncio"]),
]

HERE = ("127.0.0.1", 0)
USUAL = Settings(upstream="http://127.0.0.1:9000").rules
BEHIND = Trust(networks=(read_network("10.0.0.0/8"),))


def settings(origin: Origin, **values: typing.Any) -> Settings:
    return Settings(**{"upstream": origin.url, "listen": HERE, **values})


async def initialize(proxy: Proxy) -> httpx2.Response:
    host, port = proxy.address
    async with httpx2.AsyncClient(trust_env=False, timeout=PATIENCE) as http:
        return await http.post(
            f"http://{host}:{port}/mcp", content=INITIALIZE, headers={"content-type": "application/json"}
        )


async def until_async(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(30.0):
        while not holds():  # noqa: ASYNC110  # nothing tells
            await asyncio.sleep(0.01)


class TestInABlock:
    async def test_it_answers_and_its_manager_has_the_sessions(self, origin: Origin) -> None:
        async with Proxy(settings(origin)) as proxy:
            opened = await initialize(proxy)

            assert opened.headers["mcp-session-id"] in proxy.manager
        assert len(proxy.manager) == 0
        assert proxy.manager.get_metrics().total_created == proxy.manager.get_metrics().total_cleaned == 1

    async def test_leaving_it_ends_the_sessions_upstream_and_closes_the_port(self, origin: Origin) -> None:
        async with Proxy(settings(origin)) as proxy:
            await initialize(proxy)
            address = proxy.address
        origin.until_none("sessions")
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(address)
        with pytest.raises(ManagerClosed):
            await proxy.manager.create_session(data=Peer(b"/mcp", []))

    async def test_it_leaves_the_signals_of_its_process_alone(self, origin: Origin) -> None:
        before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
        async with Proxy(settings(origin)):
            during = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
        assert during == before

    async def test_an_error_in_it_leaves_as_it_is_once_the_proxy_has_shut_down(self, origin: Origin) -> None:
        proxy = Proxy(settings(origin))

        async def fail() -> None:
            async with proxy:
                await initialize(proxy)
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await fail()
        assert len(proxy.manager) == 0
        await proxy.wait_closed()

    async def test_a_task_that_is_cancelled_in_it_shuts_the_proxy_down_in_order(self, origin: Origin) -> None:
        proxy = Proxy(settings(origin))
        entered = asyncio.Event()

        async def stay() -> None:
            async with proxy:
                await initialize(proxy)
                entered.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(stay())
        await entered.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(proxy.manager) == 0
        origin.until_none("sessions")

    async def test_sockets_that_listen_already_take_the_place_of_its_addresses(self, origin: Origin) -> None:
        listener, health = listen(HERE), listen(HERE)
        host, port = health.getsockname()[:2]
        async with Proxy(settings(origin), listener=listener, health=health) as proxy:
            assert proxy.address == listener.getsockname()[:2]
            async with httpx2.AsyncClient(trust_env=False, timeout=PATIENCE) as http:
                said = (await http.get(f"http://{host}:{port}/healthz")).json()
        assert said == {"status": "ok", "active": 0, "created": 0}
        assert listener.fileno() == health.fileno() == -1

    async def test_session_data_makes_what_a_new_session_carries(self, origin: Origin) -> None:
        class Ours(Peer):
            pass

        async with Proxy(settings(origin), session_data=Ours) as proxy:
            session = proxy.manager.get((await initialize(proxy)).headers["mcp-session-id"])
            assert session is not None
            assert type(session.data) is Ours

    async def test_two_run_in_one_process(self, origin: Origin) -> None:
        async with Proxy(settings(origin)) as one, Proxy(settings(origin)) as other:
            await initialize(one)

            assert (len(one.manager), len(other.manager)) == (1, 0)


class TestThatCannotRun:
    async def test_an_address_that_is_taken_is_named_with_its_flag(self, origin: Origin) -> None:
        with socket.create_server(HERE) as other:
            taken = other.getsockname()[:2]
            for name in ("listen", "health"):
                proxy = Proxy(settings(origin, **{name: taken}))
                with pytest.raises(ConfigError, match=f"--{name} 127.0.0.1:{taken[1]}: "):
                    await proxy.__aenter__()
                assert proxy.manager.get_metrics().total_created == 0

    async def test_a_file_of_records_that_cannot_be_opened_is_named_and_the_port_is_free(self, origin: Origin) -> None:
        listener = listen(HERE)
        with pytest.raises(ConfigError, match="--export /no/such/file: "):
            async with Proxy(settings(origin, export="/no/such/file"), listener=listener):
                pass
        assert listener.fileno() == -1

    async def test_a_socket_that_it_was_given_is_closed_then_too(self, origin: Origin) -> None:
        listener = listen(HERE)
        with socket.create_server(HERE) as other:
            proxy = Proxy(settings(origin, health=other.getsockname()[:2]), listener=listener)
            with pytest.raises(ConfigError, match="--health "):
                await proxy.__aenter__()
        assert listener.fileno() == -1

    async def test_it_runs_once(self, origin: Origin) -> None:
        proxy = Proxy(settings(origin))
        async with proxy:
            with pytest.raises(RuntimeError, match="make another"):
                await proxy.__aenter__()
        with pytest.raises(RuntimeError, match="make another"):
            await proxy.__aenter__()

    async def test_it_has_no_address_before_it_listens(self, origin: Origin) -> None:
        with pytest.raises(RuntimeError, match="enter its async with block first"):
            _ = Proxy(settings(origin)).address


class TestAsAProgram:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
    async def test_a_signal_ends_it_in_order(
        self, number: signal.Signals, origin: Origin, caplog: pytest.LogCaptureFixture
    ) -> None:
        handler = signal.getsignal(number)
        caplog.set_level("INFO")
        proxy = Proxy(settings(origin))
        serving = asyncio.create_task(proxy.serve())
        await until_async(lambda: "listening on 127.0.0.1:" in caplog.text)
        await initialize(proxy)
        signal.raise_signal(number)
        await serving

        assert len(proxy.manager) == 0
        assert number == signal.SIGHUP or signal.getsignal(number) is handler
        signal.signal(number, handler)

    async def test_a_signal_that_comes_before_it_listens_ends_it_in_order(self, origin: Origin) -> None:
        handler = signal.getsignal(signal.SIGTERM)
        proxy = Proxy(settings(origin))
        with proxy.ended_by_signals():
            signal.raise_signal(signal.SIGTERM)
            async with proxy:
                await proxy.wait_closed()

        assert len(proxy.manager) == 0
        assert signal.getsignal(signal.SIGTERM) is handler

    async def test_a_proxy_that_was_told_to_end_before_it_listened_has_run(self, origin: Origin) -> None:
        proxy = Proxy(settings(origin))
        with proxy.ended_by_signals():
            signal.raise_signal(signal.SIGTERM)
            async with proxy:
                with pytest.raises(OSError, match="refused"):
                    socket.create_connection(proxy.address).close()
                await proxy.wait_closed()
        with pytest.raises(RuntimeError, match="has run already"):
            await proxy.__aenter__()


class TestSettings:
    async def test_their_defaults_are_those_of_the_command(self) -> None:
        made = Settings(upstream="http://127.0.0.1:9000")

        assert made.sessions == SessionConfig()
        assert made.rules.max_body == 104857600
        for option in PROXY_OPTIONS:
            if option.name != "upstream" and hasattr(made, option.name):
                assert getattr(made, option.name) == option.usual, option.name

    @pytest.mark.parametrize(
        ("values", "says"),
        [
            ({"rules": replace(USUAL, rewrite_host=True)}, "--rewrite-host needs --allow-host"),
            ({"rules": replace(USUAL, allow_host=frozenset({"a"}))}, "--allow-host and --allow-origin need"),
            ({"owner_header": "x-user"}, "--owner-header needs --trusted-proxy"),
            ({"listen": ()}, "--listen takes at least one address"),
            ({"listen": "127.0.0.1:80"}, "listen takes a host and a port, or the Path of a Unix socket, not "),
            ({"listen": (HERE, "unix:/a")}, "listen takes a host and a port, or the Path of a Unix socket, not "),
            ({"tls_cert": "a"}, "--tls-cert needs --tls-key"),
            ({"upstream_ca": "a"}, "--upstream-ca needs an --upstream that starts with https://"),
            ({"owner_header": "x-user", "rules": replace(USUAL, trust=BEHIND)}, "must be in rules.trust.words"),
        ],
    )
    async def test_settings_that_contradict_each_other_are_refused(
        self, values: dict[str, typing.Any], says: str
    ) -> None:
        with pytest.raises(ConfigError, match=says):
            Settings(upstream="http://127.0.0.1:9000", **values)


class TestPublicNames:
    async def test_what_the_proxy_takes_or_returns_can_be_imported(self) -> None:
        own = [getattr(otel_sessions.proxy, name) for name in otel_sessions.proxy.__all__]
        for function in (Proxy.__init__, Settings.__init__):
            for annotation in typing.get_type_hints(function).values():
                for kind in (annotation, *typing.get_args(annotation)):
                    if getattr(kind, "__module__", "").startswith("otel_sessions.proxy"):
                        assert kind in own, kind

    async def test_a_name_that_there_is_not_is_an_attribute_error(self) -> None:
        assert not hasattr(otel_sessions.proxy, "Prxy")

    async def test_every_public_name_says_what_it_is(self) -> None:
        for name in otel_sessions.proxy.__all__:
            assert inspect.getdoc(getattr(otel_sessions.proxy, name))

    async def test_the_example_of_the_class_runs(
        self, origin: Origin, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        doc = inspect.getdoc(Proxy)
        assert doc is not None
        (example,) = re.findall(r"```python\n(.*?)```", doc, re.DOTALL)
        lines = textwrap.indent(example.replace("http://127.0.0.1:9000", origin.url), "    ")
        names: dict[str, typing.Any] = {"Proxy": Proxy, "Settings": Settings}
        exec(compile(f"async def main():\n{lines}", "Proxy", "exec"), names)  # noqa: S102  # our own words
        main: Callable[[], typing.Any] = names["main"]
        await main()

        assert re.fullmatch(r"http://127\.0\.0\.1:\d+ has 0 sessions\n", capsys.readouterr().out)
