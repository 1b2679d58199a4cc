"""Errors of the admin API: problem details (RFC 9457) that say what to do, and repeat nothing that the client sent."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import Request

from otel_sessions._core.exceptions import ConfigError, ManagerClosed

from ._merged import Said, ended, processes

MEDIA_TYPE: Final = "application/problem+json"
_FAILED: Final = "the request failed here; the log of the server says why"
_ADVICE: Final = {
    HTTPStatus.NOT_FOUND: "there is no such path; /v1/openapi.json lists the paths",
    HTTPStatus.METHOD_NOT_ALLOWED: "the path does not take this method; the header Allow lists its methods",
}
_NOT_READ: Final = "the body cannot be read; send JSON in UTF-8 as application/json"
_MOST_NAMED: Final = 5
"""How many mistakes an answer names."""


class Problem(BaseModel):
    """An error: its HTTP status in numbers and in words, and in `detail` what to do."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str


class NotEverywhere(Exception):
    """Something was not done in all processes. The text says what to do; `said` is what each process has said."""

    def __init__(self, what: str, said: Sequence[Said]) -> None:
        missing = ", ".join(f"{one.name} ({one.error})" for one in said if one.answer is None)
        super().__init__(f"{what}; not reached: {missing}; ask again when each process answers")
        self.said = said


def problem(
    status: HTTPStatus, detail: str, headers: Mapping[str, str] | None = None, members: Mapping[str, Any] | None = None
) -> JSONResponse:
    """Return the answer with a problem. `members` are what RFC 9457 calls extension members (section 3.2)."""
    content = {**Problem(title=status.phrase, status=status, detail=detail).model_dump(), **(members or {})}
    return JSONResponse(content, status, {"cache-control": "no-store", **(headers or {})}, media_type=MEDIA_TYPE)


def documented(*statuses: HTTPStatus) -> dict[int | str, dict[str, Any]]:
    """Return the description of these errors for OpenAPI."""
    schema = Problem.model_json_schema()
    return {
        status.value: {"description": status.phrase, "content": {MEDIA_TYPE: {"schema": schema}}} for status in statuses
    }


def handle_problems(app: FastAPI) -> None:
    """Let an app answer every error as a problem."""

    @app.exception_handler(HTTPException)
    async def of_http(_request: Request, error: HTTPException) -> JSONResponse:
        status = HTTPStatus(error.status_code)
        detail = _NOT_READ if status is HTTPStatus.BAD_REQUEST else error.detail
        if detail == status.phrase:
            detail = _ADVICE[status]
        return problem(status, detail, error.headers)

    @app.exception_handler(RequestValidationError)
    async def of_request(_request: Request, error: RequestValidationError) -> JSONResponse:
        wrong = "; ".join(dict.fromkeys(map(_described, error.errors()[:_MOST_NAMED])))
        return problem(HTTPStatus.UNPROCESSABLE_ENTITY, wrong)

    @app.exception_handler(ConfigError)
    async def of_setting(_request: Request, error: ConfigError) -> JSONResponse:
        return problem(HTTPStatus.UNPROCESSABLE_ENTITY, str(error))

    @app.exception_handler(ManagerClosed)
    async def of_manager(_request: Request, error: ManagerClosed) -> JSONResponse:
        return problem(HTTPStatus.SERVICE_UNAVAILABLE, f"{error}; try again when /readyz answers 200")

    @app.exception_handler(NotEverywhere)
    async def of_processes(_request: Request, error: NotEverywhere) -> JSONResponse:
        done = {"ended": ended(error.said), "processes": processes(error.said)}
        return problem(HTTPStatus.SERVICE_UNAVAILABLE, str(error), members=done)

    @app.exception_handler(Exception)
    async def of_program(_request: Request, _error: Exception) -> JSONResponse:
        return problem(HTTPStatus.INTERNAL_SERVER_ERROR, _FAILED)


def _described(error: Mapping[str, Any]) -> str:
    """Return what is wrong with one part of a request. The part's name is ours, unless the part is unknown."""
    place, *names = (str(name) for name in error["loc"])
    if error["type"] == "extra_forbidden":
        return f"{place}: it has a name that is not known here; /v1/openapi.json lists the names"
    if error["type"].startswith("json"):
        return "body: it is not JSON"
    return f"{place} {'.'.join(names)}: {error['msg']}"
