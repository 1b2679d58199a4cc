"""What a collector that is gone, slow or silent costs the proxy: nothing but the telemetry of that time."""

import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from tests.processes import HOST, Running, until_answers
from tests.waiting import until

from .backends import Stack
from .conftest import Proxy, start_load, start_proxy

pytestmark = pytest.mark.stack

EXIT_SECONDS = 3.0
SLOWEST_P99 = 1000.0
"""Milliseconds; a request that waited for an export would take the second that an export may take, or more."""


def sums(load: Running) -> dict[str, int]:
    """Return what the load has counted at its end."""
    (line,) = [line for line in load.said().splitlines() if line.startswith("the end: ")]
    return {name: int(number) for name, number in re.findall(r"(\w+) (\d+)", line)}


def assert_nobody_noticed(load: Running) -> None:
    counted = sums(load)

    assert counted["requests"] > 100
    assert counted["unexpected"] == 0
    assert counted["p99"] < SLOWEST_P99


def assert_metrics_are_right(stack: Stack, instance: str, proxy: Proxy) -> None:
    created = f'otel_sessions_session_created_total{{instance="{instance}"}}'
    cleaned = f'sum(otel_sessions_session_cleaned_total{{instance="{instance}"}})'
    books = proxy.reading()

    until(lambda: stack.value(created), lambda value: value == books["created"])
    until(lambda: stack.value(cleaned), lambda value: value == sum(books["cleaned"].values()))


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
def test_a_collector_that_is_out_under_load_costs_nothing_but_its_telemetry_for_that_time(
    stack: Stack, protocol: str, outage: Callable[[Stack], AbstractContextManager[None]]
) -> None:
    instance = f"{outage.__name__}-{protocol[:4]}"
    export = stack.export_to(instance, grpc=protocol == "grpc")
    with start_proxy(stack, instance, **export) as proxy:
        with start_load(stack, proxy, f"load-{instance}", "--clients", "60", "--rate", "2", "--steady") as load:
            time.sleep(3)
            with outage(stack):
                time.sleep(6)
            time.sleep(3)
            load.terminate()
        assert_nobody_noticed(load)
        proxy.process.terminate()

        assert_metrics_are_right(stack, instance, proxy)


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
@pytest.mark.parametrize("kind", ["gone", "silent"])
def test_a_proxy_exits_in_time_without_its_collector(stack: Stack, protocol: str, kind: str) -> None:
    with socket.create_server((HOST, 0)) as listener:  # takes connections, never answers
        endpoint = f"http://{HOST}:{listener.getsockname()[1]}"
        if kind == "gone":
            listener.close()
        export = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL": protocol}
        name = f"exit-{kind}-{protocol[:4]}"
        with (
            start_proxy(stack, name, **export) as proxy,
            start_load(stack, proxy, f"load-{name}", "--clients", "20", "--rate", "4", "--steady") as load,
        ):
            time.sleep(3)
            load.terminate()
            assert proxy.process.terminate() < EXIT_SECONDS
            assert proxy.reading()["active"] == 0
