"""One run of the demo, from free ports to the verdict and the report.

The upstream starts before the proxies and stops after them, so that the proxies can end their sessions there. The last
reading of a proxy, taken after its manager's shutdown, decides.
"""

import os
import signal
import socket
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from textwrap import fill
from typing import Final

import anyio

from otel_sessions import SessionConfig
from otel_sessions._program.exporters import ENDPOINT
from otel_sessions._program.signals import hangups
from otel_sessions._program.sockets import listen_as

from .limits import BUFFER_BYTES, demo_limits, flags_of, without_cleanup
from .load.clients import Load, LoadOptions
from .load.mcp import connections
from .load.scenario import PHASES, Scenario, Stage
from .processes.children import HOST, Child, running, url_of
from .processes.contender import Contender, pace
from .result.history import State
from .result.live import WIDTH, Show, say, showing, sum_up
from .result.report import FILES, require_writable, write_report
from .result.verdict import judge

_LOOK_SECONDS: Final = 0.25
_START_SECONDS: Final = 30.0
_SETTLED_SECONDS: Final = 5.0
"""The extra time that a busy proxy may need for its readings at the end."""
_END: Final = Stage(phase="the end", present=0.0, leaves=False)
"""The stage when the time of the scenario is over and requests are still running."""


class DemoFailed(Exception):
    """A process ended early or did not start. The message names the process."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Part:
    """A process of the demo: its name here and in telemetry, its program, and the flag for its port."""

    name: str
    instance: str
    module: str
    flag: str


_UPSTREAM: Final = _Part(name="the upstream", instance="demo-upstream", module="upstream", flag="--upstream-port")
_OURS: Final = _Part(name="the proxy", instance="demo", module="proxy", flag="--port")
_TWIN: Final = _Part(name="the twin", instance="demo-without-cleanup", module="proxy", flag="--twin-port")


@dataclass(frozen=True, kw_only=True, slots=True)
class Options(LoadOptions):
    """The options of the command line. `duration` is in seconds. Port 0 means any free port."""

    duration: float
    twin: bool
    report: Path
    otlp: str | None
    port: int
    twin_port: int
    upstream_port: int


def run(options: Options) -> int:
    """Run the demo, print the result and write the report. Return 0, or 1 if the verdict is bad.

    Raises `ConfigError`, `DemoFailed`, `OutputClosed`, `OutputFailed` and `ReportFailed`, and
    `KeyboardInterrupt` on SIGTERM and SIGHUP as on SIGINT.
    """
    limits = demo_limits(options.clients)
    require_writable(options.report)
    with others_as_sigint():
        state = anyio.run(_run, options, limits)
        verdict = judge(state.ours, state.twin, options.clients)
        sum_up(state, verdict)
        write_report(options.report, state, verdict)
        say("", f"The report is in {options.report}: {', '.join(FILES)}")
    return 0 if verdict.passed else 1


async def _run(options: Options, limits: SessionConfig) -> State:
    """Run all processes as long as the load lasts, and return what was seen.

    An interruption comes only at an `await`, so every process that was started is known and is stopped.
    """
    limits_of = {_OURS: limits, _TWIN: without_cleanup(limits)} if options.twin else {_OURS: limits}
    ports = {_UPSTREAM: options.upstream_port, _OURS: options.port, _TWIN: options.twin_port}
    with ExitStack() as stack:
        parts = [_UPSTREAM, *limits_of]
        listeners = {part: stack.enter_context(listen_as(part.flag, (HOST, ports[part]))) for part in parts}
        urls = {part: url_of(listener) for part, listener in listeners.items()}
        say(*_greeting(options, limits, urls))
        children = {}
        for part, listener in listeners.items():
            to_proxy = ["--upstream", urls[_UPSTREAM], "--readings", str(pace(options.duration))]
            arguments = [*to_proxy, *flags_of(limits_of[part])] if part in limits_of else []
            children[part] = stack.enter_context(_running(part, listener, arguments, options.otlp))
        contenders = [Contender(its, children[part], _load(options, urls[part])) for part, its in limits_of.items()]
        await _drive(options, contenders, children)
        for contender in contenders:
            contender.proxy.ask_to_stop()
        for contender in contenders:
            contender.close()
    return _state(options, contenders, options.duration, None)


@contextmanager
def _running(part: _Part, listener: socket.socket, arguments: list[str], otlp: str | None) -> Iterator[Child]:
    """Run a part. Its lines on stderr are printed afterwards, because they would spoil the view."""
    given = os.environ.get("OTEL_RESOURCE_ATTRIBUTES")
    attributes = [*([given] if given else []), f"service.instance.id={part.instance}"]
    environ = {"OTEL_RESOURCE_ATTRIBUTES": ",".join(attributes)} | ({} if otlp is None else {ENDPOINT: otlp})
    complaints: Iterable[str] = ()
    try:
        with running(part.module, listener, *arguments, environ=environ) as child:
            complaints = child.stderr_tail
            yield child
    finally:
        sys.stderr.writelines(f"{part.name}: {line}\n" for line in complaints)


async def _drive(options: Options, contenders: list[Contender], children: Mapping[_Part, Child]) -> None:
    """Load all proxies at once, watch them, and show what is seen."""
    await _until_started(contenders, children)
    began = anyio.current_time()
    with showing(options.duration, twin=options.twin) as show, ungrouped():
        async with anyio.create_task_group() as watching:
            watching.start_soon(_watch, options, contenders, children, began, show, watching.cancel_scope)
            async with anyio.create_task_group() as loads:
                for contender in contenders:
                    loads.start_soon(contender.load.run)
            watching.cancel_scope.cancel()
        await _until_settled(options, contenders)
    for name in _ended(children):
        raise DemoFailed(f"{name} ended under load")
    for contender in contenders:
        contender.look(anyio.current_time() - began)


async def _until_started(contenders: list[Contender], children: Mapping[_Part, Child]) -> None:
    end = anyio.current_time() + _START_SECONDS
    while not all(contender.started for contender in contenders):
        late = [part.name for part, child in children.items() if part is not _UPSTREAM and child.last_line is None]
        for name in _ended(children) or (late if anyio.current_time() > end else []):
            raise DemoFailed(f"{name} did not start")
        await anyio.sleep(_LOOK_SECONDS / 5)


async def _watch(
    options: Options,
    contenders: list[Contender],
    children: Mapping[_Part, Child],
    began: float,
    show: Show,
    load: anyio.CancelScope,
) -> None:
    """Look at a steady pace. End the load if a process is gone; if the twin was killed, end only the twin's load."""
    looks = 0
    while not _ended(children):
        looks += 1
        await anyio.sleep_until(began + looks * _LOOK_SECONDS)
        elapsed = anyio.current_time() - began
        for contender in contenders:
            contender.look(elapsed)
            if contender.killed:
                contender.load.stop()
        show(_state(options, contenders, elapsed, contenders[0].load.stage if elapsed < options.duration else _END))
    load.cancel()


