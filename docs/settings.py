"""Writes docs/reference/settings.md from the options in the code: `python docs/settings.py`."""

from pathlib import Path

from otel_sessions._program.page import page
from otel_sessions.proxy.options import TABLES

if __name__ == "__main__":
    (Path(__file__).parent / "reference/settings.md").write_text(page(TABLES), encoding="utf-8")
