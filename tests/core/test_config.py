import dataclasses
import math
import os
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from otel_sessions import ConfigError, EndReason, PerClientAtCap, SessionConfig, SessionError
from otel_sessions._core import config as config_module

DEFAULTS = {
    "cleanup_interval": 60.0,
    "max_idle_time": 3600.0,
    "max_session_age": 86400.0,
    "max_sessions": 1000,
    "cleanup_on_shutdown": True,
    "emergency_idle_time": 300.0,
    "emergency_session_age": 3600.0,
    "max_sessions_per_client": None,
    "close_timeout": 5.0,
    "close_concurrency": 32,
    "drain_timeout": 10.0,
    "shutdown_timeout": 30.0,
    "max_unused_time": None,
    "per_client_at_cap": "refuse",
}
SECONDS = {
    "cleanup_interval": "cleanup_interval_secs",
    "max_idle_time": "max_idle_time_secs",
    "max_session_age": "max_session_age_secs",
    "emergency_idle_time": "emergency_idle_time_secs",
    "emergency_session_age": "emergency_session_age_secs",
    "close_timeout": "close_timeout_secs",
    "drain_timeout": "drain_timeout_secs",
    "shutdown_timeout": "shutdown_timeout_secs",
    "max_unused_time": "max_unused_time_secs",
}
COUNTS = ["max_sessions", "max_sessions_per_client", "close_concurrency"]
MAY_BE_OFF = [
    "max_idle_time",
    "max_session_age",
    "max_sessions",
    "emergency_idle_time",
    "emergency_session_age",
    "max_sessions_per_client",
    "max_unused_time",
]
ALWAYS_ON = [name for name in DEFAULTS if name not in MAY_BE_OFF]
KEYS = {name: SECONDS.get(name, name) for name in DEFAULTS}
ENVIRONMENT = {name: f"OTEL_SESSIONS_{key.upper()}" for name, key in KEYS.items()}

positive_seconds = st.floats(min_value=0, exclude_min=True, allow_infinity=False, allow_nan=False)
not_positive_seconds = st.floats(max_value=0.0, exclude_max=True) | st.sampled_from([math.nan, math.inf, -math.inf])
no_numbers = (
    st.none() | st.text(max_size=5) | st.booleans() | st.complex_numbers() | st.lists(st.integers(), max_size=2)
)

WriteFile = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> WriteFile:
    def write(text: str) -> Path:
        path = tmp_path / "settings.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.fixture
