"""A real admin API on loopback, whose manager runs in a thread of its own, and answers of others."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from anyio.from_thread import BlockingPortal, start_blocking_portal

from otel_sessions import SessionConfig, SessionManager
from otel_sessions.admin import admin_app
from otel_sessions.cli import main
from tests.admin.fleets import Fleet
from tests.virtual import Clock
from tests.waiting import until

TOKEN = "the-token"


@dataclass(frozen=True, kw_only=True)
class Served:
    """The admin API of a manager, which tests reach through `portal`."""

    url: str
    manager: SessionManager[None]
    clock: Clock
    portal: BlockingPortal
    hang_up: Callable[[], None]
    """Stop the server, as if the process was killed."""
    fleet: Fleet | None = None

    def create(self, name: str, client: str | None = None) -> None:
        async def create() -> None:
            await self.manager.create_session(name, data=None, client=client)

        self.portal.call(create)

    def stop(self) -> None:
        self.portal.call(self.manager.shutdown)


@pytest.fixture
def served() -> Iterator[Served]:
    with serving(None) as served:
        yield served


@pytest.fixture
def served_among_others() -> Iterator[Served]:
    """The process `w2` of a fleet. The process `w1` answers, `w3` is silent."""
    fleet = Fleet()
    with serving(fleet) as served:
        other = SessionManager[None](served.manager.config, name="proxy", clock=served.clock)
        fleet.managers = {"w1": other, "w3": SessionManager[None]()}
        fleet.silent = {"w3"}
        with served.portal.wrap_async_context_manager(other):
            yield served


@contextlib.contextmanager
def serving(fleet: Fleet | None) -> Iterator[Served]:
    clock = Clock()
    config = SessionConfig(cleanup_interval=600, max_idle_time=100, max_sessions=10)
    with start_blocking_portal("asyncio") as portal:
        manager = SessionManager[None](config, name="proxy", clock=clock, fleet=fleet)
        with portal.wrap_async_context_manager(manager), listening(admin_app(manager, token=TOKEN), portal) as server:
            url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"

            def hang_up() -> None:
                server.should_exit = True

            yield Served(url=url, manager=manager, clock=clock, portal=portal, hang_up=hang_up, fleet=fleet)


@contextlib.contextmanager
def listening(app: Any, portal: BlockingPortal) -> Iterator[uvicorn.Server]:
    settings: dict[str, Any] = {"port": 0, "log_config": None, "lifespan": "off", "ws": "none"}
    server = uvicorn.Server(uvicorn.Config(app, **settings))
    done = portal.start_task_soon(server.serve)
    until(lambda: server.started, bool)
    yield server
    server.should_exit = True
    done.result()


Command = Callable[..., int]


@pytest.fixture
def command(served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run a command towards the API, with its address and its token as flags."""
    monkeypatch.setattr("sys.stdin", None)
    (tmp_path / "token").write_text(f"{TOKEN}\n")

    def run(name: str, *flags: str) -> int:
        return main([name, "--admin", served.url, "--admin-token-file", str(tmp_path / "token"), *flags])

    return run


@dataclass(kw_only=True)
class Other:
    """A server that gives the same answers to everybody, one after the other, and the last one for ever."""

    answers: list[tuple[int, dict[str, str], bytes]]
    url: str = ""


class _Handler(BaseHTTPRequestHandler):
    def __init__(self, other: Other, *arguments: Any) -> None:
        self.other = other
        super().__init__(*arguments)

    def do_GET(self) -> None:  # the name that the class asks for
        answers = self.other.answers
        status, headers, content = answers.pop(0) if len(answers) > 1 else answers[0]
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    do_DELETE = do_POST = do_GET  # noqa: N815  # the names that the class asks for

    def log_message(self, *_arguments: Any) -> None:
        pass


@contextlib.contextmanager
def answering(*answers: tuple[int, dict[str, str], bytes]) -> Iterator[Other]:
    other = Other(answers=list(answers))
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, other)) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        other.url = f"http://127.0.0.1:{server.server_address[1]}"
        yield other
        server.shutdown()
        thread.join()
