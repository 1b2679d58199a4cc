"""The live view: what it shows, what a pipe gets, and what it says when the API is gone."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from otel_sessions._steering import commands
from otel_sessions._steering.api import Api, Refused
from otel_sessions._steering.target import Target
from otel_sessions._steering.watch import Watched, watch, watch_as_json
from otel_sessions._steering.written import session_row, sparkline
from tests.screens import Screen
from tests.steering.conftest import TOKEN, Command, Served


@pytest.fixture(autouse=True)
def _a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LINES", "24")


def steps(*does: Callable[[], object]) -> Callable[[float], None]:
    """Return a wait that does one thing each time, and is interrupted at last."""
    left = list(does)

    def wait(_seconds: float) -> None:
        if not left:
            raise KeyboardInterrupt
        left.pop(0)()

    return wait


def api_of(served: Served) -> Api:
    return Api(Target(url=served.url, token=TOKEN))


def frames(screen: Screen) -> list[str]:
    return screen.getvalue().replace("\x1b[K", "").split("\x1b[H")[1:]


def test_the_view_is_drawn_in_its_place_and_leaves_the_screen_as_it_was(served: Served) -> None:
    screen = Screen()
    with pytest.raises(KeyboardInterrupt):
        watch(api_of(served), screen, 1.0, steps(lambda: served.create("a"), lambda: served.create("b")))

    assert screen.getvalue().startswith("\x1b[?1049h")
    assert screen.getvalue().endswith("\x1b[?1049l")
    first, second, third = frames(screen)
    assert "0 of 10" in first
    assert "1 of 10" in second
    assert "▁▁▂" in third
    assert all(len(line) <= 80 for line in third.splitlines()[:-1])


def test_without_utf_8_the_view_is_ascii(served: Served) -> None:
    screen = Screen(encoding="ascii")
    served.create("a")
    with pytest.raises(KeyboardInterrupt):
        watch(api_of(served), screen, 1.0, steps())
    assert "###..." in screen.getvalue()
    assert screen.getvalue().isascii()


@pytest.mark.parametrize("is_terminal", [True, False])
def test_an_api_that_is_gone_is_named_and_asked_again(is_terminal: bool, served: Served) -> None:
    answers: list[Any] = [1, Refused("http://h: nothing answers there"), Refused("http://h: nothing answers there"), 2]

    class Flaky(Api):
        def statistics(self) -> dict[str, Any]:
            if isinstance(answer := answers.pop(0), Refused):
                raise answer
            return {**super().statistics(), "currently_active": answer}

    screen = Screen(is_terminal=is_terminal)
    with pytest.raises(KeyboardInterrupt):
        watch(Flaky(Target(url=served.url, token=TOKEN)), screen, 1.0, steps(*[lambda: None] * 3))

    views = frames(screen) if is_terminal else screen.getvalue().splitlines()[1:]
    said = "NO ANSWER since" if is_terminal else "no answer: http://h: nothing answers there"
    assert [said in view for view in views] == [False, True, True, False]
    assert ("nothing answers there" in views[1], "nothing answers there" in views[3]) == (True, False)


def test_an_api_that_never_answered_is_an_error(served: Served) -> None:
    screen = Screen()
    with pytest.raises(Refused, match="it needs a token"):
        watch(Api(Target(url=served.url)), screen, 1.0, steps())
    assert screen.getvalue() == ""


def test_a_pipe_gets_a_line_an_interval_and_one_title(served: Served) -> None:
    pipe = Screen(is_terminal=False)
    with pytest.raises(KeyboardInterrupt):
        watch(api_of(served), pipe, 1.0, steps(lambda: served.create("a")))

    title, first, second = pipe.getvalue().splitlines()
    assert title.split() == ["TIME", "ACTIVE", "LEASED", "CREATED", "CLEANED", "REFUSED", "PASSES"]
    assert (first.split()[1], second.split()[1]) == ("0", "1")
    assert len({len(line) for line in (title, first, second)}) == 1


def test_as_json_the_books_are_a_line_an_interval(served: Served) -> None:
    pipe = Screen(is_terminal=False)
    with pytest.raises(KeyboardInterrupt):
        watch_as_json(api_of(served), pipe, 1.0, steps(lambda: served.create("a")))
    assert [json.loads(line)["currently_active"] for line in pipe.getvalue().splitlines()] == [0, 1]


@pytest.mark.parametrize(("flags", "lines"), [([], 2), (["--json"], 1)])
def test_ctrl_c_is_how_a_view_ends_and_has_status_0(
    flags: list[str], lines: int, command: Command, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("watch", "watch_as_json"):
        monkeypatch.setattr(commands, name, interrupted(getattr(commands, name)))
    assert command("stats", "--watch", *flags) == 0
    assert len(capsys.readouterr().out.splitlines()) == lines


def interrupted(view: Callable[..., None]) -> Callable[..., None]:
    return lambda api, out, interval: view(api, out, interval, steps())


def test_without_a_cap_the_bars_are_parts_of_the_highest_count(served: Served) -> None:
    served.portal.call(served.manager.set_max_sessions, None)
    served.create("a")
    screen = Screen()
    with pytest.raises(KeyboardInterrupt):
        watch(api_of(served), screen, 1.0, steps())
    assert "1, no cap" in screen.getvalue()
    assert sparkline([0, 5, 10], None, is_plain=True) == "_=#"
    assert Watched().cap is None


def test_a_count_that_is_too_long_for_its_column_is_in_millions() -> None:
    session = {"fingerprint": "0" * 16, "client": None, "state": "active", "idle_for": 1, "age": 1, "leases": 0}
    assert "12M" in session_row({**session, "message_count": 12_345_678})
    assert "999999" in session_row({**session, "message_count": 999_999})
