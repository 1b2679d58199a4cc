"""Which method a JSON-RPC message calls, from the start of its body.

A message that is there as a whole is parsed. Of a longer one the start is scanned: a string is one token, so nothing
inside a value is taken for a key of the message. What the start does not tell is None, never a guess.
"""

import json
import re
from collections.abc import Iterator
from typing import Final

_TOKENS: Final = re.compile(rb'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s"{}\[\],:]+|"', re.DOTALL)
"""Strings, marks and other values; a lone quote begins a string whose end is not there."""


def calls(start: bytes, method: str, *, complete: bool) -> bool | None:
    """Return whether a message, or one of a batch, calls `method`; None if `start` does not tell.

    `complete` says that `start` is the whole body. A whole body without a method calls nothing.
    """
    if complete:
        return method in _methods(start)
    return next((found == method for found in _first_methods(start)), None)


def _methods(body: bytes) -> list[object]:
    """Return what a whole body calls."""
    try:
        message = json.loads(body)
    except (ValueError, RecursionError):  # the app may still read it: parsers differ in what they take
        return list(_first_methods(body))
    messages = message if isinstance(message, list) else [message]
    return [each.get("method") for each in messages if isinstance(each, dict)]


def _first_methods(start: bytes) -> Iterator[object]:
    """Return the values of the key `method` at the top of one message; a batch has no top."""
    before: tuple[bytes, bytes] = (b"", b"")
    for token in _top_tokens(start):
        key, colon = before
        if colon == b":" and _text(key) == "method":
            yield _text(token)
        before = (colon, token)


def _top_tokens(start: bytes) -> Iterator[bytes]:
    """Return the tokens between the braces of an object; each object or list among them is its first mark alone."""
    depth = 0
    for found in _TOKENS.finditer(start):
        token = found.group()
        if token == b'"' or (depth == 0 and token != b"{"):
            return
        if depth == 1 and token != b"}":
            yield token
        depth += (token in (b"{", b"[")) - (token in (b"}", b"]"))


def _text(token: bytes) -> object:
    """Return the text of a string token, None for anything else."""
    try:
        return json.loads(token) if token.startswith(b'"') else None
    except ValueError:
        return None
