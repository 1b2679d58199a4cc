"""What the proxy uses of uvicorn's and websockets' insides is there in the version that is installed."""

import ast
import inspect
import logging
import textwrap

import pytest
import uvicorn
from uvicorn.protocols.websockets import websockets_sansio_impl
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.asyncio.connection import Connection as UpstreamConnection
from websockets.asyncio.messages import Assembler

from otel_sessions.proxy._uvicorn import REFUSED_HANDSHAKE, Server, quieten
from otel_sessions.proxy.connection import Connection
from otel_sessions.proxy.serving import Limits

pytestmark = pytest.mark.no_cover


async def app(_scope: object, _receive: object, _send: object) -> None:
    """An app that no request reaches."""


async def nothing() -> None:
    """A drain of nothing."""


@pytest.mark.parametrize(
    ("kind", "name", "parameters"),
    [
        (uvicorn.Server, "_serve", ["self", "sockets"]),
        (uvicorn.Server, "startup", ["self", "sockets"]),
        (uvicorn.Server, "shutdown", ["self", "sockets"]),
        (uvicorn.Server, "capture_signals", ["self"]),
        (uvicorn.Server, "handle_exit", ["self", "sig", "frame"]),
        (WebSocketsSansIOProtocol, "connection_made", ["self", "transport"]),
        (WebSocketsSansIOProtocol, "connection_lost", ["self", "exc"]),
        (WebSocketsSansIOProtocol, "handle_events", ["self"]),
        (WebSocketsSansIOProtocol, "eof_received", ["self"]),
        (WebSocketsSansIOProtocol, "pause_writing", ["self"]),
        (WebSocketsSansIOProtocol, "resume_writing", ["self"]),
        (WebSocketsSansIOProtocol, "shutdown", ["self"]),
        (WebSocketsSansIOProtocol, "send_keepalive_ping", ["self"]),
        (WebSocketsSansIOProtocol, "keepalive_timeout", ["self"]),
        (WebSocketsSansIOProtocol, "on_task_complete", ["self", "task"]),
        (WebSocketsSansIOProtocol, "receive", ["self"]),
        (WebSocketsSansIOProtocol, "send", ["self", "message"]),
        (WebSocketsSansIOProtocol, "handle_connect", ["self", "event"]),
        (WebSocketsSansIOProtocol, "handle_text", ["self", "event"]),
        (WebSocketsSansIOProtocol, "handle_bytes", ["self", "event"]),
        (WebSocketsSansIOProtocol, "handle_cont", ["self", "event"]),
        (WebSocketsSansIOProtocol, "handle_ping", ["self"]),
        (WebSocketsSansIOProtocol, "handle_pong", ["self", "event"]),
        (WebSocketsSansIOProtocol, "handle_parser_exception", ["self"]),
        (WebSocketsSansIOProtocol, "send_receive_event_to_app", ["self"]),
        (UpstreamConnection, "connection_made", ["self", "transport"]),
        (UpstreamConnection, "connection_lost", ["self", "exc"]),
        (UpstreamConnection, "data_received", ["self", "data"]),
        (UpstreamConnection, "resume_writing", ["self"]),
        (UpstreamConnection, "process_event", ["self", "event"]),
    ],
    ids=lambda value: value if isinstance(value, str) else getattr(value, "__name__", ""),
)
def test_a_method_that_is_overridden_or_called_is_there(kind: type, name: str, parameters: list[str]) -> None:
    """By its source, because sse-starlette, which other tests import, replaces `handle_exit` of uvicorn's class."""
    (of_class,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(of_class, ast.ClassDef)
    methods = {
        one.name: [argument.arg for argument in one.args.args]
        for one in of_class.body
        if isinstance(one, (ast.FunctionDef, ast.AsyncFunctionDef))
    }

    assert methods.get(name) == parameters, f"uvicorn {uvicorn.__version__}"


@pytest.mark.parametrize(
    ("kind", "name", "called_in"),
    [
        (uvicorn.Server, "self.startup(", "_serve"),
        (uvicorn.Server, "self.shutdown(", "_serve"),
        (uvicorn.Server, "self.servers", "startup"),
        (uvicorn.Server, "self.handle_exit", "capture_signals"),
        (uvicorn.Server, "self._captured_signals", "capture_signals"),
        (uvicorn.Server, "self.should_exit", "on_tick"),
        (UpstreamConnection, "self.process_event(", "data_received"),
        (UpstreamConnection, "self.recv_messages", "connection_made"),
        (UpstreamConnection, "self.paused", "pause_writing"),
        (Assembler, "self.pause()", "maybe_pause"),
        (Assembler, "self.resume()", "maybe_resume"),
        (WebSocketsSansIOProtocol, "self.handle_events(", "data_received"),
        (WebSocketsSansIOProtocol, "self.handle_text(", "handle_events"),
        (WebSocketsSansIOProtocol, "self.handle_bytes(", "handle_events"),
        (WebSocketsSansIOProtocol, "self.handle_cont(", "handle_events"),
        (WebSocketsSansIOProtocol, "self.handle_ping(", "handle_events"),
        (WebSocketsSansIOProtocol, "self.handle_pong(", "handle_events"),
        (WebSocketsSansIOProtocol, "self.handle_connect(", "handle_events"),
        (WebSocketsSansIOProtocol, "self.handle_parser_exception(", "data_received"),
        (WebSocketsSansIOProtocol, "self.on_task_complete", "handle_connect"),
        (WebSocketsSansIOProtocol, "self.scope", "handle_connect"),
        (WebSocketsSansIOProtocol, "self.handshake_complete", "handle_connect"),
        (WebSocketsSansIOProtocol, "self.queue", "receive"),
        (WebSocketsSansIOProtocol, "self.read_paused", "send"),
        (WebSocketsSansIOProtocol, "self.close_sent", "send"),
        (WebSocketsSansIOProtocol, "self.writable", "send"),
        (WebSocketsSansIOProtocol, "self.curr_msg_data_type", "handle_text"),
        (WebSocketsSansIOProtocol, "self.conn", "__init__"),
        (WebSocketsSansIOProtocol, "self.conn.receive_data(", "data_received"),
        (WebSocketsSansIOProtocol, "self.conn.parser_exc", "data_received"),
        (WebSocketsSansIOProtocol, "self.handshake_initiated", "handle_connect"),
        (WebSocketsSansIOProtocol, "self.loop", "__init__"),
        (WebSocketsSansIOProtocol, "self.send_keepalive_ping", "schedule_ping"),
        (WebSocketsSansIOProtocol, "self.keepalive_timeout", "send_keepalive_ping"),
        (WebSocketsSansIOProtocol, "self.ping_timeout", "send_keepalive_ping"),
        (WebSocketsSansIOProtocol, "self.pong_timer", "stop_keepalive"),
        (WebSocketsSansIOProtocol, "self.transport", "connection_made"),
        (ServerState, "self.tasks", "__init__"),
        (ServerState, "self.connections", "__init__"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_an_attribute_is_used_where_the_proxy_relies_on_it(kind: type, name: str, called_in: str) -> None:
    assert name in inspect.getsource(getattr(kind, called_in)), f"uvicorn {uvicorn.__version__}"


def test_a_server_has_what_is_read_of_it() -> None:
    server = Server(app, Limits(), 1, nothing)

    assert server.should_exit is False
    assert server._captured_signals == []
    assert server.server_state.connections == set()


def test_a_server_loads_no_protocols_of_uvicorns_own() -> None:
    config = Server(app, Limits(), 1, nothing).config

    config.load()

    assert config.http_protocol_class is Connection
    assert config.ws_protocol_class is None


def test_a_websocket_that_an_app_refuses_is_logged_in_the_words_that_are_left_out() -> None:
    assert f'"{REFUSED_HANDSHAKE}"' in inspect.getsource(websockets_sansio_impl)


def test_only_those_words_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("uvicorn.error")
    before = list(logger.filters), logging.getLogger("uvicorn").level
    try:
        quieten()
        logger.error(REFUSED_HANDSHAKE)
        logger.error("Exception in ASGI application")
        logger.info("Shutting down")
    finally:
        logger.filters[:] = before[0]
        logging.getLogger("uvicorn").setLevel(before[1])

    assert [record.getMessage() for record in caplog.records] == ["Exception in ASGI application"]
