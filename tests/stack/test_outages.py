"""What a collector that is gone, slow or silent costs the proxy: nothing but the telemetry of that time."""

import re
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from tests.processes import HOST, Running, until_answers
from tests.waiting import NEVER, PATIENCE, until

from .backends import Stack
from .conftest import Proxy, start_load, start_proxy, until_exported

pytestmark = pytest.mark.stack

SOME = 50
"""So many sessions are opened before, while and after the collector is out."""


def until_some_more_are_opened(proxy: Proxy) -> None:
    before = proxy.reading()["created"]
    until(lambda: proxy.reading()["created"], lambda created: created >= before + SOME)


def assert_nobody_noticed(load: Running) -> None:
    (line,) = [line for line in load.said().splitlines() if line.startswith("the end: ")]
    counted = {name: int(number) for name, number in re.findall(r"(\w+) (\d+)", line)}

    assert counted["requests"] > 100
    assert counted["unexpected"] == 0


@contextmanager
def killed(stack: Stack) -> Iterator[None]:
    stack.collector.kill()
    yield
    stack.collector.restart()
    until_answers(stack.collector_health, stack.collector)


@contextmanager
def silent(stack: Stack) -> Iterator[None]:
    """It takes connections, and never answers."""
    stack.collector.pause()
    yield
    stack.collector.resume()


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
@pytest.mark.parametrize("outage", [killed, silent])
def test_a_collector_that_is_out_under_load_costs_only_the_telemetry_of_that_time(
    stack: Stack, protocol: str, outage: Callable[[Stack], AbstractContextManager[None]]
) -> None:
    instance = f"{outage.__name__}-{protocol[:4]}"
    export = stack.export_to(instance, grpc=protocol == "grpc")
    with start_proxy(stack, instance, **export) as proxy:
        with start_load(stack, proxy, f"load-{instance}", "--clients", "60", "--rate", "2", "--steady") as load:
            until_some_more_are_opened(proxy)
            with outage(stack):
                until(proxy.process.said, lambda said: "telemetry is lost" in said)
                until_some_more_are_opened(proxy)
            until_some_more_are_opened(proxy)
            load.terminate()
        assert_nobody_noticed(load)
        proxy.process.terminate()

        until_exported(stack, instance, proxy)


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
@pytest.mark.parametrize("kind", ["gone", "silent"])
def test_a_proxy_serves_and_ends_without_its_collector(stack: Stack, protocol: str, kind: str) -> None:
    exporting: list[socket.socket] = []  # kept, so that they stay open
    with socket.create_server((HOST, 0)) as listener:  # takes connections, never answers
        endpoint = f"http://{HOST}:{listener.getsockname()[1]}"
        if kind == "gone":
            listener.close()
        export = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
            "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
            "OTEL_EXPORTER_OTLP_TIMEOUT": NEVER,  # whoever waits for an export waits for as long
        }
        name = f"exit-{kind}-{protocol[:4]}"
        with (
            start_proxy(stack, name, **export) as proxy,
            start_load(stack, proxy, f"load-{name}", "--clients", "20", "--rate", "4", "--steady") as load,
        ):
            if kind == "silent":
                listener.settimeout(PATIENCE)
                exporting.append(listener.accept()[0])
            until_some_more_are_opened(proxy)
            load.terminate()
            assert proxy.process.terminate() == 0
            assert proxy.reading()["active"] == 0
    for connection in exporting:
        connection.close()
