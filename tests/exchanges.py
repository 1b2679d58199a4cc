"""A client's side of exchanges with an ASGI app: what it says, and what it has been sent."""

from dataclasses import dataclass, field

import anyio

from otel_sessions.asgi import ASGIApp, Message, Scope

INITIALIZE = b'{"jsonrpc":"2.0","id":0,"method":"initialize","params":{}}'


@dataclass
class Client:
    """One exchange. Who has nothing more to say stays there and is silent."""

    scope: Scope
    says: list[Message] = field(default_factory=lambda: [{"type": "http.request", "body": b""}])
    sent: list[Message] = field(default_factory=list)

    async def receive(self) -> Message:
        if not self.says:
            await anyio.sleep_forever()
        return self.says.pop(0)

    async def send(self, message: Message) -> None:
        await anyio.lowlevel.checkpoint()
        self.sent.append(message)

    async def go(self, app: ASGIApp) -> "Client":
        await app(self.scope, self.receive, self.send)
        return self

    @property
    def kinds(self) -> list[object]:
        return [message["type"] for message in self.sent]

    @property
    def status(self) -> object:
        return self.sent[0]["status"]

    @property
    def body(self) -> bytes:
        parts = [message["body"] for message in self.sent[1:]]
        return b"".join(part for part in parts if isinstance(part, bytes))

    def headers(self, name: bytes) -> list[bytes]:
        headers = self.sent[0].get("headers", [])
        assert isinstance(headers, list)
        return [value for key, value in headers if key == name]


def http_body(body: bytes, more: bool = False) -> Message:
    return {"type": "http.request", "body": body, "more_body": more}


def initializing(**headers: str) -> Client:
    """A client that asks to open a session of MCP."""
    return Client(posting(**headers), [http_body(INITIALIZE)])


def posting(**headers: str) -> Scope:
    return http("POST", content_type="application/json", **headers)


def http(method: str = "GET", scheme: str = "http", **headers: str) -> Scope:
    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return {"type": "http", "method": method, "path": "/mcp", "scheme": scheme, "headers": pairs}
