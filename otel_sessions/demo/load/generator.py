"""The load as a program: it loads a proxy until it is stopped, and reports its counts.

Every line goes to the log, so that log storage has the lines of the load beside the lines of the proxy.
"""

import logging
import signal
from dataclasses import dataclass
from functools import partial
from typing import Final

import anyio
from anyio.abc import TaskStatus

from otel_sessions._program.logs import log_to_stderr
from otel_sessions._program.otlp import exporting
from otel_sessions._program.signals import ending

from .clients import Load, LoadOptions
from .counts import ClientCounts
from .mcp import connections
from .scenario import PHASES, STEADY, Scenario

_LOOK_SECONDS: Final = 1.0
_LINE_SECONDS: Final = 10.0

_logger = logging.getLogger("otel_sessions.load")


@dataclass(frozen=True, kw_only=True, slots=True)
class Options(LoadOptions):
    """The options of the command line. `duration` and `cycle` are in seconds. Without a duration, only a signal ends
    the load. With `steady`, all clients are active all the time."""

    target: str
    duration: float | None
    cycle: float
    steady: bool


def generate(options: Options) -> int:
    """Load the target until the time is over or a signal comes. Return 0, or 1 if the target has never answered."""
    log_to_stderr("message")
    with exporting("otel-sessions-load"):
        counts = anyio.run(_generate, options)
    return 0 if counts.answered else 1


async def _generate(options: Options) -> ClientCounts:
    scenario = Scenario(phases=STEADY if options.steady else PHASES, seconds=options.cycle)
    load = Load(partial(connections, options.target), options, seconds=options.duration, scenario=scenario)
    silence = _Silence(options.target, load.counts)
    async with anyio.create_task_group() as tasks:
        await tasks.start(_stop_on_signal, load)
        _logger.info("%d virtual clients load %s", options.clients, options.target)
        tasks.start_soon(_report, load, silence)
        await load.run()
        tasks.cancel_scope.cancel()
    silence.look()
    if not load.counts.requests:
        _logger.warning("no request was made to %s; a longer --duration may help", options.target)
    _logger.info("the end: %s", _sums(load.counts))
    return load.counts


async def _stop_on_signal(load: Load, *, task_status: TaskStatus[None]) -> None:
    """Stop the load on the first signal. A second SIGINT or SIGTERM ends the program at once.

    A terminal that closes may send SIGHUP twice, so a further SIGHUP does nothing.
    """
    with anyio.open_signal_receiver(*ending()) as signals:
        task_status.started()
        stopping = False
        async for number in signals:
            if not stopping:
                stopping = True
                load.stop()
            elif number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)
                signal.raise_signal(number)


class _Silence:
    """Logs a line when the target stops answering: one line each time."""

    def __init__(self, target: str, counts: ClientCounts) -> None:
        self._target = target
        self._counts = counts
        self._answered = self._unanswered = 0
        self._silent = False

    def look(self) -> None:
        """Compare the counts with the counts of the last look."""
        counts = self._counts
        answered, unanswered = counts.answered - self._answered, counts.unanswered - self._unanswered
        self._answered, self._unanswered = counts.answered, counts.unanswered
        if answered:
            self._silent = False
        elif unanswered and not self._silent:
            self._silent = True
            _logger.warning("%s does not answer (%s)", self._target, counts.silence)


async def _report(load: Load, silence: _Silence) -> None:
    """Log the counts now and then, and each phase when it begins."""
    began = said = anyio.current_time()
    phase = ""
    while True:
        now, stage = anyio.current_time(), load.stage
        if stage.phase != phase:
            _logger.info("phase %s", stage.phase)
            phase = stage.phase
        silence.look()
        if now - said >= _LINE_SECONDS:
            _logger.info("%.0f s: %s", now - began, _sums(load.counts))
            said = now
        await anyio.sleep(_LOOK_SECONDS)


def _sums(counts: ClientCounts) -> str:
    return (
        f"opened {counts.opened}, closed {counts.closed}, abandoned {counts.abandoned}, "
        f"rejected {counts.rejected}, gone {counts.gone}; requests {counts.requests}, "
        f"unexpected {counts.unexpected}, p99 {counts.p99 * 1000:.0f} ms"
    )
