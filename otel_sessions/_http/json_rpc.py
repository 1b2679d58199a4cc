"""Which method a JSON-RPC message calls, from the start of its body.

A whole message is parsed. If only the start of a message is there, the start is scanned. A string is one token, so text
inside a value is never read as a key of the message. If the start does not tell the method, the result is None.
"""

import json
import re
from collections.abc import Iterator
from typing import Final

_TOKENS: Final = re.compile(rb'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s"{}\[\],:]+|"', re.DOTALL)
"""Strings, marks and other values. A lone quote begins a string whose end is missing."""


def calls(start: bytes, method: str, *, complete: bool) -> bool | None:
    """Return whether a message, or a message of a batch, calls `method`, or None if `start` does not tell.

    `complete` is True if `start` is the whole body. A whole body without a method calls no method.
    """
    if complete:
        return method in _methods(start)
    return next((found == method for found in _first_methods(start)), None)


def _methods(body: bytes) -> list[object]:
    """Return the methods that a whole body calls."""
    try:
        message = json.loads(body)
    except (ValueError, RecursionError):  # the app's parser may still accept the body
        return list(_first_methods(body))
    messages = message if isinstance(message, list) else [message]
    return [each.get("method") for each in messages if isinstance(each, dict)]


def _first_methods(start: bytes) -> Iterator[object]:
    """Return the values of the key `method` at the top level of one message. A batch gives no values."""
    before: tuple[bytes, bytes] = (b"", b"")
    for token in _top_tokens(start):
        key, colon = before
        if colon == b":" and _text(key) == "method":
            yield _text(token)
        before = (colon, token)


def _top_tokens(start: bytes) -> Iterator[bytes]:
    """Return the tokens at the top level of an object. A nested object or list gives only its first mark."""
    depth = 0
    for found in _TOKENS.finditer(start):
        token = found.group()
        if token == b'"' or (depth == 0 and token != b"{"):
            return
        if depth == 1 and token != b"}":
            yield token
        depth += (token in (b"{", b"[")) - (token in (b"}", b"]"))


def _text(token: bytes) -> object:
    """Return the text of a string token, or None for another token."""
    try:
        return json.loads(token) if token.startswith(b'"') else None
    except ValueError:
        return None
