"""What the programs here take on their command lines."""

import argparse


def count(text: str) -> int:
    """Return a whole number of at least 1; anything else is argparse's one line of error, and status 2."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"takes a whole number of at least 1, not {text}")
    return int(text)
