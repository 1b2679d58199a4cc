"""What a program is told: by flags, over variables, over a file, over defaults; all by one table of options."""

import argparse
import errno
import os
import re
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from otel_sessions import ConfigError, SessionConfig
from otel_sessions._core.options import Option, unknown_variables
from otel_sessions._program.flags import naming
from otel_sessions._program.page import page
from otel_sessions.cli import main
from otel_sessions.matchers import CookieMatcher, HeaderMatcher, McpMatcher
from otel_sessions.proxy.fleet_options import STORE_OPTIONS
from otel_sessions.proxy.options import TABLES
from otel_sessions.proxy.settings import Settings, add_arguments, read, unread_variables
from tests.processes import ROOT, clean_environ
from tests.waiting import PATIENCE

OPTIONS: list[Option[Any]] = [option for options in TABLES.values() for option in options]
SWITCHES = [option for option in OPTIONS if option.unit == "true|false"]
SECRETS = [option for option in OPTIONS if not option.has_flag]
by_name = pytest.mark.parametrize("option", [o for o in OPTIONS if o.has_flag], ids=lambda option: option.name)
URL = "http://127.0.0.1:9"

WRITTEN = {
    "upstream": '"https://h:1"',
    "listen": '["unix:/a"]',
    "tls_cert": '"a"',
    "tls_key": '"a"',
    "upstream_ca": '"a"',
    "health": '"h:2"',
    "matcher": '"cookie"',
    "skip": '["/a"]',
    "trusted_proxy": '["::1"]',
    "owner_header": '"x-user"',
    "allow_host": '["a"]',
    "allow_origin": '["http://a"]',
    "log_format": '"json"',
    "loop": '"asyncio"',
    "workers": "3",
    "export": '"a"',
    "peers": '["w1=http://h:1"]',
    "peers_file": '"a"',
    "peers_dns": '"http://h:1"',
    "peer_name": '"w1"',
    "peer_listen": '"h:3"',
    "peer_secret_file": '"a"',
    "peer_tls_cert": '"a"',
    "peer_tls_key": '"a"',
    "peer_ca": '"a"',
    "fleet": '"valkey://h:1"',
    "fleet_name": '"f"',
    "fleet_address": '"http://h:1"',
    "fleet_secret_file": '"a"',
    "fleet_secret": '"a"',
    "fleet_outage": '"closed"',
    "fleet_cluster": "true",
    "fleet_sentinel": '"main"',
    "fleet_ca": '"a"',
    "fleet_allow_peers": '["10.0.0.0/8"]',
    "fleet_farewell": "true",
    "per_client_at_cap": '"evict_oldest"',
    "admin": '"h:3"',
    "admin_token_file": '"a"',
    "admin_token": '"a"',
    "admin_allow_host": '["a"]',
    "rewrite_host": "true",
    "cleanup_on_shutdown": "false",
}
"""A value of each option that is not its default, as a file has it; for numbers it is 2048."""
_REST_OF_A_FLEET = ["peer_listen", "peer_secret_file"]
_WHOLE_FLEET = ["fleet", "fleet_name", "fleet_address", "fleet_max_sessions", "fleet_secret_file", "peer_listen"]
TOGETHER = {
    **{option.name: _WHOLE_FLEET for option in STORE_OPTIONS},
    "peers": [*_REST_OF_A_FLEET, "peer_name"],
    "peers_file": [*_REST_OF_A_FLEET, "peer_name"],
    "peers_dns": _REST_OF_A_FLEET,
    "peer_name": [*_REST_OF_A_FLEET, "peers_dns"],
    "peer_listen": ["peer_secret_file", "peers_dns"],
    "peer_secret_file": ["peer_listen", "peers_dns"],
    "peer_tls_cert": ["peer_tls_key", *_REST_OF_A_FLEET, "peers_dns"],
    "peer_tls_key": ["peer_tls_cert", *_REST_OF_A_FLEET, "peers_dns"],
    "peer_ca": [*_REST_OF_A_FLEET, "peers_dns"],
    "per_client_at_cap": ["max_sessions_per_client"],
    "tls_cert": ["tls_key"],
    "tls_key": ["tls_cert"],
    "upstream_ca": ["upstream"],
    "owner_header": ["trusted_proxy"],
    "rewrite_host": ["allow_host"],
    "allow_host": ["rewrite_host"],
    "allow_origin": ["rewrite_host", "allow_host"],
}
"""What an option needs beside it."""


