"""A list of peers, and secrets, in files that change."""

import logging
from pathlib import Path

import pytest

from otel_sessions import ConfigError, Peer
from otel_sessions.fleet import StaticPeers
from otel_sessions.fleet.files import Watched

from .apps import replace

SECRET = "a secret of the whole fleet"


def number(text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise ConfigError("no number") from error


def test_a_file_that_has_changed_is_read_again_after_a_second(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("1")
    watched = Watched(file, number)
    assert watched.current(100.0) == 1
    replace(file, "2")
    assert watched.current(100.9) == 1
    assert watched.current(101.0) == 2


def test_a_fresh_look_waits_for_no_second(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("1")
    watched = Watched(file, number)
    assert watched.current(100.0) == 1
    replace(file, "2")
    assert watched.latest() == 2


@pytest.mark.parametrize("mistake", ["no number", None])
def test_a_mistake_leaves_the_last_good_content_in_use_and_is_logged_once(
    mistake: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "file"
    file.write_text("1")
    watched = Watched(file, number)
    if mistake is None:
        file.unlink()
    else:
        replace(file, mistake)
    assert [watched.current(now) for now in (100.0, 110.0, 120.0)] == [1, 1, 1]
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    replace(file, "3")
    assert watched.current(130.0) == 3


def test_a_file_that_cannot_be_read_at_first_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        Watched(tmp_path / "absent", number)
    (tmp_path / "bytes").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="cannot be read"):
        Watched(tmp_path / "bytes", number)


@pytest.mark.anyio
async def test_a_list_in_a_file_is_asked_anew_when_it_has_changed(tmp_path: Path) -> None:
    file = tmp_path / "peers"
    file.write_text("w1=http://10.0.0.1\nw2=http://10.0.0.2\n")
    fleet = StaticPeers(file, name="w1", secret=SECRET)
    wrong = Peer(name="w2", address="http://10.0.0.2")
    assert await fleet.locate("w2.x") == wrong
    assert await fleet.locate_again("w2.x", wrong) is None
    replace(file, "w1=http://10.0.0.1\nw2=http://10.0.0.3\n")
    assert await fleet.locate_again("w2.x", wrong) == Peer(name="w2", address="http://10.0.0.3")


@pytest.mark.parametrize("text", ["", "\n", "short\n"])
def test_a_file_without_a_good_secret_is_an_error(text: str, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(text)
    with pytest.raises(ConfigError, match="at least 16 bytes"):
        StaticPeers({"w1": "http://x"}, name="w1", secret=file)
