"""The requests of the admin API, each a question to all processes. Every change is logged: who asked, what came of it.

The version stands in the path. Within a version, answers gain fields but lose none.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from typing import Annotated, Any, Final

from fastapi import APIRouter, FastAPI, Path, Query, Security
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException
from starlette.requests import Request

from otel_sessions._core.events import Event
from otel_sessions._core.exceptions import ConfigError
from otel_sessions._engine.inquiries import Ask
from otel_sessions._engine.manager import SessionManager
from otel_sessions._version import __version__

from . import _merged
from ._answers import (
    Config,
    ConfigChange,
    Ended,
    Filters,
    Health,
    Lately,
    OfClient,
    Page,
    PassLimits,
    PreviewOrNot,
    Recent,
    Report,
    Shown,
    Statistics,
)
from ._everyone import Everyone
from ._gate import Access, Gate
from ._merged import Said
from ._page import page
from ._problems import NotEverywhere, documented, handle_problems

_logger = logging.getLogger("otel_sessions.admin")

Fingerprint = Annotated[
    str, Path(pattern="^[0-9a-f]{16}$", description="The fingerprint of the session's id, as logs and lists show it.")
]
_REFUSALS: Final = documented(
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.FORBIDDEN,
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.MISDIRECTED_REQUEST,
    HTTPStatus.UNPROCESSABLE_ENTITY,
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.SERVICE_UNAVAILABLE,
)
_NOT_FOUND: Final = "no session has this fingerprint; it may have ended: see /v1/recent"
_NOT_READY: Final = "the manager takes no new sessions: it was not entered, is shutting down, or has ended"
_OF_THE_FLEET: Final = (
    "each process of a fleet has a cap of its own, which a restart brings back; change it in the configuration"
)


def admin_app(manager: SessionManager[Any], *, token: str, allowed_hosts: Iterable[str] | None = None) -> FastAPI:
    """Return the admin API of a manager, to be mounted in an app that runs on the manager's event loop.

    If the manager has a `fleet`, each answer is that of all its processes, and says which processes were reached.

    `token` is the secret that every request shows as `Authorization: Bearer TOKEN`, except `/livez` and `/readyz`. If
    `allowed_hosts` is given, a request must name one of these hosts in its header `Host`. Raises `ConfigError` if the
    token is blank or has white space in it.
    """
    hosts = None if allowed_hosts is None else frozenset(host.lower() for host in allowed_hosts)
    return app_for(manager, Access(token=checked_token(token), allowed_hosts=hosts), lambda: True)


def checked_token(token: object) -> str:
    """Return a token. Raises `ConfigError`, which does not repeat the token, if it is no token."""
    if not isinstance(token, str) or not token.isascii() or not token.isprintable() or token.split() != [token]:
        raise ConfigError(
            "token takes a secret of visible ASCII characters without spaces, as secrets.token_urlsafe makes"
        )
    return token


def app_for(manager: SessionManager[Any], access: Access, may_be_ready: Callable[[], bool]) -> FastAPI:
    """Return the admin API for whoever `access` lets in. It is not ready unless `may_be_ready` returns True."""
    app = FastAPI(
        title="otel-sessions admin",
        version=__version__,
        openapi_url="/v1/openapi.json",
        docs_url=None,  # its page would load scripts from another host
        redoc_url=None,
        redirect_slashes=False,
    )
    handle_problems(app)
    app.include_router(page())
    app.include_router(_probes(manager, may_be_ready))
    everyone = Everyone(manager)
    app.include_router(_seen(everyone))
    app.include_router(_ended(everyone))
    app.include_router(_cleaned(everyone))
    app.include_router(_configured(manager, everyone))
    app.add_middleware(Gate, access=access)
    return app


def _probes(manager: SessionManager[Any], may_be_ready: Callable[[], bool]) -> APIRouter:
    router = APIRouter(tags=["probes"])

    @router.get("/livez")
    async def is_live() -> Health:
        """Say that the event loop turns. Needs no token."""
        return Health()

    @router.get("/readyz", responses=documented(HTTPStatus.SERVICE_UNAVAILABLE))
    async def is_ready() -> Health:
        """Say whether the manager takes new sessions. Needs no token."""
        if not (manager.accepting and may_be_ready()):
            raise HTTPException(HTTPStatus.SERVICE_UNAVAILABLE, _NOT_READY)
        return Health()

    return router


def _versioned() -> APIRouter:
    bearer = HTTPBearer(auto_error=False)  # for the description: the gate has checked the token
    return APIRouter(prefix="/v1", responses=_REFUSALS, dependencies=[Security(bearer)])


def _seen(everyone: Everyone) -> APIRouter:
    """Return the requests that change nothing."""
    router = _versioned()

    @router.get("/sessions")
    async def list_sessions(filters: Annotated[Filters, Query()]) -> Page:
        """List sessions, of each process the oldest first. A page may be short or empty although `next` is not null."""
        return Page.model_validate(await everyone.page(**filters.model_dump()))

    @router.get("/sessions/{fingerprint}", responses=documented(HTTPStatus.NOT_FOUND))
    async def show_session(fingerprint: Fingerprint) -> Shown:
        """Show one session."""
        said = await everyone.ask(Ask.SESSION, fingerprint=fingerprint)
        for one in said:
            if one.answer is not None and one.answer["session"] is not None:
                shown = {**one.answer["session"], "process": one.name, "processes": _merged.processes(said)}
                return Shown.model_validate(shown)
        raise _nothing_found(said)

    @router.get("/stats")
    async def show_statistics() -> Statistics:
        """Show the books: `total_created` is always `total_cleaned` and `currently_active` together."""
        return Statistics.model_validate(_merged.statistics(await everyone.ask(Ask.STATS)))

    @router.get("/recent")
    async def list_recent_ends(lately: Annotated[Lately, Query()]) -> Recent:
        """List the sessions that ended last, the latest first."""
        return Recent.model_validate(_merged.recent(await everyone.ask(Ask.RECENT, limit=lately.limit), lately.limit))

    return router


def _ended(everyone: Everyone) -> APIRouter:
    """Return the requests that end sessions by name."""
    router = _versioned()

    @router.delete("/sessions/{fingerprint}", responses=documented(HTTPStatus.NOT_FOUND))
    async def end_session(fingerprint: Fingerprint, request: Request) -> Ended:
        """End one session, and wait for its close hook."""
        with _logged(request, f"end session {fingerprint}") as log:
            said = await everyone.ask(Ask.END, fingerprint=fingerprint)
            if not _merged.ended(said):
                raise _nothing_found(said)
            log.outcome = "ended"
        return _sum_of_ended(said)

    @router.delete("/sessions")
    async def end_sessions_of_client(query: Annotated[OfClient, Query()], request: Request) -> Ended:
        """End all sessions of one client, and wait for their close hooks. 503 if a process was not reached."""
        with _logged(request, f"end the sessions of client {query.client!r}") as log:
            said = await everyone.ask(Ask.END_CLIENT, client=query.client)
            log.outcome = f"{_merged.ended(said)} ended"
            if not all(one.answer for one in said):
                raise NotEverywhere(log.outcome, said)
        return _sum_of_ended(said)

    return router


def _cleaned(everyone: Everyone) -> APIRouter:
    """Return the requests that start passes."""
    router = _versioned()

    @router.post("/cleanup")
    async def clean_up(
        query: Annotated[PreviewOrNot, Query()], request: Request, limits: PassLimits | None = None
    ) -> Report:
        """Run a cleanup pass, or report what it would end."""
        given = {} if limits is None else limits.model_dump(exclude_unset=True)
        if query.preview:
            return _report(await everyone.ask(Ask.PREVIEW, **given))
        with _logged(request, "clean up") as log:
            report = _report(await everyone.ask(Ask.CLEAN_UP, **given))
            log.outcome = f"{report.total_cleaned} ended, {report.outcome}"
        return report

    @router.post("/cleanup/emergency")
    async def clean_up_in_an_emergency(request: Request) -> Report:
        """Run an emergency pass: end idle sessions until a tenth of the cap is free."""
        with _logged(request, "emergency cleanup") as log:
            report = _report(await everyone.ask(Ask.EMERGENCY))
            log.outcome = f"{report.total_cleaned} ended, {report.outcome}"
        return report

    return router


def _configured(manager: SessionManager[Any], everyone: Everyone) -> APIRouter:
    """Return the requests about the settings."""
    router = _versioned()

    async def config() -> Config:
        said = await everyone.ask(Ask.CONFIG)
        return Config.model_validate(_merged.config(said))

    @router.get("/config")
    async def show_config() -> Config:
        """Show the settings in force."""
        return await config()

    @router.patch("/config", responses=documented(HTTPStatus.CONFLICT))
    async def set_cap(change: ConfigChange, request: Request) -> Config:
        """Set the cap until the process restarts. Below the number of sessions, nothing is evicted."""
        with _logged(request, f"set max_sessions to {change.max_sessions}") as log:
            if getattr(manager, "fleet", None) is not None:
                raise HTTPException(HTTPStatus.CONFLICT, _OF_THE_FLEET)
            manager.set_max_sessions(change.max_sessions)
            log.outcome = "set"
        return await config()

    return router


def _nothing_found(said: Sequence[Said]) -> Exception:
    """Return the error if no session was found. Unless all processes were reached, the session may still be there."""
    if all(one.answer for one in said):
        return HTTPException(HTTPStatus.NOT_FOUND, _NOT_FOUND)
    return NotEverywhere("no process that was reached has a session with this fingerprint", said)


def _sum_of_ended(said: Sequence[Said]) -> Ended:
    return Ended.model_validate({"ended": _merged.ended(said), "processes": _merged.processes(said)})


def _report(said: Sequence[Said]) -> Report:
    return Report.model_validate(_merged.report(said))


class _Outcome:
    outcome = "cut off"


@contextmanager
def _logged(request: Request, what: str) -> Iterator[_Outcome]:
    """Log what a request asked for, from which address, and what came of it."""
    result, who = _Outcome(), request.client.host if request.client else "an unknown address"
    try:
        yield result
    except NotEverywhere as error:
        result.outcome = str(error)
        raise
    except Exception as error:
        detail = error.detail if isinstance(error, HTTPException) else f"{type(error).__name__}: {error}"
        result.outcome = f"refused: {detail}"
        raise
    finally:
        _logger.info("admin at %s: %s: %s", who, what, result.outcome, extra=Event.ADMIN_CHANGED.extra)
