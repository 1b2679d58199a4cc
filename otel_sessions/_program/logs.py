"""What our programs say on stderr: their log, and what is wrong in a line."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Final


class _JsonLines(logging.Formatter):
    """A line a record, as JSON, for whoever collects the logs of containers."""

    def format(self, record: logging.LogRecord) -> str:
        said = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            said["exception"] = self.formatException(record.exc_info)
        return json.dumps(said)


_FORMATS: Final = {
    "text": logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"),
    "json": _JsonLines(),
    "message": logging.Formatter("%(message)s"),
}


def log_to_stderr(log_format: str = "text", *, shown: int = logging.INFO) -> None:
    """Write records from level `shown` on to stderr, as `text`, `json` or the `message` alone.

    Records of level `INFO` reach whoever exports them, whatever is shown. Clients' lines about each request do not.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setLevel(shown)
    handler.setFormatter(_FORMATS[log_format])
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("httpx2").setLevel(logging.WARNING)


def complain(text: object) -> None:
    """Say on stderr, in a line, what is wrong."""
    sys.stderr.write(f"otel-sessions: {text}\n")
