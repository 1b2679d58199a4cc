"""Apps as the users of several workers write them: three lines for sessions that every worker finds."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI, Request, WebSocket
from starlette.applications import Starlette
from starlette.routing import Mount

from otel_sessions import Session, SessionManager
from otel_sessions.asgi import SessionLeaseMiddleware, lifespan
from otel_sessions.fleet import Orphan, ValkeyFleet, WorkerPeers
from otel_sessions.matchers import CookieMatcher
from tests.fleet.member import fleet


def fleet_of_worker() -> WorkerPeers | ValkeyFleet:
    """Return the fleet of a worker: with a store where the environment names one."""
    folder, store = Path(os.environ["FOLDER"]), os.environ.get("STORE")
    if store is None:
        return WorkerPeers(folder)
    address = os.environ["ADDRESS"].format(folder=folder)
    return fleet(store, address=address, lease=float(os.environ["LEASE"]), describe=ticket, on_orphan=note)


def ticket(session: Session[None]) -> bytes:
    return session.id.encode()


async def note(orphan: Orphan) -> None:
    """Note which process has ended which session of a dead one."""
    append(Path(os.environ["ORPHANS"]), f"{os.getpid()} {orphan.blob.decode()}\n")


def append(path: Path, line: str) -> None:
    with path.open("a") as file:
        file.write(line)


manager = SessionManager(fleet=fleet_of_worker())


@asynccontextmanager
async def state(app: object) -> AsyncIterator[dict[str, object]]:
    yield {"started_in": os.getpid()}


def app_with(**settings: object) -> FastAPI:
    app = FastAPI(**settings)  # type: ignore[arg-type]
    app.add_middleware(SessionLeaseMiddleware, manager=manager, matcher=CookieMatcher(), skip=["/books"])

    @app.api_route("/items/{item}", methods=["GET", "POST"])
    async def items(item: str, request: Request) -> dict[str, object]:
        session = request.scope["otel_sessions.session"]
        return {
            "process": os.getpid(),
            "started_in": getattr(request.state, "started_in", None),
            "path": request.url.path,
            "hint": session.id.partition(".")[0],
            "size": len(await request.body()),
        }

    @app.get("/books")
    async def books() -> dict[str, object]:
        stats = manager.get_metrics()
        return {"process": os.getpid(), "created": stats.total_created, "active": stats.currently_active}

    @app.websocket("/echo")
    async def echo(socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_json({"process": os.getpid()})
        await socket.send_text(await socket.receive_text())
        await socket.close()

    return app


fastapi = app_with(lifespan=lifespan(manager, state))
mounted = Starlette(routes=[Mount("/inside", app_with())], lifespan=lifespan(manager, state))
