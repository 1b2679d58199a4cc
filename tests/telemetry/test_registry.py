import asyncio
import gc
import threading
import weakref
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import anyio
import pytest
from opentelemetry import metrics, trace
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.metrics import _internal as api
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.util._once import Once

from otel_sessions import EndReason, Session, SessionConfig, SessionManager
from otel_sessions._telemetry import providers
from tests.programs import let_others_run, output_of, run, run_on_a_loop_that_dies
from tests.signals import Export, Hook, Interrupted, PatientReader, Signals, series
from tests.virtual import Clock, settle

pytestmark = pytest.mark.anyio

CONFIG = SessionConfig(cleanup_interval=50.0, max_idle_time=None, max_session_age=None)
NAMES = 100


@pytest.fixture
def no_global_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let all be as it is in a process where no provider has been set, as OpenTelemetry's own tests do."""
    monkeypatch.setattr(api, "_METER_PROVIDER", None)
    monkeypatch.setattr(api, "_METER_PROVIDER_SET_ONCE", Once())
    monkeypatch.setattr(api, "_PROXY_METER_PROVIDER", api._ProxyMeterProvider())
    registry = providers._Registry()
    monkeypatch.setattr(providers, "_registry", registry)
    monkeypatch.setattr(providers, "enter", registry.enter)


class TestSeveralManagers:
    async def test_managers_are_told_apart_by_their_names(self, signals: Signals, clock: Clock) -> None:
        async with signals.manager(name="one", clock=clock) as one, signals.manager(name="two", clock=clock) as two:
            await one.create_session()
            await two.create_session()
            await two.create_session()

            assert signals.export().sums("session.created") == {"one": 1, "two": 2}

    async def test_managers_of_one_name_are_summed(self, signals: Signals, clock: Clock) -> None:
        async with signals.manager(clock=clock) as first, signals.manager(clock=clock) as second:
            session = await first.create_session()
            await second.create_session("closed")
            await second.close_session("closed")
            async with second.reserve():
                with first.pin(session.id):
                    export = signals.export()

        assert export.values("session.created") == {series(): 2}
        assert export.not_zero("session.active") == {"leased": 1}
        assert export.not_zero("session.cleaned") == {"closed": 1}
        assert export.values("session.reserved") == {series(): 1}
        assert export.values("session.limit") == {series(): 2000}

    async def test_the_limit_is_absent_while_one_manager_of_the_name_has_no_cap(
        self, signals: Signals, clock: Clock
    ) -> None:
        uncapped = SessionConfig(max_sessions=None)
        async with signals.manager(clock=clock):
            async with signals.manager(uncapped, clock=clock), signals.manager(clock=clock):
                during = signals.export()
            after = signals.export()

        assert "otel_sessions.session.limit" not in during.metrics
        assert after.values("session.limit") == {series(): 1000}

    async def test_a_manager_without_a_cap_takes_no_other_names_limit_away(
        self, signals: Signals, clock: Clock
    ) -> None:
        uncapped = SessionConfig(max_sessions=None)
        async with signals.manager(uncapped, name="one", clock=clock), signals.manager(name="two", clock=clock):
            assert signals.export().values("session.limit") == {series("two"): 1000}

    async def test_of_several_managers_of_a_name_the_latest_is_overdue(self, signals: Signals, clock: Clock) -> None:
        slow, fast = SessionConfig(cleanup_interval=50.0), SessionConfig(cleanup_interval=10.0)
        async with signals.manager(slow, clock=clock), signals.manager(fast, clock=clock):
            await settle()
            clock.skew += 57

            assert signals.export().values("cleanup.overdue") == {series(): pytest.approx(47, abs=0.5)}

    async def test_a_manager_that_is_not_overdue_hides_none_that_is(self, signals: Signals, clock: Clock) -> None:
        other_clock = Clock()
        async with signals.manager(clock=clock), signals.manager(clock=other_clock):
            await settle()
            other_clock.skew += 57

            assert signals.export().values("cleanup.overdue") == {series(): pytest.approx(7, abs=0.5)}


async def enter_named(signals: Signals, clock: Clock, count: int) -> None:
    """Let managers of so many names come and go, with one session each."""
    for number in range(count):
        settings: dict[str, Any] = {"name": f"name {number}", "tracer_provider": trace.NoOpTracerProvider()}
        async with signals.manager(clock=clock, **settings) as manager:
            await manager.create_session()


