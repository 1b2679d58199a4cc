"""Runs a manager in the lifespan of an app: from before the first request until after the last request.

The app's own lifespan always encloses the manager's run. So what the app starts still works during close hooks.
"""

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final, TypeVar, overload

import anyio

from otel_sessions._core.events import Event
from otel_sessions._engine.manager import SessionManager

from ._elsewhere import tell_whole
from ._exchange import ASGIApp, Message, Receive, Send

_LifespanT = TypeVar("_LifespanT", bound=Callable[[Any], AbstractAsyncContextManager[Any]])

_EXITS: Final = (SystemExit, KeyboardInterrupt)
_FAILURES: Final = (Exception, *_EXITS)
"""What a startup may raise: `sys.exit("no database")` is as usual there as an exception."""

_logger = logging.getLogger("otel_sessions")


@overload
def lifespan(
    manager: SessionManager[Any], then: None = None
) -> Callable[[object], AbstractAsyncContextManager[None]]: ...
@overload
def lifespan(manager: SessionManager[Any], then: _LifespanT) -> _LifespanT: ...
def lifespan(
    manager: SessionManager[Any], then: Callable[[Any], AbstractAsyncContextManager[Any]] | None = None
) -> Callable[[Any], AbstractAsyncContextManager[Any]]:
    """Return a lifespan function that runs `manager`, for Starlette, FastAPI and Litestar.

        app = Starlette(lifespan=lifespan(manager))

    `then` is another lifespan function. It is entered before the manager, and left after the manager has shut down. The
    state that `then` yields is passed on. Entering raises what `then` and the manager raise.
    """

    @asynccontextmanager
    async def run(app: Any) -> AsyncIterator[Any]:
        if then is None:
            tell_whole(manager, app, None)
            async with manager:
                yield
        else:
            async with then(app) as state:
                tell_whole(manager, app, state)
                async with manager:
                    yield state

    return run


class RunManager:
    """Runs `manager` as long as a server runs `app`, whether or not `app` supports the lifespan protocol.

        app = RunManager(SessionLeaseMiddleware(get_asgi_application(), manager), manager)

    If `app` has a lifespan, it starts before the manager and ends after the manager has shut down. If a startup or
    shutdown fails, the server gets the message, and the error is raised. All other scopes pass to `app`. The server's
    lifespan protocol must be on.

    The app has no lifespan if it answers in another protocol, or if it returns before its startup is complete. The app
    also has no lifespan if it raises an error before it has received or sent an event of the protocol. If the app
    raises later, or exits at any time (`SystemExit`, `KeyboardInterrupt`), its startup has failed.
    """

    def __init__(self, app: ASGIApp, manager: SessionManager[Any]) -> None:
        self._app = app
        self._manager = manager

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await self._app(scope, receive, send)
            return
        tell_whole(self._manager, self, scope.get("state"))
        behind = _Behind(self._app, scope)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(behind.run)
            failure = await self._live(behind, receive, send)
            tasks.cancel_scope.cancel()
        try:
            if failure is not None:
                raise failure
        finally:
            del failure  # its traceback holds this frame

    async def _live(self, behind: "_Behind", receive: Receive, send: Send) -> BaseException | None:
        """Answer the server's two events. Return an error instead of raising it: a task group would wrap the error."""
        await receive()  # the startup
        stage = "startup"
        try:
            async with behind, self._manager:
                await send({"type": "lifespan.startup.complete"})
                await receive()  # the shutdown
                stage = "shutdown"
        except _FAILURES as error:
            message = behind.complaint or f"{type(error).__name__}: {error}"
            await send({"type": f"lifespan.{stage}.failed", "message": message})
            return error
        await send({"type": "lifespan.shutdown.complete"})
        return None


class _Behind:
    """The lifespan of the wrapped app: entered when its startup is complete, left when its shutdown is complete.

    If the app has no lifespan, entering and leaving do nothing (ASGI specification, Lifespan Protocol, Scope). By the
    specification, servers also go on after an error at the startup event. Here such a startup has failed: the app would
    run without what the startup should set up.
    """

    def __init__(self, app: ASGIApp, scope: Any) -> None:
        self.complaint = ""
        """The app's message about a startup or shutdown that failed."""
        self._app = app
        self._scope = scope
        self._failure: BaseException | None = None
        self._given = 0  # events
        self._complete = self._failed = self._speaks_otherwise = False
        self._started, self._stopping, self._over = anyio.Event(), anyio.Event(), anyio.Event()

    async def run(self) -> None:
        """Call the app for its lifespan, and keep the error that it raises."""
        try:
            await self._app(self._scope, self._receive, self._send)
        except _FAILURES as error:
            self._failure = error
        finally:
            self._started.set()
            self._over.set()

    async def __aenter__(self) -> None:
        await self._started.wait()
        if self._failed or self._has_raised_at_startup():
            raise self._reason("startup")
        if not self._complete:
            _logger.debug(
                "the wrapped app has no lifespan; the manager runs without one",
                exc_info=self._failure,
                extra=Event.APP_WITHOUT_LIFESPAN.extra,
            )

    async def __aexit__(self, exc_type: object, exc: BaseException | None, traceback: object) -> None:
        if not self._complete:
            return
        self._stopping.set()
        await self._over.wait()
        if exc is None and (self._failed or self._failure is not None):
            raise self._reason("shutdown")

    async def _receive(self) -> Message:
        self._given += 1
        if self._given == 1:
            return {"type": "lifespan.startup"}
        await self._stopping.wait()
        if self._given > 2:  # the app has had both events and waits for another
            self._over.set()
            await anyio.sleep_forever()
        return {"type": "lifespan.shutdown"}

    async def _send(self, message: Message) -> None:
        kind = str(message["type"])
        if kind.endswith(".failed") and kind.startswith("lifespan."):
            self._failed = True
            self.complaint = str(message.get("message", ""))
            self._started.set()
        elif kind == "lifespan.startup.complete":
            self._complete = True
            self._started.set()
        elif kind != "lifespan.shutdown.complete":
            self._speaks_otherwise = True
            raise RuntimeError(f"{kind!r} is not an answer to an event of the lifespan protocol")

    def _reason(self, stage: str) -> BaseException:
        return self._failure or RuntimeError(self.complaint or f"the {stage} of the wrapped app failed")

    def _has_raised_at_startup(self) -> bool:
        """Return whether the app has a lifespan, and has raised before its startup was complete."""
        if self._complete or self._failure is None:
            return False
        return isinstance(self._failure, _EXITS) or (self._given > 0 and not self._speaks_otherwise)