async def _until_settled(options: Options, contenders: list[Contender]) -> None:
    """Wait for a reading of each proxy that began after its load, so that the reading has all of the load."""
    enough = {contender: contender.proxy.lines + 2 for contender in contenders}  # the next one may be under way
    seconds = pace(options.duration)
    end = anyio.current_time() + _SETTLED_SECONDS + 2 * seconds
    while any(contender.proxy.lines < lines and not contender.proxy.ended for contender, lines in enough.items()):
        if anyio.current_time() > end:
            return
        await anyio.sleep(seconds / 5)


def _ended(children: Mapping[_Part, Child]) -> list[str]:
    """Return the names of processes that ended early. A twin that was killed is a result, not a failure."""
    return [part.name for part, child in children.items() if child.ended and not (part is _TWIN and child.killed)]


def _state(options: Options, contenders: list[Contender], elapsed: float, stage: Stage | None) -> State:
    ours, *twin = (contender.history for contender in contenders)
    return State(
        ours=ours,
        twin=twin[0] if twin else None,
        duration=options.duration,
        elapsed=elapsed,
        stage=stage,
        load=options,
    )


def _load(options: Options, url: str) -> Load:
    scenario = Scenario(phases=PHASES, seconds=options.duration)
    return Load(partial(connections, url), options, seconds=options.duration, scenario=scenario)


def _greeting(options: Options, limits: SessionConfig, urls: Mapping[_Part, str]) -> Iterator[str]:
    who = f"{options.clients} virtual MCP clients use the proxy at {urls[_OURS]} for {options.duration:g} s."
    if _TWIN in urls:
        who += f" The same clients use a twin without cleanup and cap at {urls[_TWIN]}."
    yield fill(who, WIDTH)
    yield fill(
        f"Limits: sessions {_limit(limits.max_sessions)}, idle {_limit(limits.max_idle_time, ' s')}, age "
        f"{_limit(limits.max_session_age, ' s')}; a cleanup pass every {limits.cleanup_interval:g} s. Each session "
        f"holds {BUFFER_BYTES // 1024} KiB, which stand for the memory of a real session.",
        WIDTH,
    )


def _limit(value: float | None, unit: str = "") -> str:
    return "off" if value is None else f"{value:g}{unit}"


@contextmanager
def ungrouped() -> Iterator[None]:
    """Raise the error of a single task by itself, without the groups of the task groups."""
    try:
        yield
    except ExceptionGroup as group:
        error: Exception = group
        while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]
        raise error from None


@contextmanager
def others_as_sigint() -> Iterator[None]:
    """Let SIGTERM and SIGHUP interrupt the block as SIGINT does."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in a shell's background, where SIGTERM must end the demo
        signal.signal(signal.SIGINT, signal.default_int_handler)
    usual = {
        number: signal.signal(number, lambda *_: signal.raise_signal(signal.SIGINT))
        for number in (signal.SIGTERM, *hangups())
    }
    try:
        yield
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)
