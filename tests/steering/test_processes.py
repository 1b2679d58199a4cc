"""What the commands say of a proxy with several processes, and of processes that were not reached."""

import io
import json
from collections.abc import Iterator

import pytest

from otel_sessions import SessionManager
from otel_sessions._steering.api import Api
from otel_sessions._steering.target import Target
from otel_sessions._steering.watch import watch
from tests.admin.fleets import Fleet
from tests.steering.conftest import TOKEN, Command, Served


@pytest.fixture
def fleet(served: Served, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    """The fleet of the manager that is served, with a second process `w1`."""
    fleet = Fleet()
    other: SessionManager[None] = SessionManager(name="proxy")
    monkeypatch.setattr(served.manager, "fleet", fleet)
    fleet.managers["w1"] = other

    async def create() -> None:
        await other.create_session(client="bob")

    with served.portal.wrap_async_context_manager(other):
        served.portal.call(create)
        served.create("a", "ada")
        yield fleet


def test_the_sessions_of_all_processes_are_listed(
    fleet: Fleet, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fleet.managers
    assert command("sessions") == 0
    said = capsys.readouterr()
    assert ("bob" in said.out, "ada" in said.out, "sessions: 2" in said.out, said.err) == (True, True, True, "")


@pytest.mark.parametrize("flags", [["sessions"], ["sessions", "--json"], ["cleanup"], ["cleanup", "--preview"]])
def test_a_process_that_is_not_reached_is_named_on_stderr_with_status_1(
    fleet: Fleet, command: Command, capsys: pytest.CaptureFixture[str], flags: list[str]
) -> None:
    fleet.silent = {"w1"}
    assert command(*flags) == 1
    said = capsys.readouterr()
    assert "not reached: w1 (it gives no sign of life)" in said.err
    assert "w1" not in said.out


def test_sessions_that_could_not_be_ended_everywhere_are_said(
    fleet: Fleet, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet.silent = {"w1"}
    assert command("close", "--client", "ada") == 1
    assert "1 ended; not reached: w1" in capsys.readouterr().err


def test_the_books_say_how_many_processes_they_are_of(
    fleet: Fleet, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("stats") == 0
    assert "processes 2 of 2 reached" in capsys.readouterr().out
    fleet.silent = {"w1"}
    assert command("stats") == 1
    said = capsys.readouterr().out
    assert "processes 1 of 2 reached" in said
    assert "not reached: w1 (it gives no sign of life)" in said


def test_books_in_json_that_lack_a_process_have_status_1(
    fleet: Fleet, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet.silent = {"w1"}
    assert command("stats", "--json") == 1
    said = capsys.readouterr()
    assert json.loads(said.out)["currently_active"] == 1
    assert "not reached: w1 (it gives no sign of life)" in said.err


def test_a_live_line_says_that_a_process_is_missing_in_its_numbers(fleet: Fleet, served: Served) -> None:
    class Enough(Exception):
        pass

    def then_silent(_: float) -> None:
        if fleet.silent:
            raise Enough
        fleet.silent = {"w1"}

    out = io.StringIO()
    with pytest.raises(Enough):
        watch(Api(Target(url=served.url, token=TOKEN)), out, 1.0, then_silent)
    _, whole, part = out.getvalue().splitlines()
    assert "without" not in whole
    assert part.endswith("  without 1 process")