def written(name: str) -> str:
    return WRITTEN.get(name, "2048")


def as_text(name: str) -> str:
    return written(name).strip('[]"')


def options_with(name: str) -> list[Option[Any]]:
    return [option for option in OPTIONS if option.name in {name, "upstream", *TOGETHER.get(name, [])}]


Tell = Callable[..., Settings]


@pytest.fixture
def told(tmp_path: Path) -> Tell:
    """Return the settings that a proxy has which is told something in all possible ways."""

    def told(*flags: str, environ: dict[str, str] | None = None, file: str | None = None) -> Settings:
        parser = argparse.ArgumentParser(allow_abbrev=False, exit_on_error=False)
        add_arguments(parser)
        if file is not None:
            path = tmp_path / "proxy.toml"
            path.write_text(file, encoding="utf-8")
            flags = (*flags, "--config", str(path))
        return read(parser.parse_args(flags), environ or {})

    return told


class TestSources:
    @by_name
    def test_every_setting_comes_alike_from_a_flag_a_variable_and_a_file(self, told: Tell, option: Option[Any]) -> None:
        needed = options_with(option.name)
        tables: dict[str, list[str]] = {}
        for one in needed:
            tables.setdefault(one.table, []).append(f"{one.key} = {written(one.name)}")
        file = "\n".join(f"[{table}]\n" + "\n".join(lines) for table, lines in tables.items())

        by_flags = told(*(f"{one.flag}={as_text(one.name)}" for one in needed))
        by_variables = told(environ={one.variable: as_text(one.name) for one in needed})
        by_file = told(file=file)

        assert comparable(by_flags) == comparable(by_variables) == comparable(by_file)
        assert comparable(by_flags) != comparable(told("--upstream", URL))

    def test_a_secret_comes_from_a_variable_or_a_file_and_never_from_a_flag(self, told: Tell) -> None:
        assert [option.name for option in SECRETS] == ["admin_token", "fleet_secret"]
        by_variable = told("--upstream", URL, environ={"OTEL_SESSIONS_ADMIN_TOKEN": "a"})
        by_file = told("--upstream", URL, file='[admin]\ntoken = "a"')
        assert by_variable.admin_token == by_file.admin_token == "a"
        needed = [one for one in _WHOLE_FLEET if one != "fleet_secret_file"]
        of_fleet = [f"{one.flag}={as_text(one.name)}" for one in OPTIONS if one.name in needed]
        by_variable = told("--upstream", URL, *of_fleet, environ={"OTEL_SESSIONS_FLEET_SECRET": "a"})
        by_file = told("--upstream", URL, *of_fleet, file='[fleet]\nsecret = "a"')
        assert by_variable.fleet == by_file.fleet
        assert by_file.fleet is not None
        assert by_file.fleet.secret == "a"
        for flag in ("--admin-token", "--fleet-secret"):
            with pytest.raises((SystemExit, argparse.ArgumentError)):
                told("--upstream", URL, flag, "a")

    @pytest.mark.parametrize(
        ("file", "environ", "flags", "made"),
        [
            ("", {}, [], [("127.0.0.1", 8080)]),
            ('listen = "a:1"', {}, [], [("a", 1)]),
            ('listen = ["a:1", "unix:b"]', {}, [], [("a", 1), Path("b")]),
            ('listen = "a:1"', {"OTEL_SESSIONS_PROXY_LISTEN": "b:2"}, [], [("b", 2)]),
            ('listen = "a:1"', {"OTEL_SESSIONS_PROXY_LISTEN": "b:2, unix:/c"}, [], [("b", 2), Path("/c")]),
            ('listen = "a:1"', {"OTEL_SESSIONS_PROXY_LISTEN": " "}, [], [("a", 1)]),
            ('listen = "a:1"', {"OTEL_SESSIONS_PROXY_LISTEN": "b:2"}, ["--listen", "[::1]:3"], [("::1", 3)]),
            ("", {}, ["--listen", "b:2", "--listen", "unix:/c d"], [("b", 2), Path("/c d")]),
        ],
    )
    def test_a_flag_goes_over_a_variable_over_a_file_over_the_default(
        self, told: Tell, file: str, environ: dict[str, str], flags: list[str], made: list[object]
    ) -> None:
        told_so = told("--upstream", URL, *flags, environ=environ, file=f"[proxy]\n{file}\n")

        assert list(told_so.addresses) == made

    def test_a_sessions_flag_goes_over_a_variable_over_a_file_over_the_default(self, told: Tell) -> None:
        file, environ = "[session]\nmax_sessions = 1\nmax_idle_time_secs = 2", {"OTEL_SESSIONS_MAX_SESSIONS": "off"}

        assert told("--upstream", URL, file=file).sessions == SessionConfig(max_sessions=1, max_idle_time=2)
        assert told("--upstream", URL, file=file, environ=environ).sessions.max_sessions is None
        assert told("--upstream", URL, "--max-sessions=3", file=file, environ=environ).sessions.max_sessions == 3

    def test_a_flag_that_says_off_goes_over_a_variable_that_says_a_limit(self, told: Tell) -> None:
        environ = {"OTEL_SESSIONS_MAX_SESSIONS": "5", "OTEL_SESSIONS_PROXY_STREAM_IDLE_TIMEOUT": "5"}
        settings = told("--upstream", URL, "--max-sessions=off", "--stream-idle-timeout=OFF", environ=environ)

        assert (settings.sessions.max_sessions, settings.stream_idle_timeout) == (None, None)

    def test_a_list_in_a_flag_replaces_a_list_in_a_variable(self, told: Tell) -> None:
        environ = {"OTEL_SESSIONS_PROXY_SKIP": "/a, /b"}

        assert told("--upstream", URL, environ=environ).skip == ("/a", "/b")
        assert told("--upstream", URL, "--skip=/c,d", "--skip=/e", environ=environ).skip == ("/c,d", "/e")

    def test_a_text_in_a_file_is_a_list_of_one(self, told: Tell) -> None:
        assert told("--upstream", URL, file='[proxy]\nskip = "/a"').skip == ("/a",)

    def test_settings_that_are_wrong_only_until_all_sources_are_merged_give_no_warning(self, told: Tell) -> None:
        file = "[session]\n" + "\n".join(
            f'{limit}_secs = "off"'
            for limit in ("max_idle_time", "max_session_age", "emergency_idle_time", "emergency_session_age")
        )
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            told("--upstream", URL, "--max-sessions=off", file=file)

    def test_without_an_upstream_the_error_names_every_way_to_give_it(self, told: Tell) -> None:
        with pytest.raises(ConfigError) as caught:
            told()

        for name in ("--upstream", "OTEL_SESSIONS_PROXY_UPSTREAM", "[proxy]"):
            assert name in str(caught.value)

    @pytest.mark.parametrize(
        ("said", "kind"),
        [("mcp", McpMatcher), ("cookie", CookieMatcher), ("cookie:a", CookieMatcher), ("header:x-a", HeaderMatcher)],
    )
    def test_a_matcher_is_made_of_its_kind_and_name(self, told: Tell, said: str, kind: type) -> None:
        assert isinstance(told("--upstream", URL, environ={"OTEL_SESSIONS_PROXY_MATCHER": said}).matcher, kind)


