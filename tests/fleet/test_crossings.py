"""The watch over a peer that has exchanges on their way."""

import asyncio

import pytest

from otel_sessions.fleet.crossings import Crossings, Why
from tests.virtual import VirtualLoop

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("anyio_backend", [("asyncio", {"loop_factory": VirtualLoop})], ids=["virtual"]),
]


class Asked:
    """A peer that is alive or not, and notes when it was asked."""

    def __init__(self) -> None:
        self.alive = True
        self.at: list[float] = []

    async def __call__(self) -> bool:
        self.at.append(asyncio.get_running_loop().time())
        return self.alive


async def test_a_peer_is_asked_only_while_it_has_an_exchange_for_so_long() -> None:
    peer = Asked()
    crossings = Crossings(5.0, peer)
    with crossings.begin():
        await asyncio.sleep(4)
    await asyncio.sleep(100)
    assert not peer.at
    start = asyncio.get_running_loop().time()
    with crossings.begin():
        await asyncio.sleep(12)
    assert peer.at == [start + 5, start + 10]
    await asyncio.sleep(100)
    assert len(peer.at) == 2
    assert len(crossings) == 0


async def test_a_peer_without_a_sign_of_life_loses_what_it_has_had_for_long() -> None:
    peer, ended = Asked(), list[str]()
    crossings = Crossings(5.0, peer)
    peer.alive = False
    with crossings.begin() as old:
        old.when_ended(lambda: ended.append("old"))
        await asyncio.sleep(4)
        with crossings.begin() as new:
            new.when_ended(lambda: ended.append("new"))
            await asyncio.sleep(2)
            assert ended == ["old"]
            assert (old.why, new.why) == (Why.SILENT, None)
            await asyncio.sleep(5)
            assert ended == ["old", "new"]


async def test_the_first_reason_counts_and_a_late_close_is_called_at_once() -> None:
    ended = list[str]()
    with Crossings(5.0, Asked()).begin() as crossing:
        crossing.end(Why.LEFT)
        crossing.when_ended(lambda: ended.append("late"))
        crossing.end(Why.OVER)
        assert (crossing.why, ended) == (Why.LEFT, ["late"])


async def test_the_end_of_all_ends_each_exchange_and_the_watch() -> None:
    peer = Asked()
    crossings = Crossings(5.0, peer)
    crossings.end()
    with crossings.begin() as crossing:
        crossings.end()
        assert crossing.why is Why.OVER
        await asyncio.sleep(100)
    assert not peer.at
