"""The stores of the fault matrix: one server, Sentinels, a Cluster, clocks that are wrong, a network of its own."""

import contextlib
import stat
import subprocess
import tempfile
from binascii import crc_hqx
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.fleet.servers import SLOTS, cluster, program, sentinels

from .network import network
from .stage import Place

MASTERS: Final = 3
WRONG_CLOCKS: Final = ("+0.6", "-20")
"""By how many seconds the clocks of two masters are wrong: less than two thirds of a lease, and far back."""
_FAKETIME: Final = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1"


def slot_of(tag: str) -> int:
    """Return the slot of the keys with a hash tag."""
    return crc_hqx(tag.encode(), 0) % SLOTS


def master_of(tag: str) -> int:
    """Return which master of a new Cluster has the keys with a hash tag."""
    return slot_of(tag) * MASTERS // SLOTS


@contextlib.contextmanager
def single(server: str, *options: str) -> Iterator[Place]:
    """One server that keeps nothing over a restart."""
    with program(server, *options) as node:
        yield Place(nodes=[node], url=node.url)


@contextlib.contextmanager
def durable(server: str) -> Iterator[Place]:
    """One server that has written each answer to its disk."""
    with single(server, "--appendonly", "yes", "--appendfsync", "always") as place:
        yield place


@contextlib.contextmanager
def watched(server: str) -> Iterator[Place]:
    """A primary and its replica, watched by Sentinels."""
    with sentinels(server) as servers:
        yield Place(nodes=[servers.primary, servers.replica], url=servers.url, sentinel="main")


@contextlib.contextmanager
def clustered(server: str) -> Iterator[Place]:
    """A Cluster. Its first master has a replica."""
    with cluster(server, MASTERS, 1) as nodes:
        yield Place(nodes=nodes, url=_urls(node.port for node in nodes), cluster=True)


@contextlib.contextmanager
def skewed(server: str) -> Iterator[Place]:
    """A Cluster, two of whose masters have wrong clocks."""
    if not Path(_FAKETIME).exists():
        pytest.skip("no libfaketime: install the package faketime")
    if "jemalloc" in subprocess.run([server, "--version"], check=True, capture_output=True, text=True).stdout:
        pytest.skip("libfaketime does not work with jemalloc, which this server uses")
    with tempfile.TemporaryDirectory(prefix="clocks") as folder:
        wrong = [_with_clock(server, Path(folder) / f"server{index}", by) for index, by in enumerate(WRONG_CLOCKS)]
        with cluster(server, MASTERS, 0, wrong) as nodes:
            yield Place(nodes=nodes, url=_urls(node.port for node in nodes), cluster=True)


def _urls(ports: Iterable[int]) -> str:
    return "valkey://" + ",".join(f"127.0.0.1:{port}" for port in ports)


def _with_clock(server: str, script: Path, by: str) -> str:
    """Write a program that runs a server whose clock is wrong."""
    setting = f"LD_PRELOAD={_FAKETIME} FAKETIME_DONT_FAKE_MONOTONIC=1 FAKETIME={by}"
    script.write_text(f'#!/bin/sh\n{setting} exec {server} "$@"\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return str(script)


@contextlib.contextmanager
def apart(server: str) -> Iterator[Place]:
    """One server, and a network of its own for one process of the fleet."""
    with network() as own, single(server, "--bind", "127.0.0.1", own.here, "--protected-mode", "no") as place:
        place.network = own
        yield place
