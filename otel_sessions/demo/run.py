"""One run of the demo, from free ports to the verdict.

The upstream is started before the proxy and stopped after it. The proxy's own last reading, from behind its
manager's shutdown, has the last word.
"""

import signal
from dataclasses import dataclass
from functools import partial
from textwrap import fill

import anyio
import httpx2

from otel_sessions import SessionConfig

from .connections import connections
from .limits import demo_limits
from .load import Load
from .phases import PHASES, Story
from .processes import HOST, Child, listen, running, url_of
from .progress import Show, progress
from .reading import Reading
from .summary import MIB, Run, exit_status, table, verdict
from .tally import Tally, percentile

_WIDTH = 100
_READING_SECONDS = 0.5
_START_SECONDS = 30.0
_RECENT = 1000
"""How many requests the latency in the progress line is about."""


class ProxyLost(Exception):
    """The proxy ended, or never answered; what it had to say about that is on stderr."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """What the command line asks for; `duration` in seconds, a port of 0 is any free one."""

    duration: float
    clients: int
    seed: int
    port: int
    upstream_port: int


def run(options: Options) -> int:
    """Run the demo and print what it comes to; return 0, or 1 if the verdict is bad.

    Raises `ConfigError`, `PortTaken` and `ProxyLost`, and `KeyboardInterrupt` on SIGTERM as on SIGINT.
    """
    usual = signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        outcome = anyio.run(_run, options)
    finally:
        signal.signal(signal.SIGTERM, usual)
    print("", *table(outcome), "", *(fill(line, _WIDTH) for line in verdict(outcome)), sep="\n", flush=True)
    return exit_status(outcome)


async def _run(options: Options) -> Run:
    config = demo_limits(options.clients)
    with (
        listen(HOST, options.upstream_port, "--upstream-port") as behind,
        listen(HOST, options.port, "--port") as front,
    ):
        upstream, proxy = url_of(behind), url_of(front)
        print(_greeting(options, config, proxy, upstream), flush=True)
        load = Load(
            partial(connections, proxy),
            clients=options.clients,
            seconds=options.duration,
            seed=options.seed,
            rate=1.0,
            story=Story(phases=PHASES, seconds=options.duration),
        )
        arguments = ("--upstream", upstream, "--clients", str(options.clients))
        async with running("upstream", behind), running("proxy", front, *arguments) as child:
            readings = await _drive(proxy, child, options.duration, load)
            last = await child.stop()
    return Run(
        readings=readings,
        last=Reading.from_json(last) if last else None,
        cap=config.max_sessions,
        clients=options.clients,
        tally=load.tally,
    )


async def _drive(proxy: str, child: Child, duration: float, load: Load) -> list[Reading]:
    """Load the proxy and return its readings, the first from before the load."""
    async with connections(proxy) as http:
        readings = [await _first_reading(http)]
        with progress(duration) as show:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_watch, http, child, tasks.cancel_scope, readings, load, show)
                await load.run()
                tasks.cancel_scope.cancel()
    if child.ended:
        raise ProxyLost("the proxy ended under load")
    return readings


async def _first_reading(http: httpx2.AsyncClient) -> Reading:
    try:
        return await _reading(http, timeout=_START_SECONDS)
    except httpx2.HTTPError as error:
        raise ProxyLost("the proxy did not start") from error


async def _reading(http: httpx2.AsyncClient, timeout: float) -> Reading:
    answer = await http.get("/stats", timeout=timeout)
    return Reading.from_json(answer.raise_for_status().text)


async def _watch(
    http: httpx2.AsyncClient,
    child: Child,
    load_scope: anyio.CancelScope,
    readings: list[Reading],
    load: Load,
    show: Show,
) -> None:
    """Read and show how the proxy does, at a steady pace; end the load if the proxy is gone."""
    start = anyio.current_time()
    while not child.ended:
        await anyio.sleep(_READING_SECONDS)
        try:
            readings.append(await _reading(http, timeout=_READING_SECONDS * 4))
        except httpx2.HTTPError:
            continue  # it is overloaded, or gone
        elapsed = anyio.current_time() - start
        show(elapsed, _progress_line(elapsed, load.moment.phase, readings[-1], load.tally))
    load_scope.cancel()


def _greeting(options: Options, config: SessionConfig, proxy: str, upstream: str) -> str:
    return (
        f"{options.clients} virtual clients for {options.duration:g} s, through the proxy at {proxy}, to the upstream "
        f"at {upstream}\n"
        f"limits: sessions {_limit(config.max_sessions)}, idle {_limit(config.max_idle_time, ' s')}, "
        f"age {_limit(config.max_session_age, ' s')}; a cleanup pass every {config.cleanup_interval:g} s"
    )


def _limit(value: float | None, unit: str = "") -> str:
    return "off" if value is None else f"{value:g}{unit}"


def _progress_line(elapsed: float, phase: str, reading: Reading, tally: Tally) -> str:
    return (
        f"{elapsed:3.0f} s  {phase:<11}  "
        f"created {reading.created} = cleaned {reading.total_cleaned} + active {reading.active}  "
        f"rejected {reading.total_rejected}  {reading.memory / MIB:.0f} MiB  "
        f"p99 {percentile(tally.recent(_RECENT), 0.99) * 1000:.0f} ms"
    )
