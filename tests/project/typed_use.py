"""What a type checker says of the public face: `make check` reads this file, and nothing runs it.

An `ignore` marks what must be refused; mypy fails on one that is not needed.
"""

from collections.abc import Mapping
from typing import assert_type

from otel_sessions import EndReason, JsonLinesSink, Session, SessionManager


class Upstream:
    pass


async def hang_up(session: Session[Upstream], reason: EndReason) -> None:
    assert_type(session.data, Upstream)


async def without_a_type_data_is_none() -> None:
    manager = SessionManager()
    assert_type(manager, SessionManager[None])
    assert_type(await manager.create_session(), Session[None])
    async with manager.reserve() as place:
        assert_type(place.commit("id"), Session[None])
    await manager.create_session(data=Upstream())  # type: ignore[call-overload]


async def with_a_type_data_is_required() -> None:
    async with SessionManager[Upstream](on_close=hang_up) as manager:
        assert_type(manager, SessionManager[Upstream])
        assert_type(await manager.create_session(data=Upstream()), Session[Upstream])
        assert_type(manager.get("id"), Session[Upstream] | None)
        assert_type(manager.touch("id"), Session[Upstream] | None)
        with manager.pin("id") as session:
            assert_type(session, Session[Upstream])
        with manager.hold("id", print) as session:
            assert_type(session, Session[Upstream])
        manager.hold("id", lambda: None)  # type: ignore[arg-type, misc]
        async with manager.lease("id") as session:
            assert_type(session, Session[Upstream])
        await manager.create_session()  # type: ignore[call-arg]
        async with manager.reserve() as place:
            place.commit("id")  # type: ignore[call-arg]


async def a_lease_swallows_no_error_so_its_block_may_return() -> Upstream:
    async with SessionManager[Upstream]() as manager, manager.lease("id") as session:
        return session.data


async def a_pin_swallows_no_error_so_its_block_may_return() -> Upstream:
    async with SessionManager[Upstream]() as manager:
        with manager.pin("id") as session:
            return session.data


async def the_hook_gives_the_type() -> None:
    manager = SessionManager(on_close=hang_up)
    assert_type(manager, SessionManager[Upstream])


def describe(session: Session[Upstream]) -> Mapping[str, str]:
    assert_type(session.data, Upstream)
    return {}


async def a_sink_takes_the_sessions_of_its_own_type() -> None:
    assert_type(JsonLinesSink("path"), JsonLinesSink[None])
    assert_type(JsonLinesSink("path", describe=describe), JsonLinesSink[Upstream])
    async with JsonLinesSink[Upstream]("path") as sink, SessionManager(sink=sink) as manager:
        assert_type(manager, SessionManager[Upstream])
    SessionManager[None](sink=sink)  # type: ignore[arg-type]