def comparable(settings: Settings) -> dict[str, object]:
    """Return settings as values that are equal if they are alike; a matcher counts by its class."""
    values: dict[str, object] = {name: getattr(settings, name) for name in Settings.__slots__}
    return {**values, "matcher": type(settings.matcher)}


class TestSwitches:
    @pytest.mark.parametrize("option", SWITCHES, ids=lambda option: option.name)
    @pytest.mark.parametrize("text", ["on", "ON", "yes", "1", "true", "off", "No", "0", "false"])
    def test_every_switch_takes_the_same_words(self, told: Tell, option: Option[Any], text: str) -> None:
        is_on = text.lower() in ("on", "yes", "1", "true")
        beside = ["--upstream", URL, *(["--allow-host=a"] if option.name == "rewrite_host" and is_on else [])]
        if option in STORE_OPTIONS:
            beside += [f"{one.flag}={as_text(one.name)}" for one in OPTIONS if one.name in _WHOLE_FLEET]
        for settings in (told(*beside, f"{option.flag}={text}"), told(*beside, environ={option.variable: text})):
            values = {"rewrite_host": settings.rules.rewrite_host}
            values["cleanup_on_shutdown"] = settings.sessions.cleanup_on_shutdown
            if settings.fleet is not None:
                values |= {"fleet_cluster": settings.fleet.cluster, "fleet_farewell": settings.fleet.farewell}
            assert values[option.name] is is_on

    @pytest.mark.parametrize("option", SWITCHES, ids=lambda option: option.name)
    def test_every_switch_refuses_other_words_by_the_name_they_were_given_to(
        self, told: Tell, option: Option[Any]
    ) -> None:
        with pytest.raises(ConfigError, match=f"^{option.variable} takes true or false, not 'maybe'$"):
            told("--upstream", URL, environ={option.variable: "maybe"})
        for wrong in ('"true"', "1"):
            with pytest.raises(ConfigError, match=f"{option.key} takes true or false, not "):
                told("--upstream", URL, file=f"[{option.table}]\n{option.key} = {wrong}")

    def test_a_switch_is_on_by_its_flag_alone_and_off_by_its_flag_with_false(self, told: Tell) -> None:
        environ = {"OTEL_SESSIONS_PROXY_REWRITE_HOST": "on"}

        assert told("--upstream", URL, "--rewrite-host", "--allow-host", "a").rules.rewrite_host
        assert not told("--upstream", URL, "--rewrite-host=false", environ=environ).rules.rewrite_host


