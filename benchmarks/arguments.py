"""What the programs here take on their command lines."""

import argparse
from collections.abc import Callable


def at_least(least: int) -> Callable[[str], int]:
    """Return what reads a whole number from `least` on; anything else is argparse's line of error, and status 2."""

    def read(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"takes a whole number of at least {least}, not {text}")
        return int(text)

    return read
