"""The manager's life within an app's life, with apps that support the lifespan protocol and apps that do not."""

import logging
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette

from otel_sessions import EndReason, ManagerClosed, Session, SessionConfig, SessionManager
from otel_sessions.asgi import ASGIApp, Message, Receive, RunManager, Send, lifespan
from tests.exchanges import Client, http
from tests.virtual import Clock, settle

pytestmark = pytest.mark.anyio

CONFIG = SessionConfig(drain_timeout=1)


@dataclass
class Server:
    """A server's side of the lifespan protocol: what it was answered, and what the app raised."""

    answers: list[Message] = field(default_factory=list)
    raised: BaseException | None = None
    state: dict[str, Any] = field(default_factory=dict)
    ended: bool = False

    def __post_init__(self) -> None:
        self._answered, self._stopping, self._over = anyio.Event(), anyio.Event(), anyio.Event()
        self._given = 0

    async def run(self, app: ASGIApp) -> None:
        scope: dict[str, Any] = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": self.state}
        try:
            await app(scope, self._receive, self._send)
        except (Exception, SystemExit, KeyboardInterrupt) as error:
            self.raised = error
        self.ended = True
        self._answered.set()
        self._over.set()

    async def start(self) -> None:
        await self._answered.wait()

    async def stop(self) -> None:
        self._stopping.set()
        await self._over.wait()

    @property
    def kinds(self) -> list[str]:
        return [str(answer["type"]).removeprefix("lifespan.") for answer in self.answers]

    async def _receive(self) -> Message:
        self._given += 1
        if self._given == 1:
            return {"type": "lifespan.startup"}
        await self._stopping.wait()
        return {"type": "lifespan.shutdown"}

    async def _send(self, message: Message) -> None:
        self.answers.append(message)
        self._answered.set()


@asynccontextmanager
async def serving(app: ASGIApp) -> AsyncIterator[Server]:
    server = Server()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.run, app)
        await server.start()
        yield server
        await server.stop()


class Course:
    """What happened, in order; the lifespan of an app and a close hook write it."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    @asynccontextmanager
    async def life(self, _app: object) -> AsyncIterator[dict[str, str]]:
        self.seen.append("app starts")
        yield {"of": "the app"}
        self.seen.append("app stops")

    async def hook(self, session: Session[None], reason: EndReason) -> None:
        self.seen.append(f"hook: {reason}")


class Failing(AbstractAsyncContextManager[None]):
    """A lifespan whose startup fails."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    async def __aenter__(self) -> None:
        raise self._error

    async def __aexit__(self, *_: object) -> None:
        raise AssertionError("it was never entered")


@pytest.fixture
def course() -> Course:
    return Course()


@pytest.fixture
def manager(clock: Clock, course: Course) -> SessionManager[None]:
    return SessionManager(CONFIG, clock=clock, on_close=course.hook)


# lifespan()


async def test_the_manager_runs_within_the_lifespan_only(manager: SessionManager[None]) -> None:
    async with lifespan(manager)(object()) as state:
        await manager.create_session()
        assert state is None
    with pytest.raises(ManagerClosed):
        await manager.create_session()


async def test_the_other_lifespan_encloses_the_manager_and_gives_its_state(
    manager: SessionManager[None], course: Course
) -> None:
    async with lifespan(manager, then=course.life)(object()) as state:
        await manager.create_session()
        assert state == {"of": "the app"}
    assert course.seen == ["app starts", "hook: shutdown", "app stops"]


async def test_the_other_lifespan_gets_the_app(manager: SessionManager[None]) -> None:
    found: list[object] = []

    @asynccontextmanager
    async def keep(app: object) -> AsyncIterator[None]:
        found.append(app)
        yield

    app = Starlette(lifespan=lifespan(manager, then=keep))
    async with serving(app):
        pass
    assert found == [app]


async def test_a_lifespan_that_raises_leaves_no_manager_running(manager: SessionManager[None]) -> None:
    with pytest.raises(RuntimeError, match="broken pipe"):
        async with lifespan(manager)(object()):
            raise RuntimeError("broken pipe")
    with pytest.raises(ManagerClosed):
        await manager.create_session()


async def test_a_manager_is_not_entered_when_the_other_lifespan_fails(manager: SessionManager[None]) -> None:
    def fail(_app: object) -> Failing:
        return Failing(RuntimeError("no database"))

    with pytest.raises(RuntimeError, match="no database"):
        async with lifespan(manager, then=fail)(object()):
            pass
    with pytest.raises(ManagerClosed):
        await manager.create_session()