class TestWrongValues:
    @by_name
    @pytest.mark.parametrize("empty", ["", "  "])
    def test_an_empty_flag_is_an_error_that_names_it(
        self, option: Option[Any], empty: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit, match="2"):
            main(["proxy", "--upstream", URL, option.flag, empty])

        said = capsys.readouterr().err
        assert f"argument {option.flag}: takes " in said

    @pytest.mark.parametrize(
        "arguments",
        [
            ["demo", "--report", ""],
            ["demo", "--otlp", ""],
            ["demo", "--clients", ""],
            ["load", "--target", ""],
            ["proxy", "--config", ""],
            ["export", "show", "--client", "", "-"],
            ["export", "show", "--reason", "", "-"],
        ],
    )
    def test_an_empty_flag_of_a_command_is_an_error_that_names_it(
        self, arguments: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit, match="2"):
            main(arguments)

        flag = next(argument for argument in arguments if argument.startswith("--"))
        assert f"argument {flag}: " in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("flag", "takes", "wrong"),
        [
            ("--duration", "a positive number", ["0", "x", "nan", "inf", "1e999"]),
            ("--clients", "a whole number of at least 1", ["0", "2.5", "x", "9" * 5000]),
            ("--seed", "a whole number", ["x", "1.5", "9" * 5000]),
            ("--port", "a port from 0 to 65535", ["65536", "-1", "x", "9" * 5000]),
        ],
    )
    def test_a_wrong_number_in_a_flag_of_the_demo_is_told_what_it_takes(
        self, flag: str, takes: str, wrong: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        for text in wrong:
            with pytest.raises(SystemExit, match="2"):
                main(["demo", f"{flag}={text}"])
            assert (
                f"argument {flag}: takes {takes}, not {text}; see otel-sessions demo --help\n"
                in capsys.readouterr().err
            )

    def test_right_numbers_in_the_flags_of_the_demo_are_taken(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("OTEL_SESSIONS_MAX_SESSIONS", "many")  # so that it ends here

        assert main(["demo", "--duration=0.5", "--clients=1", "--seed=-3", "--port=0"]) == 2
        assert "OTEL_SESSIONS_MAX_SESSIONS takes" in capsys.readouterr().err

    @by_name
    @pytest.mark.parametrize("wrong", ["2026-01-01", "[[]]", "{a = 1}", '""'])
    def test_a_value_of_another_type_in_a_file_is_an_error_that_names_its_key(
        self, told: Tell, option: Option[Any], wrong: str
    ) -> None:
        with pytest.raises(ConfigError, match=rf"^--config .*proxy\.toml: {option.key} takes "):
            told("--upstream", URL, file=f"[{option.table}]\n{option.key} = {wrong}")

    @by_name
    def test_a_number_is_never_a_text_nor_a_text_a_number(self, told: Tell, option: Option[Any]) -> None:
        wrong = "5" if not isinstance(option.default, (int, float)) or option in SWITCHES else '"5"'
        if option.default is None and option.unit in ("seconds", "sessions", "connections"):
            wrong = '"5"'
        with pytest.raises(ConfigError, match=rf"{option.key} takes "):
            told("--upstream", URL, file=f"[{option.table}]\n{option.key} = {wrong}")

    @pytest.mark.parametrize(
        ("variable", "text"),
        [
            ("OTEL_SESSIONS_PROXY_MAX_BODY", "-1"),
            ("OTEL_SESSIONS_PROXY_MAX_BODY", "1.5"),
            ("OTEL_SESSIONS_PROXY_MAX_HEADER", "1023"),
            ("OTEL_SESSIONS_PROXY_MAX_HEADER", "9" * 5000),
            ("OTEL_SESSIONS_PROXY_IDLE_TIMEOUT", "inf"),
            ("OTEL_SESSIONS_PROXY_IDLE_TIMEOUT", "off"),
            ("OTEL_SESSIONS_PROXY_COMMENT_AFTER", "nan"),
            ("OTEL_SESSIONS_PROXY_LISTEN", "8080"),
            ("OTEL_SESSIONS_PROXY_LISTEN", "h:" + "9" * 5000),
            ("OTEL_SESSIONS_PROXY_SKIP", "/a,,/b"),
            ("OTEL_SESSIONS_PROXY_TRUSTED_PROXY", "10.0.0.0/8,everybody"),
            ("OTEL_SESSIONS_PROXY_LOG_FORMAT", "xml"),
            ("OTEL_SESSIONS_PROXY_MATCHER", "header:a b"),
            ("OTEL_SESSIONS_PROXY_EXPORT_KEEP", "0"),
        ],
    )
    def test_a_wrong_variable_is_named_even_if_a_flag_goes_over_it(self, told: Tell, variable: str, text: str) -> None:
        with pytest.raises(ConfigError, match=f"^{variable} takes "):
            told("--upstream", URL, "--listen=h:1", "--skip=/a", "--max-body=1", environ={variable: text})

    @pytest.mark.parametrize("text", ["http://ada:hidden@h", "hidden", "http://h/?hidden", "http://h:hidden"])
    def test_a_wrong_url_is_not_repeated_since_it_may_hold_credentials(
        self, told: Tell, text: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for environ, file in (({"OTEL_SESSIONS_PROXY_UPSTREAM": text}, None), ({}, f'[proxy]\nupstream = "{text}"')):
            with pytest.raises(ConfigError, match="takes a URL") as caught:
                told(environ=environ, file=file)
            assert "hidden" not in str(caught.value)
        with pytest.raises(SystemExit):
            main(["proxy", "--upstream", text])
        assert "hidden" not in capsys.readouterr().err


class TestFiles:
    @pytest.mark.parametrize(
        ("file", "says"),
        [
            ("[proxi]\nlisten = 'a:1'", "there is no table [proxi]; the tables are proxy, session, admin, fleet"),
            ("listen = 'a:1'", "there is no table [listen]"),
            ("[proxy]\nlisen = 1", "[proxy] has no key 'lisen'; it takes upstream, listen, "),
            ("[session]\nmax_idle_time = 1", "[session] has no key 'max_idle_time'; it takes cleanup_interval_secs, "),
            ("[admin]\nlisen = 'a:1'", "[admin] has no key 'lisen'; it takes listen, token_file, token, allow_host"),
            ("[fleet]\nlisten = 'a:1'", "[fleet] has no key 'listen'; it takes peers, peers_file, "),
            ("fleet = 5", "fleet takes a table, [fleet], not 5"),
            ("[[proxy]]\nlisten = 'a:1'", "proxy takes a table, [proxy], not "),
            ("[proxy", "is not TOML: "),
        ],
    )
    def test_what_is_unknown_in_a_file_is_refused_and_named(self, told: Tell, file: str, says: str) -> None:
        with pytest.raises(ConfigError, match=rf"^--config .*proxy\.toml.*{re.escape(says)}"):
            told("--upstream", URL, file=file)

    @pytest.mark.parametrize(
        "key", ["upstream", "listen", "tls_cert", "export", "skip", "owner_header", "matcher", "allow_host", "loop"]
    )
    def test_a_text_with_a_nul_is_refused_in_one_line(self, told: Tell, key: str) -> None:
        with pytest.raises(ConfigError, match=rf"^--config .*proxy\.toml: {key} takes .*$") as refused:
            told(file=f'[proxy]\n{key} = "unix:/a\\u0000b"')
        assert "\0" not in str(refused.value)

    def test_tables_of_other_parts_of_the_program_may_stand_there_empty(self, told: Tell) -> None:
        assert told("--upstream", URL, file="[admin]\n[fleet]\n").sessions == SessionConfig()

    @pytest.mark.parametrize("path", ["/no/such/file", "."])
    def test_a_file_that_cannot_be_read_is_named_with_its_flag(
        self, path: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["proxy", "--upstream", URL, "--config", path]) == 2
        assert re.fullmatch(rf"otel-sessions: --config {re.escape(path)}: [A-Z].*\n", capsys.readouterr().err)

    @pytest.mark.parametrize("flag", ["--listen", "--health"])
    def test_an_address_that_cannot_be_listened_on_is_named_with_its_flag(
        self, flag: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("logging.basicConfig", lambda **_: None)  # it would stay for the tests after this
        assert main(["proxy", "--upstream", URL, "--listen", "127.0.0.1:0", flag, "no.such.host.invalid:80"]) == 2
        assert f"otel-sessions: {flag} no.such.host.invalid:80: " in capsys.readouterr().err

    @pytest.mark.parametrize(
        "error",
        [
            *(OSError("why"), OSError(-2, "why"), OSError(0, "why"), OSError(11, "why")),
            *(OSError(-2, f"why (while attempting to bind on address {('a', 1)})"), OSError(22, "why", "path")),
        ],
    )
    def test_a_reason_in_words_of_its_own_is_said_as_it_is(self, error: OSError) -> None:
        with pytest.raises(ConfigError, match=r"^--export a: why$"), naming("--export", "a"):
            raise error

    def test_a_reason_of_the_system_is_said_without_the_address_that_python_adds(self) -> None:
        usual = os.strerror(errno.EADDRINUSE)
        with pytest.raises(ConfigError, match=rf"^--listen a: {usual}$"), naming("--listen", "a"):
            raise OSError(errno.EADDRINUSE, f"{usual} (while attempting to bind on address {('127.0.0.1', 80)})")


class TestUnknownVariables:
    def test_the_program_names_each_with_the_most_similar_known_variable(self) -> None:
        environ = {
            "OTEL_SESSIONS_PROXY_LISEN": "",
            "OTEL_SESSIONS_MAX_SESIONS": "5",
            "OTEL_SESSIONS_PROXY_LISTEN": "a:1",
            "OTEL_SESSIONS_PROXY_PORT_8080_TCP": "tcp://10.0.0.1:8080",
            "OTEL_SESSIONS_SERVICE_HOST": "10.0.0.1",
            "PATH": "/bin",
        }

        first, second = unread_variables(environ)

        assert first.startswith("no setting reads the variable OTEL_SESSIONS_PROXY_LISEN;")
        assert first.endswith(" did you mean OTEL_SESSIONS_PROXY_LISTEN?")
        assert second.endswith(" did you mean OTEL_SESSIONS_MAX_SESSIONS?")

    @by_name
    def test_no_variable_of_an_option_is_unknown(self, option: Option[Any]) -> None:
        assert unknown_variables(OPTIONS, {option.variable: "x"}) == {}

    def test_the_demo_prints_the_warning(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("OTEL_SESSIONS_MAX_SESIONS", "5")
        monkeypatch.setenv("OTEL_SESSIONS_MAX_SESSIONS", "many")  # so that it ends here

        assert main(["demo", "--port", "0"]) == 2
        assert capsys.readouterr().err.startswith(
            "otel-sessions: no setting reads the variable OTEL_SESSIONS_MAX_SESIONS"
        )

    @pytest.mark.processes
    @pytest.mark.parametrize(
        "module", [["otel_sessions", "proxy"], ["otel_sessions.demo.processes.proxy"]], ids=["proxy", "demo's proxy"]
    )
    def test_the_programs_print_the_warning_once(self, module: list[str]) -> None:
        said = run(*module, "--upstream", URL, "--listen", "127.0.0.1:0", "--export", "/no/such/a", OTEL_SESSIONS_X="1")

        assert said.stderr.count("no setting reads the variable OTEL_SESSIONS_X;") == 1


@pytest.mark.processes
class TestTheDemosProxy:
    @pytest.mark.parametrize(
        ("environ", "says"),
        [
            ({"OTEL_SESSIONS_PROXY_LISTEN": "no.such.host.invalid:80"}, "no.such.host.invalid:80"),
            ({"OTEL_SESSIONS_PROXY_LISTEN": "8080"}, "OTEL_SESSIONS_PROXY_LISTEN takes HOST:PORT"),
        ],
    )
    def test_it_reads_the_proxys_variables(self, environ: dict[str, str], says: str) -> None:
        said = run("otel_sessions.demo.processes.proxy", "--upstream", URL, **environ)

        assert said.returncode == 2
        assert says in said.stderr

    def test_it_reads_the_proxys_table(self, tmp_path: Path) -> None:
        file = tmp_path / "proxy.toml"
        file.write_text(f'[proxy]\nupstream = "{URL}"\nlisten = "no.such.host.invalid:80"')

        said = run("otel_sessions.demo.processes.proxy", "--config", str(file))

        assert said.returncode == 2
        assert "no.such.host.invalid:80" in said.stderr


def run(*command: str, **environ: str) -> "subprocess.CompletedProcess[str]":
    """Run a module of ours to its end."""
    return subprocess.run(
        [sys.executable, "-m", *command],
        env={**clean_environ(), **environ},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


class TestHelp:
    @by_name
    def test_every_flag_shows_its_unit_and_its_default(
        self, option: Option[Any], capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit, match="0"):
            main(["proxy", "--help"])

        said = " ".join(capsys.readouterr().out.split())
        default = "required" if option.required else f"default: {option.written_default}"
        assert option.help in said.replace("allow- host", "allow-host")
        assert (
            f"{option.flag} {option.unit}" in said
            or f"{option.flag} {option.unit.upper()}" in said
            or (f"{option.flag} [{option.unit}]" in said)
        )
        assert default in said

    def test_no_two_options_have_the_same_help_flag_or_variable(self) -> None:
        for names in ("help", "flag", "variable", "name"):
            assert len({getattr(option, names) for option in OPTIONS}) == len(OPTIONS)

    @pytest.mark.parametrize("command", [["demo"], ["load"], ["export", "show"], ["proxy"]])
    def test_every_flag_of_every_command_has_a_default_in_its_help(
        self, command: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit, match="0"):
            main([*command, "--help"])

        said = capsys.readouterr().out.partition("options:")[2]
        for entry in re.split(r"\n  (?=-)", said)[1:]:
            words = " ".join(entry.split())
            assert words.startswith("-h") or "default: " in words or "(required)" in words, words
            assert "SECONDS" not in words or "seconds" in words
            assert "default: None" not in words

    @pytest.mark.parametrize("arguments", [[], ["export"]])
    def test_without_a_command_the_help_is_printed_and_the_status_is_2(
        self, arguments: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit, match="2"):
            main(arguments)

        said = capsys.readouterr().err
        assert said.startswith("usage: otel-sessions")
        assert "-h, --help" in said

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["sesions"], "argument command: invalid choice: 'sesions' (choose from "),
            (["proxy", "--max-sessions", "ten"], "argument --max-sessions: takes a whole number of at least 1"),
            (
                ["proxy", "--max-sessions"],
                "argument --max-sessions: expected one argument; see otel-sessions proxy --help",
            ),
            (["proxy", "--max-sess", "5"], "unrecognized arguments: --max-sess 5; see otel-sessions --help"),
            (["proxy", "--max-sess\n\x1b"], r"'unrecognized arguments: --max-sess\n\x1b'; see"),
            (["load"], "the following arguments are required: --target; see otel-sessions load --help"),
            (["export", "show"], "the following arguments are required: FILE; see otel-sessions export show --help"),
            (["stats", "--interval", "0"], "argument --interval: takes a positive"),
        ],
        ids=lambda value: " ".join(value) if isinstance(value, list) else "",
    )
    def test_wrong_arguments_are_told_of_in_one_line(
        self, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit, match="2"):
            main(arguments)

        line = capsys.readouterr().err
        assert line.count("\n") == 1
        assert line.startswith(f"otel-sessions: {said}")
        assert line.endswith(" --help\n")

    def test_the_page_of_settings_is_what_the_options_say(self) -> None:
        assert (ROOT / "docs/reference/settings.md").read_text(encoding="utf-8") == page(TABLES)


@pytest.mark.processes
class TestTheCommand:
    def test_the_package_runs_as_a_module(self) -> None:
        said = run("otel_sessions", "--version")

        assert said.returncode == 0
        assert said.stdout.startswith("otel-sessions ")

    def test_nothing_heavy_is_imported_before_ctrl_c_is_handled(self) -> None:
        program = "import otel_sessions.cli, sys; print(*sys.modules)"
        bare = [sys.executable, "-S", "-c", program]  # without what an environment loads at the start of all programs
        said = subprocess.run(bare, capture_output=True, text=True, check=True, cwd=ROOT)

        loaded = {name.partition(".")[0] for name in said.stdout.split()}
        heavy = {
            "anyio",
            "argparse",
            "asyncio",
            "collections",
            "contextlib",
            "httptools",
            "httpx2",
            "logging",
            "opentelemetry",
            "ssl",
            "tomllib",
            "typing",
            "uvicorn",
        }
        assert loaded & heavy == set()
        ours = {name for name in said.stdout.split() if name.startswith("otel_sessions")}
        assert ours == {"otel_sessions", "otel_sessions._lazy", "otel_sessions._version", "otel_sessions.cli"}

    def test_closed_streams_leave_the_status_and_the_sockets_as_they_are(self) -> None:
        command = f"exec {sys.executable} -m otel_sessions.cli proxy --upstream {URL} --listen 127.0.0.1:0"
        wrong = ["sh", "-c", f"{command} --max-sessions 0 <&- >&- 2>&-"]
        assert subprocess.call(wrong, cwd=ROOT, timeout=PATIENCE) == 2

        show = f"exec {sys.executable} -m otel_sessions.cli export show -"
        for closed, status, said in (
            (">&-", 1, "the table cannot be written: stdout is closed"),
            ("<&-", 2, "the records cannot be read: stdin is closed"),
        ):
            table = subprocess.run(
                ["sh", "-c", f"{show} {closed}"],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                cwd=ROOT,
                timeout=PATIENCE,
            )
            assert (table.returncode, table.stderr) == (status, f"otel-sessions: {said}\n")

        proxy = subprocess.Popen(["sh", "-c", f"{command} <&- >&-"], stderr=subprocess.PIPE, text=True, cwd=ROOT)
        assert proxy.stderr is not None
        assert "listening on" in proxy.stderr.readline()
        proxy.send_signal(signal.SIGINT)
        assert proxy.communicate(timeout=PATIENCE)[1] == ""
        assert proxy.returncode == 0

    def test_ctrl_c_while_it_still_imports_prints_a_line_and_no_traceback(self) -> None:
        interrupted = """
import sys

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == "anyio":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupt())
from otel_sessions.cli import main
sys.exit(main(["proxy"]))
"""
        said = subprocess.run(
            [sys.executable, "-c", interrupted], capture_output=True, text=True, check=False, cwd=ROOT, timeout=PATIENCE
        )

        assert (said.returncode, said.stderr) == (130, "otel-sessions: interrupted; everything is stopped\n")
