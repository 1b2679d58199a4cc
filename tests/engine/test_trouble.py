"""What once went wrong and must not again: faults from outside, each with the state it left behind."""

import asyncio
import logging
import sys
from contextvars import Context
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from otel_sessions import EndReason, Session, SessionConfig, SessionManager, SessionNotFound
from otel_sessions.asgi import SESSION, SessionLeaseMiddleware
from otel_sessions.matchers import HeaderMatcher
from tests.doubles import FaultyClock
from tests.virtual import BACKENDS, Clock, settle

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("anyio_backend", [("asyncio", BACKENDS["asyncio"]())])
async def test_a_supervisor_that_is_cancelled_while_another_task_holds_a_lease_ends_the_manager() -> None:
    reasons: list[EndReason | None] = []
    async with SessionManager() as manager:
        session = await manager.create_session()

        async def hold() -> None:
            try:
                async with manager.lease(session.id):
                    await anyio.sleep_forever()
            except SessionNotFound as error:
                reasons.append(error.reason)

        holder = asyncio.create_task(hold())
        await settle()
        (supervisor,) = (task for task in asyncio.all_tasks() if task.get_name() == "otel-sessions supervisor")
        supervisor.cancel()
        await holder
    assert reasons == [EndReason.SHUTDOWN]
    assert len(manager) == 0


@pytest.mark.parametrize("anyio_backend", [("asyncio", BACKENDS["asyncio"]())])
async def test_an_interval_pass_that_is_cancelled_before_its_first_step_is_not_the_last_one(clock: Clock) -> None:
    config = SessionConfig(cleanup_interval=10, max_idle_time=15)
    async with SessionManager(config, clock=clock) as manager:
        session = await manager.create_session()
        loop = asyncio.get_running_loop()
        begin = loop.create_task

        def create_and_cancel(*arguments: Any, **keywords: Any) -> asyncio.Task[Any]:
            task = begin(*arguments, **keywords)
            if keywords.get("name") == "otel-sessions interval pass":
                task.cancel()
            return task

        loop.create_task = create_and_cancel  # type: ignore[method-assign]
        await anyio.sleep(25)
        loop.create_task = begin  # type: ignore[method-assign]
        assert manager.get_metrics().cleanup_runs == 0
        await anyio.sleep(10)
        assert session.end_reason is EndReason.IDLE_TIMEOUT


async def test_hooks_get_their_close_timeout_although_the_drain_takes_all_it_may() -> None:
    served: list[str] = []

    async def slow(session: Session[None], reason: EndReason) -> None:
        await anyio.sleep(4.9)
        served.append(session.id)

    config = SessionConfig(close_timeout=5, shutdown_timeout=12, drain_timeout=60)
    async with SessionManager(config, on_close=slow) as manager:
        session = await manager.create_session()
        manager.pin(session.id).__enter__()
    assert served == [session.id]
    assert manager.get_metrics().cleanup_errors == 0


async def test_a_lease_is_given_back_although_the_clock_fails_then(faulty_clock: FaultyClock) -> None:
    async with SessionManager(clock=faulty_clock) as manager:
        session = await manager.create_session()
        async with manager.lease(session.id):
            faulty_clock.break_down()
        faulty_clock.mend()
        assert manager.get_metrics().leased == 0
        with anyio.CancelScope():  # the lease's own scope has been left
            await anyio.lowlevel.checkpoint()


async def test_a_lease_that_the_clock_refuses_is_not_held(faulty_clock: FaultyClock) -> None:
    async with SessionManager(clock=faulty_clock) as manager:
        session = await manager.create_session()
        faulty_clock.break_down()
        with pytest.raises(OSError, match="no time"), manager.pin(session.id):
            pass
        faulty_clock.mend()
        assert manager.get_metrics().leased == 0


async def test_a_sink_that_cannot_export_is_refused_before_it_can_lose_a_session() -> None:
    manager = SessionManager(sink=object())  # type: ignore[arg-type]
    with pytest.raises(AttributeError, match="export"):
        await manager.__aenter__()


