"""One line on a terminal's stderr that says how far a run is, and nothing anywhere else."""

import sys


def progress(text: str) -> None:
    """Show the line in place of the one before; an empty one ends it."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
