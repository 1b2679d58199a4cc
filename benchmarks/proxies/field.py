"""Everything that is measured, started and known to answer as it should, with who takes no part, and why."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx2

from . import asked
from .asked import NO_SESSION, Request, Workload
from .peers import PEERS, Absent, Entry, started
from .servers import PROXIED, Server, nginx, origin, ours
from .wrk import Target

DIRECT, NGINX = "direct", "nginx"
OURS, WITHOUT, ON_ASYNCIO = "ours, in a session", "ours, no session", "ours, asyncio's loop"
PROCESS_OF: Final = {WITHOUT: OURS}
"""Which contestant is measured in another's process."""

_SESSION_ID: Final = "mcp-session-id"


@dataclass(frozen=True, kw_only=True)
class Field:
    """The targets of each workload by contestant, each contestant's server, and who is absent (or where), and why."""

    origin: str
    targets: dict[Workload, dict[str, Target]] = field(default_factory=lambda: {work: {} for work in Workload})
    servers: dict[str, Server] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)

    def enter(self, name: str, server: Server, requests: Mapping[Workload, Request]) -> None:
        """Add a contestant with what it is asked. Raises `Absent` if it does not answer as it should."""
        targets = {
            work: Target(name=name, url=server.url, request=request, process=server.process)
            for work, request in requests.items()
        }
        for work, target in targets.items():
            _check(work, target)
        for work, target in targets.items():
            self.targets[work][name] = target
        if name not in PROCESS_OF:
            self.servers[name] = server

    def leave(self, workload: Workload, name: str, reason: str) -> None:
        """Take a contestant out of a workload."""
        self.absent[f"{name}, {workload}"] = reason
        del self.targets[workload][name]


@contextlib.contextmanager
def started_field(folder: Path, homes: Path) -> Iterator[Field]:
    """Run everything that is measured until the block ends."""
    with contextlib.ExitStack() as running:
        behind = running.enter_context(origin(folder))
        entered = Field(origin=behind.url)
        entered.enter(DIRECT, behind, requests_of(behind.url))
        front = running.enter_context(nginx(folder, "nginx", PROXIED, {"origin": behind.url}))
        entered.enter(NGINX, front, requests_of(front.url))
        mine = running.enter_context(ours("ours", behind.url, folder))
        requests = requests_of(mine.url)
        entered.enter(OURS, mine, requests)
        entered.enter(WITHOUT, mine, {Workload.POST: requests[Workload.POST].to(NO_SESSION)})
        other = running.enter_context(ours("ours-asyncio", behind.url, folder, "--loop", "asyncio"))
        entered.enter(ON_ASYNCIO, other, requests_of(other.url))
        for peer in PEERS:
            try:
                server, entry = running.enter_context(started(peer, homes, behind.url, folder))
                requests = calls_of(server.url, entry) if peer.speaks_mcp else requests_of(server.url)
                entered.enter(peer.name, server, requests)
            except Absent as reason:
                entered.absent[peer.name] = str(reason)
        yield entered


def requests_of(url: str) -> dict[Workload, Request]:
    """Return what a reverse proxy is asked, in sessions that are opened through it. Raises `Absent`.

    All contestants get the same requests, those without sessions, too.
    """
    session = _opened(url, asked.initialize("/mcp"))
    return {
        Workload.POST: asked.post().having(session),
        Workload.GET: asked.get().having(session),
        Workload.EVENT: asked.events().having(session),
        **calls_of(url, Entry()),
    }


def calls_of(url: str, entry: Entry) -> dict[Workload, Request]:
    """Return the call of a tool, in a session that is opened through the proxy. Raises `Absent`."""
    session = _opened(url, asked.initialize(entry.path).having(entry.headers))
    return {Workload.CALL: asked.call(entry.tool).to(entry.path).having({**entry.headers, **session})}


def _opened(url: str, request: Request) -> Mapping[str, str]:
    """Open a session, and return the header that names it; nothing if there are none."""
    answer = _answer(url, request)
    session_id = answer.headers.get(_SESSION_ID)
    return {} if session_id is None else {_SESSION_ID: session_id}


def _check(work: Workload, target: Target) -> None:
    """Ask once. Raises `Absent` if the answer is not what it should be. A stream is checked when it is measured."""
    if work is not Workload.EVENT:
        text = _answer(target.url, target.request).text
        if work is Workload.CALL and asked.SUM not in text:
            raise Absent(f"its {work} was answered {text[:150]!r}")


def _answer(url: str, request: Request) -> httpx2.Response:
    try:
        answer = httpx2.request(
            request.method,
            url + request.path,
            headers=dict(request.headers),
            content=request.body or None,
            trust_env=False,
            timeout=60,
        )
    except httpx2.HTTPError as error:
        raise Absent(f"{request.path} is not answered: {error}") from error
    if answer.status_code != 200:
        raise Absent(f"{request.path} is answered {answer.status_code}: {answer.text[:150]}")
    return answer
