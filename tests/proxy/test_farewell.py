"""What the upstream answers when it is told that a session is over, and what the proxy makes of the answer."""

import logging
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import anyio
import pytest

from otel_sessions import SessionConfig, SessionManager, fingerprint
from otel_sessions.proxy.farewell import Farewell
from otel_sessions.proxy.peer import Peer
from otel_sessions.proxy.rules import Timeouts
from otel_sessions.proxy.upstream import Upstream
from tests.waiting import PATIENCE

pytestmark = [pytest.mark.anyio, pytest.mark.processes]

ID = "an-id-that-nobody-may-read"
TOLD = [200, 202, 204, 299, 400, 404, 405, 410, 501]
REFUSED = [301, 307, 401, 403, 408, 409, 418, 421, 429, 500, 502, 503, 504]


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    """The loops on which the proxy runs, in real time: the upstream is a real server."""
    return "asyncio", {"use_uvloop": request.param}


class FakeUpstream(ThreadingHTTPServer):
    """A server that answers what it is told to, and breaks the first `breaks` connections on a DELETE."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.status = 204
        self.breaks = 0
        self.silent = threading.Event()
        """Set while it answers; cleared, it never does."""
        self.silent.set()
        self.deletes: list[tuple[int, str | None, str]] = []
        """Of each DELETE, the port of its connection, the session, and the target."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of connections that break."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeUpstream

    def do_GET(self) -> None:
        self._answer(200)

    def do_DELETE(self) -> None:
        port: int = self.client_address[1]
        self.server.deletes.append((port, self.headers["mcp-session-id"], self.path))
        if len(self.server.deletes) <= self.server.breaks:
            self.close_connection = True
            return
        self.server.silent.wait(PATIENCE)
        self._answer(self.server.status)

    def _answer(self, status: int) -> None:
        self.send_response(status)
        if status != 204:
            self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[FakeUpstream]:
    with FakeUpstream() as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        yield server
        server.silent.set()
        server.shutdown()
        thread.join()


@asynccontextmanager
async def proxying(url: str, close_timeout: float = PATIENCE) -> AsyncIterator[tuple[SessionManager[Peer], Farewell]]:
    """Run a manager that says farewell to the upstream at `url`, as the proxy's does."""
    async with Upstream(url) as upstream:
        farewell = Farewell(upstream, close_timeout)
        config = SessionConfig(close_timeout=close_timeout)
        async with SessionManager[Peer](config, on_close=farewell.to) as manager:
            yield manager, farewell


async def ended(manager: SessionManager[Peer]) -> int:
    """Open a session and end it; return how many errors that has counted."""
    await manager.create_session(ID, data=Peer(b"/mcp?key=1", []))
    assert await manager.close_session(ID)
    return manager.get_metrics().cleanup_errors