class TestManyNames:
    async def test_a_hundred_names_are_told_apart(self, signals: Signals, clock: Clock) -> None:
        await enter_named(signals, clock, NAMES)

        assert signals.export().sums("session.created") == {f"name {number}": 1 for number in range(NAMES)}

    async def test_names_past_a_hundred_are_one(self, signals: Signals, clock: Clock) -> None:
        await enter_named(signals, clock, NAMES + 3)

        created = signals.export().sums("session.created")
        assert (len(created), created["_OTHER"]) == (NAMES + 1, 3)

    async def test_a_name_of_the_first_hundred_keeps_its_place(self, signals: Signals, clock: Clock) -> None:
        await enter_named(signals, clock, NAMES + 3)
        async with signals.manager(name="name 0", clock=clock) as manager:
            await manager.create_session()

        assert signals.export().value("session.created", "name 0") == 2

    async def test_histograms_are_folded_like_the_other_metrics(self, signals: Signals, clock: Clock) -> None:
        await enter_named(signals, clock, NAMES)
        async with signals.manager(name="one more", clock=clock) as manager:
            await manager.create_session()
        export = signals.export()

        assert export.histogram("session.duration")[series("_OTHER", reason="shutdown")].count == 1
        assert export.histogram("cleanup.duration")[series("_OTHER", trigger="shutdown", outcome="success")].count == 1

    async def test_the_span_of_a_folded_manager_has_its_own_name(self, signals: Signals, clock: Clock) -> None:
        await enter_named(signals, clock, NAMES)
        async with signals.manager(name="one more", clock=clock):
            pass

        attributes = signals.spans()[-1].attributes
        assert attributes is not None
        assert attributes["otel_sessions.manager.name"] == "one more"

    async def test_each_provider_has_its_own_hundred_names(self, signals: Signals, clock: Clock) -> None:
        await enter_named(signals, clock, NAMES)
        other = Signals()
        async with other.manager(name="one more", clock=clock):
            assert other.export().sums("session.created") == {"one more": 0}


class TestSeveralProviders:
    async def test_each_provider_reports_its_own_managers(self, signals: Signals, clock: Clock) -> None:
        other = Signals()
        async with signals.manager(clock=clock) as one, other.manager(clock=clock) as two:
            await one.create_session()
            await two.create_session()
            await two.create_session()

            assert signals.export().sums("session.created") == {"default": 1}
            assert other.export().sums("session.created") == {"default": 2}

    async def test_each_provider_records_its_own_managers_histograms(self, signals: Signals, clock: Clock) -> None:
        other = Signals()
        async with signals.manager(clock=clock) as one, other.manager(clock=clock):
            await one.create_session("an id")
            await one.close_session("an id")

            assert list(signals.export().histogram("session.duration")) == [series(reason="closed")]
            assert list(other.export().histogram("session.duration")) == []

    async def test_a_provider_is_registered_with_once(self, clock: Clock) -> None:
        provider = AskedByHand()
        async with (
            SessionManager(CONFIG, meter_provider=provider, clock=clock),
            SessionManager(CONFIG, name="another", meter_provider=provider, clock=clock),
        ):
            pass
        async with SessionManager(CONFIG, meter_provider=provider, clock=clock):
            pass

        assert set(provider.created.values()) == {1}

    async def test_a_provider_that_nobody_holds_is_forgotten(self, clock: Clock) -> None:
        provider = MeterProvider([PatientReader()], shutdown_on_exit=False)
        async with SessionManager(CONFIG, meter_provider=provider, clock=clock) as manager:
            await manager.create_session()
        forgotten = weakref.ref(provider)
        del provider, manager

        gc.collect()

        assert forgotten() is None


class AskedByHand(metrics.MeterProvider):
    """A provider whose instruments are read by the test, each when it says so."""

    def __init__(self) -> None:
        self.created: Counter[str] = Counter()
        self._callbacks: dict[str, Callable[[CallbackOptions], list[Observation]]] = {}

    def get_meter(self, name: str, *_: Any, **__: Any) -> metrics.Meter:
        return _MeterAskedByHand(name, self)

    def keep(self, name: str, callbacks: Any) -> None:
        self.created[name] += 1
        if callbacks:
            (self._callbacks[name],) = callbacks

    def ask(self, metric: str) -> float:
        """Return the sum of what an instrument reports now."""
        return sum(observation.value for observation in self._callbacks[f"otel_sessions.{metric}"](CallbackOptions()))