def untold(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process in which nothing has been logged yet."""
    monkeypatch.setattr(config_module, "_told", set())


def made_with(name: str, value: object) -> Any:
    """Return what a setting is after the configuration was made with it."""
    settings: dict[str, Any] = {name: value}
    return getattr(SessionConfig(**settings), name)


class TestInCode:
    def test_the_defaults_are_those_of_the_design(self) -> None:
        assert dataclasses.asdict(SessionConfig()) == DEFAULTS

    @given(name=st.sampled_from(list(SECONDS)), value=positive_seconds)
    def test_a_time_takes_any_positive_finite_float(self, name: str, value: float) -> None:
        assert made_with(name, value) == value

    @pytest.mark.parametrize("name", SECONDS)
    def test_a_time_that_is_given_as_an_int_becomes_a_float(self, name: str) -> None:
        assert isinstance(made_with(name, 7), float)

    @given(name=st.sampled_from(list(SECONDS)), value=not_positive_seconds | st.integers(max_value=-1))
    def test_a_time_is_never_negative_nan_or_infinite(self, name: str, value: float) -> None:
        with pytest.raises(ConfigError, match=rf"^{name} takes .* not {re.escape(repr(value))}$"):
            made_with(name, value)

    @pytest.mark.parametrize("zero", [0, 0.0, -0.0])
    @pytest.mark.parametrize("name", [name for name in SECONDS if name != "drain_timeout"])
    def test_a_time_is_never_zero(self, name: str, zero: float) -> None:
        with pytest.raises(ConfigError, match=rf"^{name} takes a positive, finite number of seconds"):
            made_with(name, zero)

    @pytest.mark.parametrize("zero", [0, 0.0, -0.0])
    def test_the_drain_timeout_may_be_zero(self, zero: float) -> None:
        assert made_with("drain_timeout", zero) == 0.0

    @given(name=st.sampled_from(ALWAYS_ON), value=no_numbers.filter(lambda value: not isinstance(value, bool)))
    def test_a_setting_that_is_always_on_takes_nothing_of_another_type(self, name: str, value: object) -> None:
        with pytest.raises(ConfigError, match=rf"^{name} takes "):
            made_with(name, value)

    @given(name=st.sampled_from(MAY_BE_OFF), value=no_numbers.filter(lambda value: value is not None))
    def test_a_limit_takes_nothing_of_another_type_but_none(self, name: str, value: object) -> None:
        with pytest.raises(ConfigError, match=rf"^{name} takes .* or None, not "):
            made_with(name, value)

    @pytest.mark.parametrize("value", [True, False])
    @pytest.mark.parametrize("name", [*SECONDS, *COUNTS])
    def test_a_bool_is_no_number(self, name: str, value: bool) -> None:
        with pytest.raises(ConfigError, match=rf"^{name} takes .* not {value}$"):
            made_with(name, value)

    @pytest.mark.parametrize("name", [*SECONDS, *COUNTS])
    def test_a_number_in_a_string_is_no_number(self, name: str) -> None:
        with pytest.raises(ConfigError, match=rf"^{name} takes .* not '10'$"):
            made_with(name, "10")

    @pytest.mark.parametrize("name", MAY_BE_OFF)
    def test_the_word_off_is_no_value_in_code(self, name: str) -> None:
        with pytest.raises(ConfigError, match=rf"^{name} takes .* or None, not 'off'$"):
            made_with(name, "off")

    @pytest.mark.parametrize("name", MAY_BE_OFF)
    def test_none_switches_a_limit_off(self, name: str) -> None:
        assert made_with(name, None) is None

    @given(name=st.sampled_from(COUNTS), value=st.integers(min_value=1))
    @example(name="max_sessions", value=10**4000)
    def test_a_count_takes_any_positive_int(self, name: str, value: int) -> None:
        assert made_with(name, value) == value

    @given(name=st.sampled_from(COUNTS), value=st.integers(max_value=0) | st.floats())
    @example(name="max_sessions", value=10.0)
    def test_a_count_takes_no_zero_no_negative_and_no_float(self, name: str, value: float) -> None:
        with pytest.raises(ConfigError, match=rf"^{name} takes a whole number of at least 1"):
            made_with(name, value)

    @pytest.mark.parametrize("value", [0, 1, 1.0, "true", None])
    def test_a_switch_takes_bools_only(self, value: object) -> None:
        with pytest.raises(ConfigError, match=r"^cleanup_on_shutdown takes true or false, not "):
            made_with("cleanup_on_shutdown", value)

    @pytest.mark.parametrize("value", ["Refuse", "evict", "", "off", None, 1, True, EndReason.CLOSED])
    def test_a_word_takes_one_of_its_words_only(self, value: object) -> None:
        with pytest.raises(ConfigError, match=r'^per_client_at_cap takes "refuse" or "evict_oldest", not '):
            made_with("per_client_at_cap", value)

    @pytest.mark.parametrize("value", [PerClientAtCap.EVICT_OLDEST, "evict_oldest"])
    def test_a_word_that_is_given_as_text_becomes_the_word(self, value: str) -> None:
        config = dataclasses.replace(SessionConfig(max_sessions_per_client=2), per_client_at_cap=value)  # type: ignore[arg-type]
        assert config.per_client_at_cap is PerClientAtCap.EVICT_OLDEST

    def test_a_word_in_the_environment_may_be_in_capitals(self) -> None:
        config = SessionConfig.from_env(
            {"OTEL_SESSIONS_PER_CLIENT_AT_CAP": "EVICT_OLDEST", "OTEL_SESSIONS_MAX_SESSIONS_PER_CLIENT": "2"}
        )

        assert config.per_client_at_cap is PerClientAtCap.EVICT_OLDEST

    def test_a_wrong_word_in_the_environment_names_the_variable(self) -> None:
        with pytest.raises(ConfigError, match=r"^OTEL_SESSIONS_PER_CLIENT_AT_CAP takes .* not 'evict'$"):
            SessionConfig.from_env({"OTEL_SESSIONS_PER_CLIENT_AT_CAP": "evict"})

    @pytest.mark.parametrize("digits", [400, 5000])
    @pytest.mark.parametrize("name", SECONDS)
    def test_a_time_beyond_the_range_of_float_is_a_config_error(self, name: str, digits: int) -> None:
        with pytest.raises(ConfigError, match=rf"^{name} takes "):
            made_with(name, 10**digits)

    def test_a_count_with_more_digits_than_python_prints_is_a_config_error(self) -> None:
        with pytest.raises(ConfigError, match=r"^max_sessions takes "):
            made_with("max_sessions", -(10**5000))

    def test_a_config_error_is_a_value_error_and_a_session_error(self) -> None:
        with pytest.raises(ConfigError) as caught:
            made_with("max_sessions", 0)

        assert isinstance(caught.value, ValueError)
        assert isinstance(caught.value, SessionError)

    def test_an_unknown_keyword_is_a_type_error(self) -> None:
        with pytest.raises(TypeError, match="max_sesions"):
            made_with("max_sesions", 5)

    def test_the_settings_are_given_by_name_only(self) -> None:
        make: Callable[..., SessionConfig] = SessionConfig

        with pytest.raises(TypeError, match="positional"):
            make(60.0)

    @pytest.mark.parametrize("name", DEFAULTS)
    def test_a_config_is_frozen(self, name: str) -> None:
        config = SessionConfig()

        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(config, name, 1)

    def test_configs_with_the_same_settings_are_one_value(self) -> None:
        assert (
            len({SessionConfig(max_sessions=5, max_idle_time=10), SessionConfig(max_sessions=5, max_idle_time=10.0)})
            == 1
        )

    def test_replacing_a_setting_checks_it(self) -> None:
        with pytest.raises(ConfigError, match=r"^close_timeout takes"):
            dataclasses.replace(SessionConfig(), close_timeout=0)

    def test_a_cap_with_every_limit_off_warns_the_caller(self) -> None:
        with pytest.warns(UserWarning, match="max_sessions=5 with every limit off") as caught:
            SessionConfig(
                max_sessions=5,
                max_idle_time=None,
                max_session_age=None,
                emergency_idle_time=None,
                emergency_session_age=None,
            )

        assert [warning.filename for warning in caught] == [__file__]

    def test_an_eviction_within_a_client_without_a_cap_for_it_warns_the_caller(self) -> None:
        with pytest.warns(UserWarning, match="does nothing without max_sessions_per_client") as caught:
            SessionConfig(per_client_at_cap="evict_oldest")

        assert [warning.filename for warning in caught] == [__file__]

    @pytest.mark.parametrize(
        "left_on",
        ["max_idle_time", "max_session_age", "max_unused_time", "emergency_idle_time", "emergency_session_age"],
    )
    def test_a_cap_with_any_limit_on_does_not_warn(self, left_on: str) -> None:
        limits: dict[str, Any] = dict.fromkeys(
            ["max_idle_time", "max_session_age", "emergency_idle_time", "emergency_session_age"]
        )

        with warnings.catch_warnings():
            warnings.simplefilter("error")
            SessionConfig(**{**limits, left_on: 10.0})

    def test_no_cap_and_no_limit_is_no_reason_to_warn(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            SessionConfig(
                max_sessions=None,
                max_idle_time=None,
                max_session_age=None,
                emergency_idle_time=None,
                emergency_session_age=None,
            )


class TestFromAFile:
    @pytest.mark.parametrize(
        "text", ["", "[other]\nmax_sessions = 5", "session_name = 'x'\n[[others]]\nmax_sessions = -1", "[session]"]
    )
    def test_a_file_without_settings_gives_the_defaults(self, write: WriteFile, text: str) -> None:
        assert SessionConfig.from_toml(write(text)) == SessionConfig()

    def test_a_file_sets_every_setting(self, write: WriteFile) -> None:
        path = write("""
        [session]
        cleanup_interval_secs = 1
        max_idle_time_secs = 2.5
        max_session_age_secs = "off"
        max_sessions = 4
        cleanup_on_shutdown = false
        emergency_idle_time_secs = 5
        emergency_session_age_secs = 6
        max_sessions_per_client = 7
        close_timeout_secs = 8
        close_concurrency = 9
        drain_timeout_secs = 0
        shutdown_timeout_secs = 11
        max_unused_time_secs = 12
        per_client_at_cap = "evict_oldest"
    """)

        assert SessionConfig.from_toml(path) == SessionConfig(
            cleanup_interval=1,
            max_idle_time=2.5,
            max_session_age=None,
            max_sessions=4,
            cleanup_on_shutdown=False,
            emergency_idle_time=5,
            emergency_session_age=6,
            max_sessions_per_client=7,
            close_timeout=8,
            close_concurrency=9,
            drain_timeout=0,
            shutdown_timeout=11,
            max_unused_time=12,
            per_client_at_cap="evict_oldest",
        )

    def test_a_file_may_be_named_by_a_string(self, write: WriteFile) -> None:
        assert SessionConfig.from_toml(str(write("[session]\nmax_sessions = 5"))).max_sessions == 5

    @given(name=st.sampled_from(list(SECONDS)), value=positive_seconds)
    def test_any_time_comes_back_from_a_file_as_it_was_written(
        self, tmp_path_factory: pytest.TempPathFactory, name: str, value: float
    ) -> None:
        path = tmp_path_factory.getbasetemp() / f"{name}.toml"
        path.write_text(f"[session]\n{KEYS[name]} = {value!r}\n")

        assert getattr(SessionConfig.from_toml(path), name) == value

    @pytest.mark.parametrize("name", MAY_BE_OFF)
    def test_the_word_off_in_a_file_switches_a_limit_off(self, write: WriteFile, name: str) -> None:
        config = SessionConfig.from_toml(write(f'[session]\n{KEYS[name]} = "off"'))

        assert getattr(config, name) is None

    @pytest.mark.parametrize("name", ALWAYS_ON)
    def test_what_is_always_on_is_not_off_in_a_file(self, write: WriteFile, name: str) -> None:
        with pytest.raises(ConfigError, match=rf"^{KEYS[name]} takes .* not 'off'$"):
            SessionConfig.from_toml(write(f'[session]\n{KEYS[name]} = "off"'))

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("cleanup_interval_secs = 0", "cleanup_interval_secs takes a positive, finite number of seconds, not 0"),
            (
                "max_idle_time_secs = -1",
                'max_idle_time_secs takes a positive, finite number of seconds or "off", not -1',
            ),
            (
                "max_idle_time_secs = nan",
                'max_idle_time_secs takes a positive, finite number of seconds or "off", not nan',
            ),
            ("close_timeout_secs = inf", "close_timeout_secs takes a positive, finite number of seconds, not inf"),
            (
                "drain_timeout_secs = -1",
                "drain_timeout_secs takes zero or a positive, finite number of seconds, not -1",
            ),
            ("close_timeout_secs = '5'", "close_timeout_secs takes a positive, finite number of seconds, not '5'"),
            ("close_timeout_secs = true", "close_timeout_secs takes a positive, finite number of seconds, not True"),
            ("max_sessions = 10.0", 'max_sessions takes a whole number of at least 1 or "off", not 10.0'),
            ("max_sessions = '10'", "max_sessions takes a whole number of at least 1 or \"off\", not '10'"),
            ("max_sessions = true", 'max_sessions takes a whole number of at least 1 or "off", not True'),
            ("close_concurrency = 0", "close_concurrency takes a whole number of at least 1, not 0"),
            ("cleanup_on_shutdown = 1", "cleanup_on_shutdown takes true or false, not 1"),
            ("cleanup_on_shutdown = 'true'", "cleanup_on_shutdown takes true or false, not 'true'"),
        ],
    )
    def test_a_wrong_value_in_a_file_is_an_error_that_names_its_key(
        self, write: WriteFile, line: str, message: str
    ) -> None:
        with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
            SessionConfig.from_toml(write(f"[session]\n{line}"))

    @pytest.mark.parametrize("name", MAY_BE_OFF)
    def test_a_date_in_a_file_is_no_limit(self, write: WriteFile, name: str) -> None:
        with pytest.raises(ConfigError, match=rf"^{KEYS[name]} takes "):
            SessionConfig.from_toml(write(f"[session]\n{KEYS[name]} = 2026-01-01"))

    @pytest.mark.parametrize("digits", [400, 4300, 5000])
    def test_a_huge_int_in_a_file_is_a_config_error(self, write: WriteFile, digits: int) -> None:
        with pytest.raises(ConfigError):
            SessionConfig.from_toml(write(f"[session]\nmax_idle_time_secs = {'9' * digits}"))

    @pytest.mark.parametrize("key", ["max_idle_time", "max_sessions_secs", "MAX_SESSIONS", "max_sesions"])
    def test_an_unknown_key_in_a_file_is_an_error_that_names_it_and_the_known_ones(
        self, write: WriteFile, key: str
    ) -> None:
        with pytest.raises(ConfigError, match=rf"^\[session\] has no key '{key}'; it takes .*max_idle_time_secs, "):
            SessionConfig.from_toml(write(f"[session]\n{key} = 5"))

    @pytest.mark.parametrize("text", ["session = 5", "[[session]]\nmax_sessions = 5", "session = 'off'"])
    def test_a_session_that_is_no_table_is_an_error(self, write: WriteFile, text: str) -> None:
        with pytest.raises(ConfigError, match=r"settings\.toml: session takes a table, \[session\], not "):
            SessionConfig.from_toml(write(text))

    @pytest.mark.parametrize("content", [b"[session", b"max_sessions: 5", b"\xff\xfe[session]", b"x = " + b"[" * 9999])
    def test_a_file_that_is_not_toml_is_an_error_that_names_it(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "settings.toml"
        path.write_bytes(content)

        with pytest.raises(ConfigError, match=rf"^{re.escape(os.fspath(path))} is not TOML: "):
            SessionConfig.from_toml(path)

    def test_a_byte_order_mark_at_the_start_of_a_file_does_not_count(self, tmp_path: Path) -> None:
        path = tmp_path / "settings.toml"
        path.write_bytes(b"\xef\xbb\xbf[session]\r\nmax_sessions = 5\r\n")

        assert SessionConfig.from_toml(path).max_sessions == 5

    def test_a_file_that_is_not_there_is_an_os_error(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            SessionConfig.from_toml(tmp_path / "missing.toml")

    def test_a_file_with_a_cap_and_every_limit_off_warns(self, write: WriteFile) -> None:
        path = write("""
        [session]
        max_idle_time_secs = "off"
        max_session_age_secs = "off"
        emergency_idle_time_secs = "off"
        emergency_session_age_secs = "off"
    """)

        with pytest.warns(UserWarning, match="every limit off"):
            SessionConfig.from_toml(path)


class TestFromTheEnvironment:
    def test_an_empty_environment_gives_the_defaults(self) -> None:
        assert SessionConfig.from_env({}) == SessionConfig()

    def test_the_environment_of_the_process_is_read_unless_another_is_given(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("OTEL_SESSIONS_MAX_SESSIONS", "5")

        assert SessionConfig.from_env().max_sessions == 5

    def test_the_environment_sets_every_setting(self) -> None:
        environ = {
            "OTEL_SESSIONS_CLEANUP_INTERVAL_SECS": "1",
            "OTEL_SESSIONS_MAX_IDLE_TIME_SECS": "2.5",
            "OTEL_SESSIONS_MAX_SESSION_AGE_SECS": "off",
            "OTEL_SESSIONS_MAX_SESSIONS": "4",
            "OTEL_SESSIONS_CLEANUP_ON_SHUTDOWN": "false",
            "OTEL_SESSIONS_EMERGENCY_IDLE_TIME_SECS": "5",
            "OTEL_SESSIONS_EMERGENCY_SESSION_AGE_SECS": "6",
            "OTEL_SESSIONS_MAX_SESSIONS_PER_CLIENT": "7",
            "OTEL_SESSIONS_CLOSE_TIMEOUT_SECS": "8",
            "OTEL_SESSIONS_CLOSE_CONCURRENCY": "9",
            "OTEL_SESSIONS_DRAIN_TIMEOUT_SECS": "0",
            "OTEL_SESSIONS_SHUTDOWN_TIMEOUT_SECS": "11",
        }

        assert SessionConfig.from_env(environ) == SessionConfig(
            cleanup_interval=1,
            max_idle_time=2.5,
            max_session_age=None,
            max_sessions=4,
            cleanup_on_shutdown=False,
            emergency_idle_time=5,
            emergency_session_age=6,
            max_sessions_per_client=7,
            close_timeout=8,
            close_concurrency=9,
            drain_timeout=0,
            shutdown_timeout=11,
        )

    @given(name=st.sampled_from(list(SECONDS)), value=positive_seconds)
    def test_any_time_comes_back_from_the_environment_as_it_was_written(self, name: str, value: float) -> None:
        assert getattr(SessionConfig.from_env({ENVIRONMENT[name]: repr(value)}), name) == value

    @pytest.mark.parametrize("word", ["off", "OFF", " Off "])
    @pytest.mark.parametrize("name", MAY_BE_OFF)
    def test_the_word_off_in_the_environment_switches_a_limit_off(self, name: str, word: str) -> None:
        assert getattr(SessionConfig.from_env({ENVIRONMENT[name]: word}), name) is None

    @pytest.mark.parametrize("name", [name for name in ALWAYS_ON if name != "cleanup_on_shutdown"])
    def test_what_is_always_on_is_not_off_in_the_environment(self, name: str) -> None:
        with pytest.raises(ConfigError, match=rf"^{ENVIRONMENT[name]} takes .* not 'off'$"):
            SessionConfig.from_env({ENVIRONMENT[name]: "off"})

    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("true", True),
            ("True", True),
            ("1", True),
            ("yes", True),
            ("on", True),
            ("false", False),
            ("FALSE", False),
            ("0", False),
            ("no", False),
            ("off", False),
        ],
    )
    def test_a_switch_in_the_environment_is_a_word_or_a_digit(self, text: str, value: bool) -> None:
        assert SessionConfig.from_env({"OTEL_SESSIONS_CLEANUP_ON_SHUTDOWN": text}).cleanup_on_shutdown is value

    @pytest.mark.parametrize("text", ["2", "maybe", "None", "-1"])
    def test_another_word_in_the_environment_is_no_switch(self, text: str) -> None:
        message = f"^OTEL_SESSIONS_CLEANUP_ON_SHUTDOWN takes true or false, not '{text}'$"
        with pytest.raises(ConfigError, match=message):
            SessionConfig.from_env({"OTEL_SESSIONS_CLEANUP_ON_SHUTDOWN": text})

    @pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "-inf", "1e999", "9" * 400, "true", "soon", "1,5"])
    @pytest.mark.parametrize("name", [name for name in SECONDS if name != "drain_timeout"])
    def test_a_wrong_time_in_the_environment_is_an_error_that_names_its_variable(self, name: str, text: str) -> None:
        with pytest.raises(ConfigError, match=f"^{ENVIRONMENT[name]} takes a positive, finite number of seconds"):
            SessionConfig.from_env({ENVIRONMENT[name]: text})

    @pytest.mark.parametrize("text", ["0", "-1", "10.0", "1e3", "inf", "true", "many", "9" * 5000])
    @pytest.mark.parametrize("name", COUNTS)
    def test_a_wrong_count_in_the_environment_is_an_error_that_names_its_variable(self, name: str, text: str) -> None:
        with pytest.raises(ConfigError, match=f"^{ENVIRONMENT[name]} takes a whole number of at least 1"):
            SessionConfig.from_env({ENVIRONMENT[name]: text})

    @pytest.mark.parametrize("text", ["", " ", "\t"])
    @pytest.mark.parametrize("name", DEFAULTS)
    def test_an_empty_variable_counts_as_unset(self, name: str, text: str) -> None:
        assert SessionConfig.from_env({ENVIRONMENT[name]: text}) == SessionConfig()

    @pytest.mark.parametrize(
        "variable", ["OTEL_SESSIONS_PORT", "OTEL_SESSIONS_MAX_IDLE_TIME", "otel_sessions_max_sessions", "MAX_SESSIONS"]
    )
    def test_an_unknown_name_in_the_environment_sets_nothing(self, variable: str) -> None:
        assert SessionConfig.from_env({variable: "tcp://10.0.0.1:80"}) == SessionConfig()

    @pytest.mark.parametrize(
        ("variable", "similar"),
        [
            ("OTEL_SESSIONS_MAX_SESIONS", "OTEL_SESSIONS_MAX_SESSIONS"),
            ("OTEL_SESSIONS_MAX_IDLE_TIME", "OTEL_SESSIONS_MAX_IDLE_TIME_SECS"),
            ("OTEL_SESSIONS_close_concurrency", "OTEL_SESSIONS_CLOSE_CONCURRENCY"),
            ("OTEL_SESSIONS_PORTS", "OTEL_SESSIONS_"),
            ("OTEL_SESSIONS_", "OTEL_SESSIONS_"),
            ("OTEL_SESSIONS_SERVICE", "OTEL_SESSIONS_"),
        ],
    )
    def test_an_unknown_variable_is_logged_once_with_the_most_similar_known_name(
        self, variable: str, similar: str, caplog: pytest.LogCaptureFixture, untold: None
    ) -> None:
        for _ in range(3):
            SessionConfig.from_env({variable: "secret", "OTEL_SESSIONS_MAX_SESSIONS": "5"})

        assert [(record.name, record.levelname) for record in caplog.records] == [("otel_sessions", "WARNING")]
        assert f"{variable}; did you mean {similar}" in caplog.text
        assert "secret" not in caplog.text

    @pytest.mark.parametrize(
        "variable",
        [
            "OTEL_SESSIONS_PORT",
            "OTEL_SESSIONS_PORT_8080_TCP_ADDR",
            "OTEL_SESSIONS_SERVICE_HOST",
            "OTEL_SESSIONS_SERVICE_PORT_HTTP",
            "OTEL_SESSIONS_GATEWAY_SERVICE_HOST",
            "OTEL_SESSIONS_PROXY_LISTEN",
            "OTEL_SESSIONS_ADMIN_TOKEN",
            "OTEL_SESSIONS_FLEET_URL",
            "OTEL_SESSIONS_DEMO_ANYTHING",
            "OTEL_SESSIONS",
            "OTEL_EXPORTER_OTLP_ENDPOINT",
        ],
    )
    def test_what_kubernetes_sets_and_what_our_programs_read_is_not_logged(
        self, variable: str, caplog: pytest.LogCaptureFixture, untold: None
    ) -> None:
        SessionConfig.from_env({variable: "x"})

        assert caplog.text == ""

    def test_every_setting_says_what_it_does_and_in_which_unit(self) -> None:
        for field in dataclasses.fields(SessionConfig):
            assert field.metadata["help"]
            assert field.metadata["unit"]

    def test_the_environment_goes_over_the_file(self, write: WriteFile) -> None:
        file = SessionConfig.from_toml(write("[session]\nmax_sessions = 5\nmax_idle_time_secs = 6"))

        config = SessionConfig.from_env({"OTEL_SESSIONS_MAX_SESSIONS": "7"}, base=file)

        assert config == SessionConfig(max_sessions=7, max_idle_time=6)