async def test_a_limit_beyond_all_ticks_is_no_limit(clock: Clock) -> None:
    config = SessionConfig(max_idle_time=None, max_session_age=sys.float_info.max, cleanup_interval=1)
    async with SessionManager(config, clock=clock) as manager:
        session = await manager.create_session()
        await anyio.sleep(100)
        assert manager.get(session.id) is session


async def test_two_middlewares_around_each_other_each_keep_to_their_own_session() -> None:
    seen: list[object] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope[SESSION])
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    async def receive() -> dict[str, object]:
        return {"type": "http.request"}

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async with SessionManager() as outer, SessionManager() as inner:
        stacked = SessionLeaseMiddleware(
            SessionLeaseMiddleware(app, inner, HeaderMatcher("x-inner")), outer, HeaderMatcher("x-outer")
        )
        scope: dict[str, object] = {"type": "http", "headers": []}
        await stacked(scope, receive, send)
        headers = dict(sent[0]["headers"])
        assert seen == [inner.get(headers[b"x-inner"].decode())]
        assert outer.get(headers[b"x-outer"].decode()) is not None
        assert SESSION not in scope


@pytest.mark.parametrize("wrong", [5, b"id", ("a", "b"), 1.5], ids=repr)
async def test_an_id_that_is_no_text_is_refused_and_takes_no_place(wrong: Any) -> None:
    async with SessionManager(SessionConfig(max_sessions=1)) as manager:
        with pytest.raises(TypeError, match=f"a session id is a str, not {type(wrong).__name__}"):
            await manager.create_session(wrong)
        async with manager.reserve() as place:
            with pytest.raises(TypeError, match="a session id is a str"):
                place.commit(wrong)
            place.commit("right")
        assert manager.get_metrics().total_created == 1


@pytest.mark.parametrize("wrong", [None, 5], ids=repr)
async def test_a_lease_on_an_id_that_is_no_text_says_so(wrong: Any) -> None:
    async with SessionManager() as manager:
        with pytest.raises(TypeError, match="a session id is a str"), manager.pin(wrong):
            pass
        with pytest.raises(TypeError, match="a session id is a str"), manager.hold(wrong, print):
            pass
        with pytest.raises(TypeError, match="a session id is a str"):
            async with manager.lease(wrong):
                pass
        assert wrong not in manager
        assert not await manager.close_session(wrong)


class BrokenHandler(logging.Handler):
    """A log handler that raises."""

    def emit(self, record: logging.LogRecord) -> None:
        raise OSError("no log today")


async def test_a_log_handler_that_raises_keeps_no_session_closing() -> None:
    async def fail(session: Session, reason: EndReason) -> None:
        raise ValueError("no goodbye")

    logger, handler = logging.getLogger("otel_sessions"), BrokenHandler()
    logger.addHandler(handler)
    try:
        async with SessionManager(SessionConfig(close_concurrency=1), on_close=fail) as manager:
            sessions = [await manager.create_session() for _ in range(3)]
            for session in sessions:
                assert await manager.close_session(session.id)
            stats = manager.get_metrics()
            assert (stats.currently_active, stats.closing, stats.total_cleaned) == (0, 0, 3)
            assert stats.cleanup_errors >= 3
    finally:
        logger.removeHandler(handler)


def test_holders_that_end_the_program_leave_no_session_when_the_supervisor_is_cancelled() -> None:
    def exit_program(reason: EndReason) -> None:
        raise SystemExit(3)

    async def main() -> None:
        await manager.__aenter__()
        for number in range(3):
            session = await manager.create_session(str(number))
            Context().run(manager.hold(session.id, exit_program).__enter__)
        (supervisor,) = (task for task in asyncio.all_tasks() if task.get_name() == "otel-sessions supervisor")
        supervisor.cancel()
        await asyncio.sleep(2)

    manager = SessionManager()
    with pytest.raises(SystemExit):
        asyncio.run(main())
    assert len(manager) == 0
    assert repr(manager) == "<SessionManager 'default' 0 sessions>"
    assert manager.get_metrics().cleaned_by_reason[EndReason.SHUTDOWN] == 3
    assert manager.get_metrics().closing == 0
