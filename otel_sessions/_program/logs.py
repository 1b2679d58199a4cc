"""What our programs write to stderr: their log, and errors of one line."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Final


class _JsonLines(logging.Formatter):
    """One line of JSON for each record, for programs that collect the logs of containers."""

    def format(self, record: logging.LogRecord) -> str:
        said = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if event := vars(record).get("event.name"):
            said["event"] = event
        if record.exc_info:
            said["exception"] = self.formatException(record.exc_info)
        return json.dumps(said)


_FORMATS: Final = {
    "text": logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"),
    "json": _JsonLines(),
    "message": logging.Formatter("%(message)s"),
}


def log_to_stderr(log_format: str = "text", *, shown: int = logging.INFO) -> None:
    """Write records of level `shown` and above to stderr, as `text`, `json` or the `message` alone.

    Other handlers get the records of level `INFO` and above. Dropped are the HTTP client's line about each request, and
    what the store's client says of its connections, with tracebacks: our own lines say what it means.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setLevel(shown)
    handler.setFormatter(_FORMATS[log_format])
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    logging.getLogger("coredis").setLevel(logging.CRITICAL)


def complain(text: object) -> None:
    """Write an error to stderr, in one line."""
    sys.stderr.write(f"otel-sessions: {text}\n")
