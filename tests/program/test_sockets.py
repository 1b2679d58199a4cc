"""Listening sockets: both families of TCP, and paths that a dead process has left behind."""

import errno
import os
import signal
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from otel_sessions import ConfigError
from otel_sessions._program.sockets import address_of, listen, listen_as, written
from otel_sessions.cli import main
from tests.waiting import PATIENCE


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose paths are short enough for sockets, however deep it is."""
    monkeypatch.chdir(tmp_path)
    return Path()


@pytest.fixture
def stale(folder: Path) -> Path:
    """A path that a process that was killed has left behind."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind("stale")
    return folder / "stale"


def answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0


class TestTcp:
    @pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="the system has no IPv6")
    def test_the_address_of_all_takes_both_families(self) -> None:
        with listen(("::", 0)) as listener:
            port = listener.getsockname()[1]
            for host in ("127.0.0.1", "::1"):
                socket.create_connection((host, port)).close()

    @pytest.mark.parametrize(("host", "shown"), [("127.0.0.1", "127.0.0.1:"), ("::1", "[::1]:")])
    def test_the_port_that_the_system_has_chosen_is_known(self, host: str, shown: str) -> None:
        if ":" in host and not socket.has_dualstack_ipv6():
            pytest.skip("the system has no IPv6")
        with listen((host, 0)) as listener:
            address = address_of(listener)

        assert isinstance(address, tuple)
        assert address[1] > 0
        assert written(address).startswith(shown)


class TestUnix:
    def test_it_answers_and_removes_its_path_when_it_is_closed(self, folder: Path) -> None:
        with listen(folder / "a") as listener:
            assert answers(folder / "a")
            assert address_of(listener) == Path("a")
            assert written(address_of(listener)) == "unix:a"
        assert not (folder / "a").exists()

    def test_its_mode_is_what_the_umask_leaves(self, folder: Path) -> None:
        before = os.umask(0o027)
        try:
            with listen(folder / "a"):
                mode = stat.S_IMODE((folder / "a").stat().st_mode)
        finally:
            os.umask(before)

        assert mode == 0o750

    def test_it_replaces_a_path_that_a_dead_process_has_left(self, stale: Path) -> None:
        with listen(stale):
            assert answers(stale)
        assert not stale.exists()

    def test_a_path_that_is_in_use_is_an_error_and_stays(self, folder: Path) -> None:
        with listen(folder / "a"):
            with pytest.raises(ConfigError, match=f"^--listen unix:a: {os.strerror(errno.EADDRINUSE)}$"):
                listen_as("--listen", folder / "a")
            assert answers(folder / "a")

    def test_a_path_whose_process_accepts_nothing_is_in_use(self, folder: Path) -> None:
        with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as waiting:
            busy.bind("a")
            busy.listen(0)
            waiting.connect("a")  # its place is the only one
            with pytest.raises(OSError, match=os.strerror(errno.EADDRINUSE)):
                listen(folder / "a")

    def test_of_two_that_replace_a_path_at_once_one_has_it(self, stale: Path) -> None:
        def attempt(_: int) -> socket.socket | None:
            try:
                return listen(stale)
            except OSError:
                return None

        with ThreadPoolExecutor(8) as pool:
            made = [listener for listener in pool.map(attempt, range(8)) if listener is not None]
        for listener in made:
            listener.close()

        assert len(made) == 1

    def test_it_leaves_a_path_that_is_anothers_by_then(self, folder: Path) -> None:
        with listen(folder / "a"):
            (folder / "a").unlink()
            other = listen(folder / "a")
        with other:
            assert answers(folder / "a")

    def test_it_removes_its_path_from_another_folder_too(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (folder / "inner").mkdir()
        with listen(folder / "a"):
            monkeypatch.chdir("inner")
        assert not Path("..", "a").exists()

    @pytest.fixture
    def obstacles(self, folder: Path) -> Iterator[None]:
        Path("file").write_text("kept")
        Path("folder").mkdir()
        with socket.socket(socket.AF_UNIX) as elsewhere:
            elsewhere.bind("socket")
            Path("link").symlink_to("socket")
            yield

    @pytest.mark.parametrize(
        ("path", "says"),
        [
            ("file", "the path is there, and is no socket"),
            ("folder", "the path is there, and is no socket"),
            ("link", "the path is there, and is no socket"),
            ("missing/a", "No such file or directory"),
            ("file/a", "Not a directory"),
            ("x" * 200, "AF_UNIX path too long"),
        ],
    )
    def test_a_path_that_cannot_be_used_is_named_with_its_flag(self, obstacles: None, path: str, says: str) -> None:
        with pytest.raises(ConfigError, match=f"^--listen unix:{path}: {says}$"):
            listen_as("--listen", Path(path))
        assert Path("file").read_text() == "kept"
        assert Path("link").is_symlink()


@pytest.mark.parametrize("host", ["a..b", f"{'a' * 64}.example", ".example"])
def test_a_name_that_no_host_can_have_is_named_with_its_flag(host: str) -> None:
    with pytest.raises(ConfigError, match=r"^--listen .*:80: a part of the host's name is empty or too long$"):
        listen_as("--listen", (host, 80))


@pytest.fixture
def interrupted_resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A resolver that never answers, and a Ctrl-C as soon as it is asked."""
    asked, left = threading.Event(), threading.Event()

    def resolve(*_: object, **__: object) -> None:
        asked.set()
        assert left.wait(PATIENCE)
        raise OSError

    def interrupt() -> None:
        if asked.wait(PATIENCE):
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)
    pressing = threading.Thread(target=interrupt)
    pressing.start()
    yield
    left.set()
    pressing.join()
    signal.signal(signal.SIGINT, usual)


@pytest.mark.usefixtures("interrupted_resolver")
@pytest.mark.parametrize(
    "start",
    [
        lambda: main(["proxy", "--upstream", "http://127.0.0.1:9", "--listen", "slow.example:80"]),
        lambda: main(["stats", "--admin", "http://slow.example:80"]),
    ],
    ids=["proxy", "stats"],
)
def test_ctrl_c_does_not_wait_for_the_resolver(
    start: Callable[[], int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("logging.basicConfig", lambda **_: None)  # it would stay for the tests after this
    assert start() == 130
    assert capsys.readouterr().err == "otel-sessions: interrupted; everything is stopped\n"