@pytest.mark.parametrize("status", TOLD)
async def test_an_upstream_that_has_been_told_counts_no_error(
    server: FakeUpstream, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    server.status = status
    async with proxying(server.url) as (manager, _):
        assert await ended(manager) == 0

    assert [delete[1:] for delete in server.deletes] == [(ID, "/mcp?key=1")]
    assert caplog.record_tuples == []


@pytest.mark.parametrize("status", REFUSED)
async def test_any_other_answer_is_counted_and_told_and_not_asked_for_again(
    server: FakeUpstream, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    server.status = status
    async with proxying(server.url) as (manager, _):
        assert await ended(manager) == 1

    assert len(server.deletes) == 1
    assert f"the upstream answered {status} to the DELETE for a session" in caplog.text
    assert fingerprint(ID) in caplog.text
    assert ID not in caplog.text


@pytest.mark.parametrize("status", [204, 404])
async def test_a_connection_that_breaks_is_tried_again_once_on_a_new_one(server: FakeUpstream, status: int) -> None:
    server.breaks, server.status = 1, status
    async with proxying(server.url) as (manager, _):
        assert await ended(manager) == 0

    (first, *_), (second, *_) = server.deletes
    assert first != second


async def test_a_connection_that_breaks_twice_is_counted_and_told(
    server: FakeUpstream, caplog: pytest.LogCaptureFixture
) -> None:
    server.breaks = 2
    async with proxying(server.url) as (manager, _):
        assert await ended(manager) == 1

    assert len(server.deletes) == 2
    assert "the DELETE for a session did not reach the upstream (HungUp)" in caplog.text


async def test_an_answer_on_the_second_try_is_judged_as_any_other(server: FakeUpstream) -> None:
    server.breaks, server.status = 1, 500
    async with proxying(server.url) as (manager, _):
        assert await ended(manager) == 1

    assert len(server.deletes) == 2


async def test_connections_that_died_while_they_were_kept_do_not_count_as_tries(server: FakeUpstream) -> None:
    async with Upstream(server.url) as upstream:
        timeouts = Timeouts(connect_timeout=PATIENCE, idle_timeout=PATIENCE)
        with upstream.call(b"GET", b"/", [], None, timeouts) as call:
            await call.head()
            while await call.read(PATIENCE):
                pass
        server.breaks = 1  # as a server that was restarted breaks what was kept
        async with SessionManager[Peer](on_close=Farewell(upstream, PATIENCE).to) as manager:
            assert await ended(manager) == 0

    (first, *_), (second, *_) = server.deletes
    assert first != second


async def test_an_upstream_where_nobody_listens_is_counted_and_told(
    server: FakeUpstream, caplog: pytest.LogCaptureFixture
) -> None:
    with FakeUpstream() as closed:
        url = closed.url
    async with proxying(url) as (manager, _):
        assert await ended(manager) == 1

    assert "the DELETE for a session did not reach the upstream (CannotConnect)" in caplog.text


async def test_an_upstream_that_never_answers_is_given_up_after_the_close_timeout(
    server: FakeUpstream, caplog: pytest.LogCaptureFixture
) -> None:
    server.silent.clear()
    async with proxying(server.url, close_timeout=0.2) as (manager, _):
        assert await ended(manager) == 1

    assert len(server.deletes) <= 1  # it may not have come so far
    assert fingerprint(ID) in caplog.text
    assert ID not in caplog.text


class TestForeignSessions:
    """Sessions of the upstream that cannot be sessions here."""

    @pytest.mark.parametrize("status", [204, 405])
    async def test_a_stray_session_is_ended_in_silence(
        self, server: FakeUpstream, status: int, caplog: pytest.LogCaptureFixture
    ) -> None:
        server.breaks, server.status = 1, status
        async with proxying(server.url) as (_, farewell):
            await farewell.to_stray(ID, b"/mcp", [])

        assert [delete[1:] for delete in server.deletes] == [(ID, "/mcp")] * 2
        assert caplog.record_tuples == []

    async def test_a_stray_session_that_stays_upstream_is_told_in_one_line(
        self, server: FakeUpstream, caplog: pytest.LogCaptureFixture
    ) -> None:
        server.status = 403
        async with proxying(server.url) as (_, farewell):
            await farewell.to_stray(ID, b"/mcp", [])

        (record,) = caplog.records
        assert (record.name, record.levelno) == ("otel_sessions.proxy", logging.WARNING)
        assert record.getMessage() == (
            f"the upstream may still hold session {fingerprint(ID)}, which is not counted: "
            "the upstream answered 403 to the DELETE for a session"
        )

    async def test_a_stray_session_is_given_up_in_time_also_by_a_request_that_is_cancelled(
        self, server: FakeUpstream, caplog: pytest.LogCaptureFixture
    ) -> None:
        server.silent.clear()
        async with proxying(server.url, close_timeout=0.2) as (_, farewell):
            with anyio.CancelScope() as cancelled:
                cancelled.cancel()
                await farewell.to_stray(ID, b"/mcp", [])

        assert f"the upstream may still hold session {fingerprint(ID)}" in caplog.text