class _MeterAskedByHand(metrics.NoOpMeter):
    def __init__(self, name: str, provider: AskedByHand) -> None:
        super().__init__(name)
        self._provider = provider

    def create_observable_counter(self, name: str, callbacks: Any = None, *_: Any, **__: Any) -> Any:
        self._provider.keep(name, callbacks)

    def create_observable_up_down_counter(self, name: str, callbacks: Any = None, *_: Any, **__: Any) -> Any:
        self._provider.keep(name, callbacks)

    def create_observable_gauge(self, name: str, callbacks: Any = None, *_: Any, **__: Any) -> Any:
        self._provider.keep(name, callbacks)

    def create_histogram(self, name: str, *_: Any, **__: Any) -> metrics.Histogram:
        self._provider.keep(name, None)
        return metrics.NoOpHistogram(name)


class TestSnapshots:
    async def test_the_instruments_of_one_collection_agree(self, clock: Clock) -> None:
        provider = AskedByHand()
        async with SessionManager(CONFIG, meter_provider=provider, clock=clock) as manager:
            await manager.create_session()
            created = provider.ask("session.created")
            await manager.create_session()

            assert (created, provider.ask("session.active"), provider.ask("session.cleaned")) == (1, 1, 0)

    async def test_an_instrument_that_is_asked_again_starts_a_new_collection(self, clock: Clock) -> None:
        provider = AskedByHand()
        async with SessionManager(CONFIG, meter_provider=provider, clock=clock) as manager:
            provider.ask("session.created")
            provider.ask("session.active")
            await manager.create_session()

            assert (provider.ask("session.created"), provider.ask("session.active")) == (1, 1)

    async def test_any_instrument_may_be_the_first_of_a_collection(self, clock: Clock) -> None:
        provider = AskedByHand()
        async with SessionManager(CONFIG, meter_provider=provider, clock=clock) as manager:
            provider.ask("session.created")
            provider.ask("session.active")
            await manager.create_session()

            assert (provider.ask("session.active"), provider.ask("session.created")) == (1, 1)

    async def test_a_collection_on_another_thread_has_a_snapshot_of_its_own(self, clock: Clock) -> None:
        provider = AskedByHand()
        others: list[float] = []
        async with SessionManager(CONFIG, meter_provider=provider, clock=clock) as manager:
            provider.ask("session.created")
            await manager.create_session()
            thread = threading.Thread(target=lambda: others.append(provider.ask("session.active")))
            thread.start()
            thread.join()

            assert (others, provider.ask("session.active")) == ([1], 0)

    async def test_two_providers_have_a_snapshot_each_on_one_thread(self, clock: Clock) -> None:
        one, two = AskedByHand(), AskedByHand()
        async with (
            SessionManager(CONFIG, meter_provider=one, clock=clock) as first,
            SessionManager(CONFIG, meter_provider=two, clock=clock) as second,
        ):
            one.ask("session.created")
            await first.create_session()
            await second.create_session()

            assert (two.ask("session.created"), one.ask("session.active")) == (1, 0)

    async def test_an_export_does_not_end_with_the_error_of_the_one_before(
        self, signals: Signals, clock: Clock
    ) -> None:
        provider = AskedByHand()

        def failing_clock() -> float:
            if fails:
                raise RuntimeError("no time")
            return clock()

        fails = False
        async with SessionManager(CONFIG, meter_provider=provider, clock=failing_clock) as manager:
            await settle()
            provider.ask("session.created")
            await manager.create_session()
            fails = True
            with suppress(RuntimeError):
                provider.ask("session.created")
            fails = False

            assert (provider.ask("session.created"), provider.ask("session.active")) == (1, 1)


def is_settled(export: Export, created: int) -> bool:
    """Return whether so many sessions were made and all of them ended, by `shutdown`."""
    return (
        export.is_balanced
        and export.sums("session.created") == {"default": created}
        and export.not_zero("session.cleaned") == {"shutdown": created}
        and all(
            export.sums(level) == {"default": 0}
            for level in ("session.active", "session.reserved", "session.limit", "cleanup.overdue")
        )
    )


