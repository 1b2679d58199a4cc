"""An app for servers in processes of their own. It counts the requests of each session.

When it stops, after its manager has shut down, it says in one line what became of the sessions.
"""

from typing import Any

from otel_sessions import SessionConfig, SessionManager
from otel_sessions.asgi import SESSION, Receive, RunManager, Send, SessionLeaseMiddleware

manager = SessionManager[None](SessionConfig(drain_timeout=1.0))


async def _live(receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    stats = manager.get_metrics()
    ended = {str(reason): count for reason, count in stats.cleaned_by_reason.items() if count}
    print(f"made {stats.total_created}, ended {ended}, left {len(manager)}", flush=True)  # noqa: T201  # for the test
    await send({"type": "lifespan.shutdown.complete"})


async def _serve(scope: Any, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await _live(receive, send)
    elif scope["type"] == "http":
        body = str(scope[SESSION].metadata.message_count).encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": body})
    else:
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            count = scope[SESSION].metadata.message_count
            await send({"type": "websocket.send", "text": f"{message['text']} of {count}"})


app = RunManager(SessionLeaseMiddleware(_serve, manager), manager)
