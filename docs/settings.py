"""The page of settings, from the options in the code."""

from pathlib import Path
from typing import Final

from otel_sessions._program import page as written
from otel_sessions.proxy.options import TABLES

PATH: Final = Path(__file__).parent / "reference" / "settings.md"


def page() -> str:
    """Return the page as it should be now."""
    return written.page(TABLES)
