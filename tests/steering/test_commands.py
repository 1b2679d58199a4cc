"""What the commands that steer a proxy print, what they end, and their exit statuses."""

import io
import json
from pathlib import Path

import pytest

from otel_sessions import fingerprint
from otel_sessions.cli import main
from tests.steering.conftest import TOKEN, Command, Served

Output = pytest.CaptureFixture[str]


class Terminal(io.StringIO):
    """A stdin at which a person types."""

    def isatty(self) -> bool:
        return True


def test_sessions_are_a_table_of_at_most_80_columns(served: Served, command: Command, capsys: Output) -> None:
    served.create("a", client="10.0.0.7")
    served.create("b", client="a-client-with-a-name-that-is-far-too-long-for-a-column")
    served.create("c")

    assert command("sessions") == 0
    title, *rows, summary = capsys.readouterr().out.splitlines()
    assert title.split() == ["SESSION", "CLIENT", "STATE", "IDLE", "AGE", "USES", "USE"]
    assert [row.split()[0] for row in rows] == [fingerprint(name) for name in "abc"]
    assert [row.split()[1] for row in rows] == ["10.0.0.7", "a-client-with-a-name...", "-"]
    assert summary == "sessions: 3"
    assert max(map(len, (title, *rows))) < 80


def test_no_name_of_a_client_steers_the_terminal(served: Served, command: Command, capsys: Output) -> None:
    served.create("a", client="\x1b[2Jada\n")

    assert command("sessions") == 0
    assert "\\x1b[2Jada\\n" in capsys.readouterr().out


def test_sessions_are_filtered_and_written_as_lines_of_json(served: Served, command: Command, capsys: Output) -> None:
    served.create("old", client="ada")
    served.clock.skew += 90
    served.create("new", client="bob")

    def listed(*flags: str) -> list[str]:
        assert command("sessions", "--json", *flags) == 0
        return [json.loads(line)["client"] for line in capsys.readouterr().out.splitlines()]

    assert listed() == ["ada", "bob"]
    assert listed("--client", "bob") == ["bob"]
    assert listed("--idle-for", "1m30s") == ["ada"]
    assert listed("--older-than", "0h1m") == ["ada"]
    assert listed("--state", "closing") == []
    assert listed("--limit", "1") == ["ada"]


def test_no_session_is_said_to_be_no_session(command: Command, capsys: Output) -> None:
    assert command("sessions", "--client", "nobody") == 0
    assert capsys.readouterr().out == "sessions: 0\n"


def test_sessions_are_ended_by_fingerprint_each_once(served: Served, command: Command, capsys: Output) -> None:
    for name in "abc":
        served.create(name)
    a, b = fingerprint("a"), fingerprint("b")

    assert command("close", a, b, a) == 0
    assert capsys.readouterr().out == "ended: 2\n"
    assert len(served.manager) == 1


def test_a_session_that_is_not_there_is_named_and_the_others_end(
    served: Served, command: Command, capsys: Output
) -> None:
    served.create("b")

    assert command("close", fingerprint("a"), fingerprint("b")) == 1
    out, err = capsys.readouterr()
    assert out == "ended: 1\n"
    assert f"{fingerprint('a')}: no session has this fingerprint" in err


def test_all_sessions_of_a_client_are_ended(served: Served, command: Command, capsys: Output) -> None:
    for name, client in (("a", "a&b=é"), ("b", "bob"), ("c", "a&b=é")):
        served.create(name, client=client)

    assert command("close", "--client", "a&b=é") == 0
    assert capsys.readouterr().out == "ended: 2\n"
    assert len(served.manager) == 1


def test_a_pass_is_previewed_and_run_with_limits_of_its_own(served: Served, command: Command, capsys: Output) -> None:
    served.create("a")
    served.clock.skew += 60

    assert command("cleanup", "--preview", "--max-idle-time", "1m") == 0
    assert capsys.readouterr().out == "would end 1 session (1 idle_timeout); of 1 looked at\n"
    assert command("cleanup", "--max-session-age", "off") == 0
    assert capsys.readouterr().out == "ended 0 sessions; 1 remain\n"
    assert command("cleanup", "--max-idle-time", "60", "--json") == 0
    assert json.loads(capsys.readouterr().out)["cleaned"]["idle_timeout"] == 1