class App:
    """An embedder whose manager reads the time from it."""

    def __init__(self, signals: Signals) -> None:
        self.manager = signals.manager(CONFIG, clock=self.now)

    def now(self) -> float:
        return 0.0


async def one_session(manager: SessionManager[None]) -> None:
    await manager.create_session()
    await let_others_run()


async def one_pin(manager: SessionManager[None]) -> None:
    session = await manager.create_session()
    manager.pin(session.id).__enter__()
    await let_others_run()


async def one_running_hook(manager: SessionManager[None]) -> None:
    session = await manager.create_session()
    asyncio.get_running_loop().create_task(manager.close_session(session.id))
    await let_others_run()


class Growth:
    """How many more objects there are than at first: ours by their names, and all together."""

    def __init__(self, signals: Signals) -> None:
        self._signals = signals
        self._before = self._count()

    def _count(self) -> Counter[str]:
        gc.collect()
        self._signals.export()
        gc.collect()
        return Counter(f"{type(thing).__module__}.{type(thing).__qualname__}" for thing in gc.get_objects())

    def ours(self) -> dict[str, int]:
        grown = self._count() - self._before
        return {name: more for name, more in grown.items() if name.startswith(("otel_sessions", "weakref.finalize"))}

    def total(self) -> int:
        return self._count().total() - self._before.total()


