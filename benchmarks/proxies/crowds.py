"""Clients of a proxy with several workers, as scripts for wrk, in Lua.

A thread of wrk has one connection here, and so it is one client.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Final

import httpx2

from . import asked
from .asked import Request
from .wrk import script

CLIENTS: Final = 32
SPREAD_OVER: Final = 64
"""Sessions without affinity. Each was opened over a connection of its own, so they are everywhere."""
_ID: Final = "mcp-session-id"


class Crowd(StrEnum):
    """How clients of several workers come."""

    KEPT = "clients that keep their connection"
    ANYWHERE = "connections that lead anywhere"
    SPREAD = "requests that lead anywhere"


class NoSession(Exception):
    """The proxy has opened no session. Says what came instead."""


_KEPT_LUA: Final = """
local opening, id = true, nil
function request()
  if opening then
    return wrk.format("POST", OPENING_PATH, OPENING_HEADERS, OPENING_BODY)
  end
  return wrk.format()
end
function response(status, headers, body)
  if opening then
    for name, value in pairs(headers) do
      if name:lower() == "mcp-session-id" then id = value end
    end
    if id then
      wrk.headers["mcp-session-id"] = id
      opening = false
    end
  end
end
"""
"""Opens a session over its own connection, and stays in it."""
_ANYWHERE_LUA: Final = """
local turn = 0
function setup(thread)
  thread:set("number", turn)
  turn = turn + 1
end
function init(arguments)
  wrk.headers["mcp-session-id"] = IDS[number % #IDS + 1]
end
"""
"""Stays in one session, wherever its connection leads."""
_SPREAD_LUA: Final = """
local turn = 0
function setup(thread)
  thread:set("number", turn)
  turn = turn + 1
end
function request()
  number = number + 1
  wrk.headers["mcp-session-id"] = IDS[number % #IDS + 1]
  return wrk.format()
end
"""
"""Takes one session after the other, wherever its connection leads."""


def kept() -> str:
    """Return the script of a client that keeps its connection."""
    opening = asked.initialize("/mcp")
    return "\n".join(
        [
            script(asked.post()),
            f"OPENING_PATH = {_text(opening.path)}",
            f"OPENING_HEADERS = {_table(opening.headers)}",
            f"OPENING_BODY = {_text(opening.body)}",
            _KEPT_LUA,
        ]
    )


def anywhere(ids: Sequence[str]) -> str:
    """Return the script of a client that stays in one of these sessions."""
    return _using(ids, _ANYWHERE_LUA)


def spread(ids: Sequence[str]) -> str:
    """Return the script of a client whose requests are in another session each, as behind a balancer of requests."""
    return _using(ids, _SPREAD_LUA)


def _using(ids: Sequence[str], lua: str) -> str:
    return "\n".join([script(asked.post()), f"IDS = {{{', '.join(map(_text, ids))}}}", lua])


def opened(url: str, count: int = SPREAD_OVER) -> Iterator[str]:
    """Open so many sessions, each over a connection of its own, and yield their ids. Raises `NoSession`."""
    request = asked.initialize("/mcp")
    for _ in range(count):
        answer = _answer(url, request)
        if answer.status_code != 200 or _ID not in answer.headers:
            raise NoSession(f"{request.path} is answered {answer.status_code}: {answer.text[:150]}")
        yield answer.headers[_ID]


def _answer(url: str, request: Request) -> httpx2.Response:
    return httpx2.request(
        request.method, url + request.path, headers=dict(request.headers), content=request.body, trust_env=False
    )


def _table(values: Mapping[str, str]) -> str:
    return "{" + ", ".join(f"[{_text(name)}] = {_text(value)}" for name, value in values.items()) + "}"


def _text(value: str) -> str:
    """Return printable ASCII as a string of Lua, which has JSON's escapes for it."""
    return json.dumps(value)
