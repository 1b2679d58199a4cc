"""A process of a fleet as an embedder writes it, for servers in processes of their own."""

import os
from pathlib import Path

from fastapi import FastAPI, Request
from starlette.applications import Starlette
from starlette.routing import Mount

from otel_sessions import SessionManager
from otel_sessions.asgi import SessionLeaseMiddleware, lifespan
from otel_sessions.fleet import StaticPeers
from otel_sessions.matchers import CookieMatcher

WORKER = os.environ["WORKER"]
manager = SessionManager(
    fleet=StaticPeers(Path(os.environ["PEERS"]), name=WORKER, secret="a secret of the whole fleet")
)


def app_with(**settings: object) -> FastAPI:
    app = FastAPI(**settings)  # type: ignore[arg-type]
    app.add_middleware(SessionLeaseMiddleware, manager=manager, matcher=CookieMatcher())

    @app.api_route("/items/{item}", methods=["GET", "POST"])
    async def items(item: str, request: Request, x: str = "") -> dict[str, object]:
        return {"process": WORKER, "item": item, "x": x, "size": len(await request.body())}

    return app


fastapi = app_with(lifespan=lifespan(manager))
mounted = Starlette(routes=[Mount("/inside", app_with())], lifespan=lifespan(manager))