class TestManagersThatAreGone:
    async def test_a_manager_that_was_shut_down_leaves_its_totals(self, signals: Signals, clock: Clock) -> None:
        async with signals.manager(clock=clock, on_close=Hook(error=OSError())) as manager:
            await manager.create_session("an id")
            await manager.close_session("an id")
            await manager.create_session()
        del manager
        gc.collect()
        export = signals.export()

        assert export.value("session.created") == 2
        assert export.not_zero("session.cleaned") == {"closed": 1, "shutdown": 1}
        assert export.not_zero("cleanup.runs") == {"partial shutdown": 1}
        assert export.not_zero("cleanup.errors") == {"OSError hook": 2}

    async def test_a_manager_that_is_gone_has_nothing_any_more(self, signals: Signals, clock: Clock) -> None:
        async with signals.manager(clock=clock) as manager, manager.reserve():
            await manager.create_session()
            await manager.shutdown()
        clock.skew += 1000
        export = signals.export()

        assert export.sums("session.active") == {"default": 0}
        assert export.sums("session.reserved") == {"default": 0}
        assert export.sums("session.limit") == {"default": 0}
        assert export.sums("cleanup.overdue") == {"default": 0}

    async def test_the_totals_of_the_gone_and_of_the_living_are_summed(self, signals: Signals, clock: Clock) -> None:
        for _ in range(3):
            async with signals.manager(clock=clock) as manager:
                await manager.create_session()
                export = signals.export()

        assert (export.value("session.created"), export.sums("session.active")) == (3, {"default": 1})

    async def test_no_series_vanishes_with_its_manager(self, signals: Signals, clock: Clock) -> None:
        async with signals.manager(clock=clock):
            before = signals.export()
        after = signals.export()

        metrics_of = [
            {name: export.values(name.removeprefix("otel_sessions.")).keys() for name in before.metrics}
            for export in (before, after)
        ]
        assert metrics_of[0] == metrics_of[1]

    def test_a_manager_that_was_dropped_with_its_loop_leaves_its_totals(
        self, signals: Signals, anyio_backend: tuple[str, dict[str, Any]]
    ) -> None:
        async def main() -> None:
            manager = await signals.manager(CONFIG).__aenter__()
            await manager.create_session()
            await manager.create_session("leased")
            manager.pin("leased").__enter__()
            await manager.reserve().__aenter__()

        run(anyio_backend, main)
        gc.collect()

        assert is_settled(signals.export(), created=2)

    def test_a_manager_that_was_dropped_with_its_loop_is_collected(
        self, signals: Signals, anyio_backend: tuple[str, dict[str, Any]]
    ) -> None:
        async def main() -> weakref.ref[Any]:
            manager = await signals.manager(CONFIG).__aenter__()
            await manager.create_session()
            return weakref.ref(manager)

        dropped = run(anyio_backend, main)
        gc.collect()

        assert dropped() is None

    def test_a_manager_that_was_dropped_with_its_clock_is_collected(self, signals: Signals) -> None:
        async def main() -> weakref.ref[Any]:
            app = App(signals)
            await one_session(await app.manager.__aenter__())
            return weakref.ref(app)

        dropped = run_on_a_loop_that_dies(main)
        gc.collect()

        assert dropped() is None

    @pytest.mark.parametrize("use", [one_session, one_pin])
    def test_a_manager_whose_loop_died_leaves_its_totals(self, signals: Signals, use: Callable[..., Any]) -> None:
        async def main() -> None:
            await use(await signals.manager(CONFIG).__aenter__())

        run_on_a_loop_that_dies(main)
        gc.collect()

        assert is_settled(signals.export(), created=1)

    def test_a_manager_whose_loop_died_while_a_hook_ran_leaves_balanced_totals(self, signals: Signals) -> None:
        async def main() -> None:
            await one_running_hook(await signals.manager(CONFIG, on_close=Hook(1000.0)).__aenter__())

        run_on_a_loop_that_dies(main)
        gc.collect()
        export = signals.export()

        assert export.is_balanced
        assert (export.value("session.created"), export.sums("session.active")) == (1, {"default": 0})

    def test_a_manager_whose_loop_died_is_collected(self, signals: Signals) -> None:
        async def main() -> weakref.ref[Any]:
            manager = await signals.manager(CONFIG).__aenter__()
            await one_session(manager)
            return weakref.ref(manager)

        dropped = run_on_a_loop_that_dies(main)
        gc.collect()

        assert dropped() is None

    def test_what_is_counted_late_by_a_cancelled_manager_is_reported(self, signals: Signals) -> None:
        exports: list[Export] = []

        async def export_when_cancelled(session: Session[None], reason: EndReason) -> None:
            try:
                await anyio.sleep_forever()
            finally:
                exports.append(signals.export())  # the pass that waits for this hook has not been counted yet

        async def main() -> SessionManager[None]:
            manager = await signals.manager(CONFIG, on_close=export_when_cancelled).__aenter__()
            (await manager.create_session()).fail("upstream hung up")
            asyncio.get_running_loop().create_task(manager.cleanup_stale_sessions())
            await let_others_run()
            (supervisor,) = [task for task in asyncio.all_tasks() if task.get_name() == "otel-sessions supervisor"]
            supervisor.cancel()
            await let_others_run()
            return manager

        manager = asyncio.run(main())
        stats, export = manager.get_metrics(), signals.export()

        assert (len(exports), stats.cleanup_runs) == (1, 1)
        assert export.sums("cleanup.runs") == {"default": stats.cleanup_runs}
        assert export.sums("cleanup.errors") == {"default": stats.cleanup_errors}

    @pytest.mark.no_cover  # the same lines again and again
    async def test_a_thousand_managers_leave_no_growth(self, signals: Signals, clock: Clock) -> None:
        async def come_and_go(times: int) -> None:
            for _ in range(times):
                async with signals.manager(CONFIG, clock=clock, tracer_provider=trace.NoOpTracerProvider()) as manager:
                    await manager.create_session()

        await come_and_go(10)
        growth = Growth(signals)
        await come_and_go(1000)

        assert growth.ours() == {}
        assert growth.total() < 500

    @pytest.mark.no_cover  # the same lines again and again
    def test_a_thousand_managers_whose_loops_died_leave_no_growth(self, signals: Signals) -> None:
        async def main() -> None:
            settings = {"tracer_provider": trace.NoOpTracerProvider()}
            await one_session(await signals.manager(CONFIG, **settings).__aenter__())

        for _ in range(10):
            run_on_a_loop_that_dies(main)
        growth = Growth(signals)
        for _ in range(1000):
            run_on_a_loop_that_dies(main)

        assert growth.ours() == {}
        assert growth.total() < 500
        assert is_settled(signals.export(), created=1010)

    @pytest.mark.no_cover  # the same lines again and again
    async def test_three_hundred_names_leave_no_more_than_the_first_hundred(
        self, signals: Signals, clock: Clock
    ) -> None:
        async def come_and_go(names: range) -> None:
            for number in names:
                settings = {"name": str(number), "tracer_provider": trace.NoOpTracerProvider()}
                async with signals.manager(CONFIG, clock=clock, **settings):
                    pass

        await come_and_go(range(NAMES + 1))
        growth = Growth(signals)
        await come_and_go(range(NAMES + 1, 3 * NAMES))

        assert growth.ours() == {}
        assert growth.total() < 500


