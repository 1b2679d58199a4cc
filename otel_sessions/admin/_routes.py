"""The requests of the admin API, each one call of the manager. Every change is logged: who asked, and what came of it.

The version stands in the path. Within a version, answers gain fields but lose none.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from http import HTTPStatus
from typing import Annotated, Any, Final

from fastapi import APIRouter, FastAPI, Path, Query, Security
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException
from starlette.requests import Request

from otel_sessions._core.events import Event
from otel_sessions._core.exceptions import ConfigError
from otel_sessions._core.limits import UNSET, Limit
from otel_sessions._core.listing import SessionInfo, SessionPage
from otel_sessions._core.stats import CleanupReport, SessionStats
from otel_sessions._engine.manager import SessionManager
from otel_sessions._version import __version__

from ._answers import Config, ConfigChange, Ended, Filters, Health, Lately, OfClient, PassLimits, PreviewOrNot, Recent
from ._gate import Access, Gate
from ._page import page
from ._problems import documented, handle_problems

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
_OF_THE_FLEET: Final = "the cap belongs to the fleet, and all processes share it; change it in the configuration"


def admin_app(manager: SessionManager[Any], *, token: str, allowed_hosts: Iterable[str] | None = None) -> FastAPI:
    """Return the admin API of a manager, to be mounted in an app that runs on the manager's event loop.

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
    app.include_router(_seen(manager))
    app.include_router(_ended(manager))
    app.include_router(_steered(manager))
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


def _seen(manager: SessionManager[Any]) -> APIRouter:
    """Return the requests that change nothing."""
    router = _versioned()

    @router.get("/sessions")
    async def list_sessions(filters: Annotated[Filters, Query()]) -> SessionPage:
        """List sessions, oldest first. A page may be short or empty although `next` is not null."""
        return manager.sessions(**filters.model_dump())

    @router.get("/sessions/{fingerprint}", responses=documented(HTTPStatus.NOT_FOUND))
    async def show_session(fingerprint: Fingerprint) -> SessionInfo:
        """Show one session."""
        if (found := await manager.find(fingerprint)) is None:
            raise HTTPException(HTTPStatus.NOT_FOUND, _NOT_FOUND)
        return found

    @router.get("/stats")
    async def show_statistics() -> SessionStats:
        """Show the books: `total_created` is always `total_cleaned` and `currently_active` together."""
        return manager.get_metrics()

    @router.get("/config")
    async def show_config() -> Config:
        """Show the settings in force."""
        return _config(manager)

    @router.get("/recent")
    async def list_recent_ends(lately: Annotated[Lately, Query()]) -> Recent:
        """List the sessions that ended last, the latest first."""
        return Recent(ends=list(manager.recent_ends(lately.limit)))

    return router


def _ended(manager: SessionManager[Any]) -> APIRouter:
    """Return the requests that end sessions by name."""
    router = _versioned()

    @router.delete("/sessions/{fingerprint}", responses=documented(HTTPStatus.NOT_FOUND))
    async def end_session(fingerprint: Fingerprint, request: Request) -> Ended:
        """End one session, and wait for its close hook."""
        with _logged(request, f"end session {fingerprint}") as log:
            if not await manager.close_session(fingerprint=fingerprint):
                raise HTTPException(HTTPStatus.NOT_FOUND, _NOT_FOUND)
            log.outcome = "ended"
        return Ended(ended=1)

    @router.delete("/sessions")
    async def end_sessions_of_client(query: Annotated[OfClient, Query()], request: Request) -> Ended:
        """End all sessions of one client, and wait for their close hooks."""
        with _logged(request, f"end the sessions of client {query.client!r}") as log:
            ended = await manager.close_client(query.client)
            log.outcome = f"{ended} ended"
        return Ended(ended=ended)

    return router


def _steered(manager: SessionManager[Any]) -> APIRouter:
    """Return the requests that start passes and set the cap."""
    router = _versioned()

    @router.post("/cleanup")
    async def clean_up(
        query: Annotated[PreviewOrNot, Query()], request: Request, limits: PassLimits | None = None
    ) -> CleanupReport:
        """Run a cleanup pass, or report what it would end."""
        given: dict[str, Limit] = {} if limits is None else limits.model_dump(exclude_unset=True)
        idle, age = given.get("max_idle_time", UNSET), given.get("max_session_age", UNSET)
        if query.preview:
            return await manager.preview_cleanup(max_idle_time=idle, max_session_age=age)
        with _logged(request, "clean up") as log:
            report = await manager.cleanup_stale_sessions(max_idle_time=idle, max_session_age=age)
            log.outcome = f"{report.total_cleaned} ended, {report.outcome}"
        return report

    @router.post("/cleanup/emergency")
    async def clean_up_in_an_emergency(request: Request) -> CleanupReport:
        """Run an emergency pass: end idle sessions until a tenth of the cap is free."""
        with _logged(request, "emergency cleanup") as log:
            report = await manager.emergency_cleanup()
            log.outcome = f"{report.total_cleaned} ended, {report.outcome}"
        return report

    @router.patch("/config", responses=documented(HTTPStatus.CONFLICT))
    async def set_cap(change: ConfigChange, request: Request) -> Config:
        """Set the cap until the process restarts. Below the number of sessions, nothing is evicted."""
        with _logged(request, f"set max_sessions to {change.max_sessions}") as log:
            if getattr(manager, "fleet", None) is not None:
                raise HTTPException(HTTPStatus.CONFLICT, _OF_THE_FLEET)
            manager.set_max_sessions(change.max_sessions)
            log.outcome = "set"
        return _config(manager)

    return router


def _config(manager: SessionManager[Any]) -> Config:
    return Config(name=manager.name, settings={**asdict(manager.config), "max_sessions": manager.max_sessions})


class _Outcome:
    outcome = "cut off"


@contextmanager
def _logged(request: Request, what: str) -> Iterator[_Outcome]:
    """Log what a request asked for, from which address, and what came of it."""
    result, who = _Outcome(), request.client.host if request.client else "an unknown address"
    try:
        yield result
    except Exception as error:
        detail = error.detail if isinstance(error, HTTPException) else f"{type(error).__name__}: {error}"
        result.outcome = f"refused: {detail}"
        raise
    finally:
        _logger.info("admin at %s: %s: %s", who, what, result.outcome, extra=Event.ADMIN_CHANGED.extra)
