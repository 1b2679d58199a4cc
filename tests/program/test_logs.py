"""What our programs say on stderr."""

import json
import logging
from collections.abc import Callable, Iterator

import pytest

from otel_sessions._program.logs import complain, log_to_stderr

LOGGER = logging.getLogger("otel_sessions.proxy")


Start = Callable[..., None]


@pytest.fixture
def start() -> Iterator[Start]:
    """Log to stderr as a program does, in which nobody has set up a log."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level

    def start(log_format: str = "text", *, shown: int = logging.INFO) -> None:
        root.handlers[:] = []
        log_to_stderr(log_format, shown=shown)

    yield start
    root.handlers[:] = before
    root.setLevel(level)


class Exporter(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def test_a_line_of_text_has_its_time_its_level_and_who_says_it(
    start: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    start()
    LOGGER.info("listening on %s", "127.0.0.1:8080")

    day, time, rest = capsys.readouterr().err.split(" ", 2)
    assert rest == "INFO otel_sessions.proxy: listening on 127.0.0.1:8080\n"
    assert (day.count("-"), time.count(":")) == (2, 2)


@pytest.mark.parametrize("name", ["coredis", "coredis.pool"])
def test_what_the_client_of_a_store_says_is_left_out(
    name: str, start: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    exporter = Exporter()
    start()
    logging.getLogger().addHandler(exporter)
    logging.getLogger(name).info("Retry attempt 1")
    logging.getLogger(name).error("Connection attempt failed unexpectedly!")

    assert (capsys.readouterr().err, exporter.messages) == ("", [])


def test_a_line_of_json_has_the_same_and_the_traceback(start: Start, capsys: pytest.CaptureFixture[str]) -> None:
    start("json")
    LOGGER.info("well")
    try:
        raise ZeroDivisionError("by nothing")
    except ZeroDivisionError:
        LOGGER.exception("failed")

    well, failed = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert {**well, "time": ""} == {"time": "", "level": "INFO", "logger": "otel_sessions.proxy", "message": "well"}
    assert failed["exception"].endswith("ZeroDivisionError: by nothing")


def test_a_message_alone_is_nothing_but_the_message(start: Start, capsys: pytest.CaptureFixture[str]) -> None:
    start("message")
    LOGGER.info("phase %s", "burst")

    assert capsys.readouterr().err == "phase burst\n"


def test_what_is_not_shown_still_reaches_who_exports_it(
    start: Start,
    capsys: pytest.CaptureFixture[str],
) -> None:
    exporter = Exporter()
    start("message", shown=logging.WARNING)
    logging.getLogger().addHandler(exporter)
    LOGGER.info("quiet")
    LOGGER.warning("loud")

    assert capsys.readouterr().err == "loud\n"
    assert exporter.messages == ["quiet", "loud"]


def test_a_client_does_not_log_each_of_its_requests(start: Start, capsys: pytest.CaptureFixture[str]) -> None:
    start()
    logging.getLogger("httpx2").info("HTTP Request: GET / 200")

    assert capsys.readouterr().err == ""


def test_a_complaint_is_a_line_that_says_whose_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    complain(ValueError("--port takes a port"))

    assert capsys.readouterr().err == "otel-sessions: --port takes a port\n"


def test_a_line_of_json_has_the_name_of_its_event(start: Start, capsys: pytest.CaptureFixture[str]) -> None:
    start("json")
    LOGGER.info("well", extra={"event.name": "otel_sessions.proxy.listens"})
    LOGGER.info("a line without an event")

    told, untold = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert told["event"] == "otel_sessions.proxy.listens"
    assert "event" not in untold