class TestLocks:
    @pytest.mark.processes
    def test_an_export_while_the_instruments_are_made_does_not_lock_the_process(self) -> None:
        program = """
        import threading
        import anyio
        from otel_sessions import SessionManager
        from tests.signals import Interrupted, Signals

        def export_elsewhere():
            thread = threading.Thread(target=signals.export, daemon=True)
            thread.start()
            thread.join(timeout=1)

        async def main():
            async with SessionManager(meter_provider=Interrupted(signals.meter_provider, export_elsewhere)):
                print("entered")

        signals = Signals()
        anyio.run(main)
    """

        assert output_of(program) == ["entered"]

    def test_a_manager_that_is_collected_while_another_is_registered_leaves_its_totals(self, signals: Signals) -> None:
        async def main() -> None:
            await one_session(await signals.manager(CONFIG).__aenter__())

        async def another() -> None:
            provider = Interrupted(Signals().meter_provider, gc.collect)
            async with SessionManager(CONFIG, meter_provider=provider):
                pass

        gc.collect()
        gc.disable()
        try:
            run_on_a_loop_that_dies(main)
            anyio.run(another)
        finally:
            gc.enable()

        assert is_settled(signals.export(), created=1)


class TestGlobalProvider:
    @pytest.mark.usefixtures("no_global_provider")
    async def test_a_provider_that_becomes_the_global_one_later_gets_everything(
        self, signals: Signals, clock: Clock
    ) -> None:
        async with SessionManager(CONFIG, clock=clock) as manager:
            await manager.create_session("before")
            metrics.set_meter_provider(signals.meter_provider)
            await manager.create_session("after")
            await manager.close_session("after")
            export = signals.export()

        assert export.value("session.created") == 2
        assert export.histogram("session.duration")[series(reason="closed")].count == 1

    @pytest.mark.usefixtures("no_global_provider")
    async def test_a_manager_that_was_gone_before_the_provider_was_set_is_reported_too(
        self, signals: Signals, clock: Clock
    ) -> None:
        async with SessionManager(CONFIG, clock=clock) as manager:
            await manager.create_session()
        metrics.set_meter_provider(signals.meter_provider)

        assert signals.export().not_zero("session.cleaned") == {"shutdown": 1}

    @pytest.mark.usefixtures("no_global_provider")
    async def test_no_provider_and_the_global_one_are_one(self, signals: Signals, clock: Clock) -> None:
        metrics.set_meter_provider(signals.meter_provider)
        async with (
            SessionManager(CONFIG, clock=clock) as first,
            SessionManager(CONFIG, meter_provider=signals.meter_provider, clock=clock) as second,
        ):
            await first.create_session()
            await second.create_session()

            assert signals.export().value("session.created") == 2

    @pytest.mark.usefixtures("no_global_provider")
    async def test_no_provider_first_and_the_one_that_becomes_global_after_it_are_one(
        self, signals: Signals, clock: Clock
    ) -> None:
        async with SessionManager(CONFIG, clock=clock) as first:
            await first.create_session()
            metrics.set_meter_provider(signals.meter_provider)
            async with SessionManager(CONFIG, meter_provider=signals.meter_provider, clock=clock) as second:
                await second.create_session()

                assert signals.export().value("session.created") == 2

    @pytest.mark.usefixtures("no_global_provider")
    @pytest.mark.parametrize("global_first", [True, False], ids=["explicit later", "explicit first"])
    async def test_an_explicit_provider_that_becomes_the_global_one_is_unified_with_it(
        self, signals: Signals, clock: Clock, global_first: bool
    ) -> None:
        managers = [
            SessionManager(CONFIG, clock=clock),
            SessionManager(CONFIG, meter_provider=signals.meter_provider, clock=clock),
        ]
        one, two = managers if global_first else managers[::-1]
        async with one, two:
            await one.create_session()
            await two.create_session()
            metrics.set_meter_provider(signals.meter_provider)
            await one.create_session("an id")
            await one.close_session("an id")
            await two.create_session("an id")
            await two.close_session("an id")
            export = signals.export()

        assert export.values("session.created") == {series(): 4}
        assert export.not_zero("session.cleaned") == {"closed": 2}
        assert export.not_zero("session.active") == {"unleased": 2}
        assert export.histogram("session.duration")[series(reason="closed")].count == 2
        assert export.values("session.limit") == {series(): 2000}

    @pytest.mark.usefixtures("no_global_provider")
    async def test_boards_that_are_unified_lose_and_double_nothing_of_the_gone(
        self, signals: Signals, clock: Clock
    ) -> None:
        for name in ("one", "two"):
            async with SessionManager(CONFIG, name=name, clock=clock) as manager:
                await manager.create_session()
            async with signals.manager(name=name, clock=clock) as manager:
                await manager.create_session()
        gc.collect()  # else it is chance whether one of them is gone when the boards are unified
        async with SessionManager(CONFIG, name="one", clock=clock) as living:
            await living.create_session()
            metrics.set_meter_provider(signals.meter_provider)
            exports = [signals.export(), signals.export()]
        exports.append(signals.export())

        assert [export.sums("session.created") for export in exports] == [{"one": 3, "two": 2}] * 3
        assert all(export.is_balanced for export in exports)

    @pytest.mark.usefixtures("no_global_provider")
    async def test_a_manager_given_the_stand_in_itself_is_reported_once_there_is_a_provider(
        self, signals: Signals, clock: Clock
    ) -> None:
        stand_in = metrics.get_meter_provider()
        async with signals.manager(clock=clock) as explicit:
            await explicit.create_session()
            metrics.set_meter_provider(signals.meter_provider)
            async with SessionManager(CONFIG, meter_provider=stand_in, clock=clock) as manager:
                await manager.create_session()

                assert signals.export().value("session.created") == 2

    @pytest.mark.usefixtures("no_global_provider")
    async def test_a_name_is_folded_on_every_metric_when_boards_are_unified(
        self, signals: Signals, clock: Clock
    ) -> None:
        await enter_named(signals, clock, NAMES)
        async with SessionManager(CONFIG, name="one more", clock=clock) as manager:
            await manager.create_session("an id")
            metrics.set_meter_provider(signals.meter_provider)
            signals.export()
            await manager.close_session("an id")
            await manager.cleanup_stale_sessions()
            export = signals.export()

        assert export.value("session.created", "_OTHER") == 1
        assert export.histogram("cleanup.duration")[series("_OTHER", trigger="manual", outcome="success")].count == 1
        assert export.histogram("session.duration")[series("_OTHER", reason="closed")].count == 1

    @pytest.mark.usefixtures("no_global_provider")
    async def test_a_global_provider_that_cannot_be_loaded_is_no_reason_to_fail(
        self, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("OTEL_PYTHON_METER_PROVIDER", "there is none of that name")
        async with SessionManager(CONFIG, clock=clock) as manager:
            await manager.create_session()

        assert manager.get_metrics().total_cleaned == 1

    @pytest.mark.usefixtures("no_global_provider")
    async def test_a_global_provider_that_cannot_be_loaded_takes_no_other_providers_metrics_away(
        self, signals: Signals, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with signals.manager(clock=clock) as manager:
            monkeypatch.setenv("OTEL_PYTHON_METER_PROVIDER", "there is none of that name")
            await manager.create_session()

            assert signals.export().sums("session.created") == {"default": 1}

    @pytest.mark.processes
    def test_providers_that_are_set_late_in_a_real_process_lose_and_double_nothing(self) -> None:
        program = """
        import anyio
        from opentelemetry import metrics, trace
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
        from otel_sessions import SessionManager
        from tests.signals import Export, PatientReader

        async def main():
            reader, spans = PatientReader(), InMemorySpanExporter()
            provider, tracer_provider = MeterProvider([reader]), TracerProvider()
            tracer_provider.add_span_processor(SimpleSpanProcessor(spans))
            async with SessionManager() as late, SessionManager(meter_provider=provider) as explicit:
                await late.create_session()
                await explicit.create_session()
                metrics.set_meter_provider(provider)
                trace.set_tracer_provider(tracer_provider)
                await late.create_session()
                await late.cleanup_stale_sessions()
                export = Export(reader)
                print(export.sums("session.created"), export.sums("cleanup.runs"), export.is_balanced)
                (point,) = export.histogram("cleanup.duration").values()
                (span,) = spans.get_finished_spans()
                print(point.count, [e.trace_id for e in point.exemplars] == [span.context.trace_id])
            print(Export(reader).not_zero("session.cleaned"))

        anyio.run(main)
    """

        assert output_of(program) == ["{'default': 3} {'default': 1} True", "1 True", "{'shutdown': 3}"]
