"""Questions of admin tools on their way between processes: the words of `_engine.inquiries`, as bytes.

A question stands in the query of its request, so the signature of the request covers all of it. The question is about
the process itself, not about a session: it names no session. What the answer of a manager raises, the answer says.
"""

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from typing import Final

from otel_sessions._core.exceptions import ConfigError, ManagerClosed
from otel_sessions._engine.inquiries import Answer, Ask, answer
from otel_sessions._engine.manager import SessionManager
from otel_sessions._engine.owners import NotAnswered
from otel_sessions.matchers import Scope

ITSELF: Final = ""
"""In place of the session's id. No exchange of a client is passed on with it, since a hint is missing."""
METHOD: Final = "PUT"
"""A question may be sent again: to end what is ended, and to clean up what is clean, changes nothing."""
_MARK: Final = b"otel-sessions-question="
_WRONG: Final = "wrong"
_CLOSED: Final = "closed"


def query_of(ask: Ask, given: Mapping[str, object]) -> bytes:
    """Return the query of the request with a question."""
    return _MARK + urlsafe_b64encode(json.dumps([ask, given]).encode())


def is_question(scope: Scope) -> bool:
    """Return whether a request has the form of a question, whoever has sent it."""
    query = scope.get("query_string")
    return query is not None and scope["type"] == "http" and bytes(query).startswith(_MARK)


async def answer_to(query: bytes, manager: SessionManager[object]) -> bytes:
    """Return the answer to a question in a query, as bytes. Raises `ValueError` if the question is not understood."""
    word, given = json.loads(urlsafe_b64decode(query.removeprefix(_MARK)))
    try:
        said: Answer = {"answer": await answer(manager, Ask(word), given)}
    except ConfigError as error:
        said = {_WRONG: str(error)}
    except ManagerClosed as error:
        said = {_CLOSED: str(error)}
    return json.dumps(said).encode()


def answer_in(body: bytes) -> Answer:
    """Return what a process has answered. Raises `ConfigError` for a wrong keyword, and `NotAnswered`."""
    said = json.loads(body)
    if _WRONG in said:
        raise ConfigError(said[_WRONG])
    if _CLOSED in said:
        raise NotAnswered(said[_CLOSED])
    answered: Answer = said["answer"]
    return answered