async def greet(scope: Any, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})


async def raises_at_once(scope: Any, receive: Receive, send: Send) -> None:
    if scope["type"] != "http":
        raise ValueError("Django can only handle ASGI/HTTP connections, not lifespan.")
    await greet(scope, receive, send)


async def greets_after_the_event(scope: Any, receive: Receive, send: Send) -> None:
    await receive()
    await greet(scope, receive, send)


async def returns_at_once(scope: Any, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        await greet(scope, receive, send)


async def returns_after_the_event(scope: Any, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        await greet(scope, receive, send)
    else:
        await receive()


WITHOUT = [raises_at_once, greets_after_the_event, returns_at_once, returns_after_the_event, greet]


class TestRunManager:
    """The middleware that runs the manager itself."""

    @pytest.mark.parametrize("app", WITHOUT)
    async def test_an_app_without_a_lifespan_is_served_while_the_manager_runs(
        self, manager: SessionManager[None], course: Course, app: ASGIApp
    ) -> None:
        served = RunManager(app, manager)
        async with serving(served) as server:
            await manager.create_session()
            client = await Client(http()).go(served)
            assert (client.status, client.body) == (200, b"hello")
        assert server.kinds == ["startup.complete", "shutdown.complete"]
        assert server.raised is None
        assert course.seen == ["hook: shutdown"]

    @pytest.mark.parametrize("app", [raises_at_once, greets_after_the_event])
    async def test_an_error_of_an_app_without_a_lifespan_is_in_the_debug_log(
        self, manager: SessionManager[None], app: ASGIApp, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.DEBUG, logger="otel_sessions"):
            async with serving(RunManager(app, manager)):
                pass
        (record,) = [record for record in caplog.records if "no lifespan" in record.message]
        assert record.levelname == "DEBUG"
        assert record.exc_info is not None

    @pytest.mark.parametrize("after", ["nothing", "the event", "a word of its own"])
    @pytest.mark.parametrize("error", [KeyError("database"), SystemExit("database"), KeyboardInterrupt("database")])
    async def test_a_startup_that_raises_has_failed_but_for_an_error_before_any_event(
        self, manager: SessionManager[None], after: str, error: BaseException
    ) -> None:
        async def app(scope: Any, receive: Receive, send: Send) -> None:
            if after != "nothing":
                await receive()
            if after == "a word of its own":
                await send({"type": "lifespan.startup.failed", "message": "no database"})
            raise error

        async with serving(RunManager(app, manager)) as server:
            pass

        if after == "nothing" and isinstance(error, KeyError):
            assert server.kinds == ["startup.complete", "shutdown.complete"]
        else:
            assert server.kinds == ["startup.failed"]
            assert "database" in str(server.answers[0]["message"])
            assert server.raised is not None
            with pytest.raises(ManagerClosed):
                await manager.create_session()

    async def test_an_app_that_exits_while_it_is_served_is_reported_at_the_shutdown(
        self, manager: SessionManager[None]
    ) -> None:
        async def app(scope: Any, receive: Receive, send: Send) -> None:
            await receive()
            await send({"type": "lifespan.startup.complete"})
            raise KeyboardInterrupt("stop")

        async with serving(RunManager(app, manager)) as server:
            await settle()
        assert server.answers[1:] == [{"type": "lifespan.shutdown.failed", "message": "KeyboardInterrupt: stop"}]

    async def test_the_apps_lifespan_encloses_the_manager(self, manager: SessionManager[None], course: Course) -> None:
        async with serving(RunManager(Starlette(lifespan=course.life), manager)) as server:
            await manager.create_session()
            assert server.state == {"of": "the app"}
        assert server.kinds == ["startup.complete", "shutdown.complete"]
        assert course.seen == ["app starts", "hook: shutdown", "app stops"]

    async def test_a_startup_that_fails_is_reported_and_leaves_no_manager_running(
        self, manager: SessionManager[None]
    ) -> None:
        async def app(scope: Any, receive: Receive, send: Send) -> None:
            await receive()
            await send({"type": "lifespan.startup.failed", "message": "no database"})

        async with serving(RunManager(app, manager)) as server:
            with pytest.raises(ManagerClosed):
                await manager.create_session()
        assert server.answers == [{"type": "lifespan.startup.failed", "message": "no database"}]
        assert isinstance(server.raised, RuntimeError)

    @pytest.mark.parametrize("error", [RuntimeError("no database"), SystemExit("no database")])
    async def test_a_startup_that_raises_is_reported_with_its_own_error(
        self, manager: SessionManager[None], error: BaseException
    ) -> None:
        async with serving(RunManager(Starlette(lifespan=lambda _: Failing(error)), manager)) as server:
            pass
        assert server.kinds == ["startup.failed"]
        assert "no database" in str(server.answers[0]["message"])
        assert server.raised is error

    async def test_a_startup_that_fails_without_a_word_is_reported_all_the_same(
        self, manager: SessionManager[None]
    ) -> None:
        async def app(scope: Any, receive: Receive, send: Send) -> None:
            await send({"type": "lifespan.startup.failed"})
            await anyio.sleep_forever()

        async with serving(RunManager(app, manager)) as server:
            pass
        assert server.answers == [
            {"type": "lifespan.startup.failed", "message": "RuntimeError: the startup of the wrapped app failed"}
        ]

    async def test_a_manager_that_cannot_start_is_reported_and_the_app_is_shut_down(
        self, manager: SessionManager[None], course: Course
    ) -> None:
        async with manager, serving(RunManager(Starlette(lifespan=course.life), manager)) as server:
            pass
        assert server.kinds == ["startup.failed"]
        assert str(server.answers[0]["message"]).startswith("ManagerClosed: ")
        assert isinstance(server.raised, ManagerClosed)
        assert course.seen == ["app starts", "app stops"]

    @pytest.mark.parametrize("word", ["disk full", ""])
    async def test_a_shutdown_that_fails_is_reported_after_the_manager_has_shut_down(
        self, manager: SessionManager[None], course: Course, word: str
    ) -> None:
        async def app(scope: Any, receive: Receive, send: Send) -> None:
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.failed", "message": word})

        async with serving(RunManager(app, manager)) as server:
            await manager.create_session()
        assert server.kinds == ["startup.complete", "shutdown.failed"]
        assert server.answers[1]["message"] == (word or "RuntimeError: the shutdown of the wrapped app failed")
        assert course.seen == ["hook: shutdown"]

    async def test_an_app_that_dies_while_it_is_served_is_reported_at_the_shutdown(
        self, manager: SessionManager[None], course: Course
    ) -> None:
        async def app(scope: Any, receive: Receive, send: Send) -> None:
            await receive()
            await send({"type": "lifespan.startup.complete"})
            raise OSError("disk full")

        async with serving(RunManager(app, manager)) as server:
            await settle()
            await manager.create_session()
        assert server.answers[1:] == [{"type": "lifespan.shutdown.failed", "message": "OSError: disk full"}]
        assert course.seen == ["hook: shutdown"]

    async def test_an_app_that_asks_for_more_after_its_shutdown_holds_nothing_up(
        self, manager: SessionManager[None]
    ) -> None:
        async def app(scope: Any, receive: Receive, send: Send) -> None:
            while True:
                stage = str((await receive())["type"])
                await send({"type": f"{stage}.complete"})

        async with serving(RunManager(app, manager)) as server:
            pass
        await settle()
        assert server.kinds == ["startup.complete", "shutdown.complete"]
        assert server.ended

    async def test_an_app_may_still_work_after_it_has_said_that_its_shutdown_is_complete(
        self,
        manager: SessionManager[None],
    ) -> None:
        done: list[str] = []

        async def app(scope: Any, receive: Receive, send: Send) -> None:
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            await anyio.sleep(3)
            done.append("flushed")

        async with serving(RunManager(app, manager)):
            pass
        assert done == ["flushed"]

    async def test_a_server_that_cancels_its_lifespan_leaves_no_manager_running(
        self, manager: SessionManager[None], course: Course
    ) -> None:
        server = Server()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.run, RunManager(Starlette(lifespan=course.life), manager))
            await server.start()
            await manager.create_session()
            tasks.cancel_scope.cancel()
        assert course.seen[:2] == ["app starts", "hook: shutdown"]
        with pytest.raises(ManagerClosed):
            await manager.create_session()

    @pytest.mark.parametrize("app", [raises_at_once, Starlette()])
    async def test_an_app_may_be_served_again_with_the_same_manager(
        self, manager: SessionManager[None], app: ASGIApp
    ) -> None:
        served = RunManager(app, manager)
        for _run in range(2):
            async with serving(served) as server:
                await manager.create_session()
            assert server.kinds == ["startup.complete", "shutdown.complete"]
        stats = manager.get_metrics()
        assert (stats.total_created, stats.total_cleaned) == (2, 2)