@pytest.mark.parametrize(("typed", "ended"), [("y\n", 1), ("YES\n", 1), ("n\n", 0), ("\n", 0), ("", 0)])
@pytest.mark.parametrize("flags", [["close", fingerprint("a")], ["close", "--client", "ada"], ["cleanup"]])
def test_at_a_terminal_an_end_is_asked_for(
    typed: str,
    ended: int,
    flags: list[str],
    served: Served,
    command: Command,
    capsys: Output,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    served.create("a", client="ada")
    served.clock.skew += 99
    monkeypatch.setattr("sys.stdin", Terminal(typed))
    own = ["--max-idle-time", "90"] if flags == ["cleanup"] else []

    assert command(*flags, *own) == 1 - ended
    assert len(served.manager) == 1 - ended
    err = capsys.readouterr().err
    assert "[y/N]" in err
    assert ("nothing was ended" in err) == (not ended)


@pytest.mark.parametrize("flags", [["close", fingerprint("a")], ["cleanup", "--max-idle-time", "90"]])
def test_with_yes_nothing_is_asked(
    flags: list[str], served: Served, command: Command, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    served.create("a")
    served.clock.skew += 99
    monkeypatch.setattr("sys.stdin", Terminal())

    assert command(*flags, "--yes") == 0
    assert len(served.manager) == 0
    assert "[y/N]" not in capsys.readouterr().err


def test_the_books_are_shown_in_words_and_as_json(served: Served, command: Command, capsys: Output) -> None:
    served.create("a")
    assert command("stats") == 0
    shown = capsys.readouterr().out
    assert "1 of 10" in shown
    assert "none yet in" in shown
    assert max(map(len, shown.splitlines())) < 80
    assert command("cleanup") == 0
    assert command("stats", "--json") == 0
    stats = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (stats["total_created"], stats["cleanup_runs"]) == (1, 1)
    assert command("stats") == 0
    assert "ago: manual, success, 0 ended" in capsys.readouterr().out


def test_a_manager_that_has_ended_ends_nothing_and_says_why(served: Served, command: Command, capsys: Output) -> None:
    served.stop()

    assert command("close", fingerprint("a"), fingerprint("b")) == 1
    out, err = capsys.readouterr()
    assert out == "ended: 0\n"
    assert "try again when /readyz answers 200" in err
    assert command("stats") == 0


@pytest.mark.parametrize(
    "flags",
    [
        ["close"],
        ["close", "abc"],
        ["close", "--client", "ada", fingerprint("a")],
        ["sessions", "--idle-for", "5x"],
        ["sessions", "--idle-for", "m"],
        ["sessions", "--limit", "0"],
        ["cleanup", "--max-idle-time", "0"],
        ["stats", "--admin", "http://u:secret@h"],
        ["stats", "--admin", "nowhere"],
    ],
    ids=" ".join,
)
def test_wrong_flags_have_status_2_and_say_what_is_taken(flags: list[str], capsys: Output) -> None:
    with pytest.raises(SystemExit) as ended:
        main(flags)
    assert ended.value.code == 2
    assert "secret" not in capsys.readouterr().err


def test_the_address_and_the_token_come_from_the_variables_of_the_proxy(
    served: Served, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SESSIONS_ADMIN_LISTEN", served.url.replace("http://127.0.0.1", "0.0.0.0"))  # noqa: S104
    monkeypatch.setenv("OTEL_SESSIONS_ADMIN_TOKEN", TOKEN)
    assert main(["stats"]) == 0
    assert capsys.readouterr().out.startswith(f"proxy at {served.url}\n")


def test_the_address_and_the_token_come_from_the_file_of_the_proxy(
    served: Served, capsys: Output, tmp_path: Path
) -> None:
    port = served.url.rpartition(":")[2]
    file = tmp_path / "proxy.toml"
    file.write_text(f'[proxy]\nupstream = "http://a"\n[admin]\nlisten = "127.0.0.1:{port}"\ntoken = "{TOKEN}"\n')
    assert main(["sessions", "--config", str(file)]) == 0
    assert capsys.readouterr().out == "sessions: 0\n"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "No such file"),
        ("[admin", "is not TOML"),
        ("admin = 1", "admin takes a table"),
        ('[admin]\nlistn = "a:1"', "has no key 'listn'"),
        ("[admin]\nlisten = 1", "listen takes HOST:PORT or a URL"),
        ('[admin]\ntoken_file = "/nowhere/token"', "--admin-token-file /nowhere/token: No such file"),
        ('[admin]\ntoken = "two words"', "a token has visible ASCII characters"),
    ],
)
def test_a_wrong_file_has_status_2_and_is_named(content: str | None, says: str, tmp_path: Path, capsys: Output) -> None:
    file = tmp_path / "proxy.toml"
    if content is not None:
        file.write_text(content)
    assert main(["stats", "--config", str(file)]) == 2
    assert says in capsys.readouterr().err


def test_a_closed_stdout_is_told_of_before_anything_is_asked(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as closed:
        closed.setattr("sys.stdout", None)
        status = main(["close", "--client", "ada", "--admin", "127.0.0.1:9"])

    assert (status, capsys.readouterr().err) == (1, "otel-sessions: stdout cannot be written to: it is closed\n")
