"""The age of the lease that has been held longest, whatever kind of lease it is and however it ends."""

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import anyio
import pytest

from otel_sessions import SessionConfig, SessionManager
from tests.doubles import FaultyClock
from tests.signals import CONFIG, Exporting, Signals
from tests.virtual import Clock, settle

pytestmark = pytest.mark.anyio

Manager = SessionManager[None]
Use = Callable[[Manager, str], AbstractContextManager[Any]]


def pin(manager: Manager, session_id: str) -> AbstractContextManager[Any]:
    return manager.pin(session_id)


def hold(manager: Manager, session_id: str) -> AbstractContextManager[Any]:
    return manager.hold(session_id, lambda _: None)


KINDS = pytest.mark.parametrize("use", [pin, hold])


def oldest(signals: Signals, manager: str = "default") -> float:
    return signals.export().value("lease.oldest", manager)


class Busy(dict[Any, float]):
    """Leases of which one is left whenever another thread has just begun to look at them."""

    def values(self) -> Any:
        found = iter(super().values())
        self.popitem()
        return found


class TestOldestLease:
    @KINDS
    async def test_it_is_as_old_as_the_time_since_it_was_entered(
        self, signals: Signals, clock: Clock, use: Use
    ) -> None:
        async with signals.manager(clock=clock) as manager:
            await manager.create_session("an id")
            with use(manager, "an id"):
                await anyio.sleep(7)
                held = oldest(signals)
            left = oldest(signals)

        assert (held, left) == pytest.approx((7, 0))

    async def test_a_bound_lease_counts_like_a_pin(self, signals: Signals, clock: Clock) -> None:
        async with signals.manager(clock=clock) as manager:
            await manager.create_session("an id")
            async with manager.lease("an id"):
                await anyio.sleep(7)
                held = oldest(signals)

            assert (held, oldest(signals)) == pytest.approx((7, 0))

    @KINDS
    async def test_of_leases_that_overlap_the_oldest_that_is_left_counts(
        self, signals: Signals, clock: Clock, use: Use
    ) -> None:
        async with signals.manager(clock=clock) as manager, anyio.create_task_group():
            await manager.create_session("an id")
            first, second = use(manager, "an id"), use(manager, "an id")
            first.__enter__()
            await anyio.sleep(5)
            second.__enter__()
            await anyio.sleep(2)
            both = oldest(signals)
            first.__exit__(None, None, None)
            one = oldest(signals)
            second.__exit__(None, None, None)

            assert (both, one, oldest(signals)) == pytest.approx((7, 2, 0))

    @KINDS
    async def test_a_lease_of_a_session_that_was_ended_counts_no_more(
        self, signals: Signals, clock: Clock, use: Use
    ) -> None:
        async with signals.manager(clock=clock) as manager:
            await manager.create_session("ended")
            await manager.create_session("live")
            with use(manager, "ended"):
                await anyio.sleep(5)
                with use(manager, "live"):
                    await anyio.sleep(2)
                    async with anyio.create_task_group() as tasks:
                        tasks.start_soon(manager.close_session, "ended")
                    one = oldest(signals)
                none = oldest(signals)
            assert (one, none, oldest(signals)) == pytest.approx((2, 0, 0))

    async def test_a_failed_session_is_leased_until_a_pass_may_end_it(self, signals: Signals, clock: Clock) -> None:
        async with signals.manager(clock=clock) as manager:
            session = await manager.create_session("an id")
            with manager.pin("an id"):
                session.fail("upstream hung up")
                await anyio.sleep(3)

                assert oldest(signals) == pytest.approx(3)

    async def test_pins_that_are_never_left_are_forgotten_with_their_sessions(
        self, signals: Signals, clock: Clock
    ) -> None:
        async with signals.manager(clock=clock) as manager:
            await manager.create_session("kept")
            with manager.pin("kept"):
                for number in range(100):
                    await manager.create_session(f"{number}")
                    manager.pin(f"{number}").__enter__()
                    await manager.close_session(f"{number}")

                assert len(manager._leases._since) == 1
                assert oldest(signals) == pytest.approx(0)
            assert not manager._leases._since

    async def test_of_many_ended_at_once_the_oldest_live_lease_is_found(self, signals: Signals, clock: Clock) -> None:
        async with signals.manager(SessionConfig(max_idle_time=100.0), clock=clock) as manager:
            with ExitStack() as pins:
                for number in range(40):
                    await manager.create_session(f"{number}")
                    pins.enter_context(manager.pin(f"{number}"))
                    await anyio.sleep(1)
                for number in range(15):
                    await manager.close_session(f"{number}")
                age = oldest(signals)
            assert (age, oldest(signals)) == pytest.approx((25, 0))

    async def test_of_managers_of_one_name_the_oldest_lease_counts(self, signals: Signals, clock: Clock) -> None:
        async with signals.manager(clock=clock) as one, signals.manager(clock=clock) as other:
            await one.create_session("an id")
            await other.create_session("an id")
            with one.pin("an id"):
                await anyio.sleep(4)
                with other.pin("an id"):
                    await anyio.sleep(1)

                    assert oldest(signals) == pytest.approx(5)

    async def test_a_manager_that_has_ended_has_no_lease(self, signals: Signals, clock: Clock) -> None:
        async with signals.manager(SessionConfig(drain_timeout=1.0), clock=clock) as manager:
            await manager.create_session("an id")
            manager.pin("an id").__enter__()
            await anyio.sleep(3)

        assert oldest(signals) == 0

    async def test_a_manager_that_was_entered_again_starts_without_leases(self, signals: Signals, clock: Clock) -> None:
        manager = signals.manager(SessionConfig(drain_timeout=1.0), clock=clock)
        async with manager:
            await manager.create_session("an id")
            manager.pin("an id").__enter__()
        async with manager:
            await anyio.sleep(3)

            assert oldest(signals) == 0

    async def test_a_clock_that_fails_on_an_export_gives_no_age(
        self, signals: Signals, faulty_clock: FaultyClock
    ) -> None:
        async with signals.manager(clock=faulty_clock) as manager:
            await manager.create_session("an id")
            with manager.pin("an id"):
                await settle()
                faulty_clock.break_down()
                age = oldest(signals)
                faulty_clock.mend()

        assert age == 0

    async def test_a_lease_that_is_left_while_another_thread_looks_hides_no_other(
        self, signals: Signals, clock: Clock
    ) -> None:
        async with signals.manager(clock=clock) as manager:
            await manager.create_session("an id")
            with manager.pin("an id"):
                await anyio.sleep(3)
                with manager.pin("an id"):
                    manager._leases._since = Busy(manager._leases._since)

                    assert oldest(signals) == pytest.approx(3)

    @pytest.mark.usefixtures("impatient_threads")
    async def test_another_thread_may_ask_while_leases_come_and_go(self, signals: Signals, clock: Clock) -> None:
        async with signals.manager(CONFIG, clock=clock) as manager:
            for number in range(50):
                await manager.create_session(f"{number}")
            with Exporting(signals.reader) as exporting:
                for number in range(3000):
                    with manager.pin(f"{number % 50}"), manager.pin(f"{(number + 1) % 50}"):
                        pass

        assert {export.value("lease.oldest") for export in exporting.exports} == {0}
