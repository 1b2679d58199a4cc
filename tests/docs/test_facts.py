"""What how-to pages say besides their programs: names and numbers, and what happens beside the MCP SDK's own limits."""

import re
import shlex
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
import yaml
from mcp.server.mcpserver import MCPServer
from mcp.server.streamable_http_manager import DEFAULT_MAX_SESSIONS, DEFAULT_SESSION_IDLE_TIMEOUT
from starlette.applications import Starlette

from otel_sessions import EndReason, SessionConfig, SessionManager
from otel_sessions._commands import _parser
from otel_sessions._core.config import SESSION_OPTIONS
from otel_sessions.asgi import EndInApp, SessionLeaseMiddleware, lifespan
from otel_sessions.matchers import AdoptingMatcher, IssuingMatcher, McpMatcher

from .pages import ROOT, texts

PAGES = {name: text for name, text in texts().items() if name.startswith("how-to/")}
BASE = "http://127.0.0.1:8000"


def test_the_page_on_grafana_names_every_alert() -> None:
    groups = yaml.safe_load((ROOT / "grafana" / "alerts.yaml").read_text())["groups"]
    alerts = [rule["alert"] for group in groups for rule in group["rules"]]
    assert re.findall(r"^\| `(OtelSessions\w+)` \|", PAGES["how-to/grafana"], re.MULTILINE) == alerts


def shell_lines() -> Iterator[str]:
    """Yield what the pages tell people to type, each with its continued lines."""
    for text in texts().values():
        for block in re.findall(r"^```(?:sh|console)\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
            yield from re.sub(r"\\\n\s*", "", block).splitlines()


def test_a_question_mark_in_a_command_is_quoted() -> None:
    marked = [line for line in shell_lines() if "?" in line]
    assert any("/v1/sessions?client=" in line for line in marked)
    assert [line for line in marked if "?" in re.sub(r"'[^']*'|#.*", "", line)] == []  # zsh looks for files


def test_every_command_of_ours_in_the_pages_has_arguments_that_it_takes() -> None:
    words = [shlex.split(line.removeprefix("$ "), comments=True) for line in shell_lines() if "$(" not in line]
    ours = [each[each.index("otel-sessions") + 1 :] for each in words if "otel-sessions" in each and "|" not in each]
    assert len(ours) > 15
    for arguments in ours:
        _parser().parse_args(arguments)


def test_every_page_is_in_the_list() -> None:
    listed = set(re.findall(r"^([a-z-]+)$", PAGES["how-to/index"], re.MULTILINE))
    assert listed == {name.removeprefix("how-to/") for name in PAGES} - {"index"}


def test_links_between_the_pages_lead_to_pages() -> None:
    links = [(name, link) for name, text in PAGES.items() for link in re.findall(r"\]\(([a-z-]+)\.md\)", text)]
    assert [(name, link) for name, link in links if f"how-to/{link}" not in PAGES] == []
    assert len(links) > 10


def test_a_number_beside_a_setting_is_its_default() -> None:
    defaults = {option.name: option.written_default for option in SESSION_OPTIONS}
    numbers = re.compile(r"`(\w+)`\s+(?:seconds\s+)?\((\d+)(?:\s+seconds)?\)")
    said = [pair for text in PAGES.values() for pair in numbers.findall(text) if pair[0] in defaults]
    assert {"close_concurrency", "close_timeout", "shutdown_timeout"} <= {name for name, _ in said}
    assert [(name, number) for name, number in said if defaults[name] != number] == []


def test_the_sdks_defaults_and_ours_are_what_the_table_says() -> None:
    config = SessionConfig()
    page = PAGES["how-to/migrate-from-the-mcp-sdk"]
    idle, cap = f"{DEFAULT_SESSION_IDLE_TIMEOUT}", f"{DEFAULT_MAX_SESSIONS:_}"
    assert f"| `session_idle_timeout={idle}` (seconds) | `max_idle_time={idle}`" in page
    assert f"the default is {config.max_idle_time:g} |" in page
    assert f"| `max_sessions={cap}` | `max_sessions={cap}`; the default is {config.max_sessions} |" in page


def test_the_page_on_matchers_names_every_method() -> None:
    page = PAGES["how-to/matchers"]
    rows = re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)
    methods = {name for name, value in _members(AdoptingMatcher).items() if callable(value)}
    assert set(rows) == methods
    assert {"match", "announce", "towards_app"} <= {*_members(IssuingMatcher)}


def _members(protocol: type) -> dict[str, Any]:
    return {name: value for kind in protocol.__mro__ for name, value in vars(kind).items() if not name.startswith("_")}


class Mcp:
    """An MCP server whose own limits are on, with a manager around it; `theirs` is past the manager."""

    def __init__(self, *, max_sessions: int | None = None) -> None:
        self.server: Starlette = MCPServer("limited").streamable_http_app(max_sessions=max_sessions)
        ending = EndInApp(self.server)
        self.manager = SessionManager(on_close=ending.end)
        self.ours = SessionLeaseMiddleware(ending, self.manager, McpMatcher(), on_stray=ending.end_stray)

    async def initialize(self) -> httpx2.Response:
        about = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
        return await self.ask("POST", json={"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": about})

    async def ask(self, method: str, *, past_us: bool = False, **more: Any) -> httpx2.Response:
        transport = httpx2.ASGITransport(self.server if past_us else self.ours)
        own = {"accept": "application/json, text/event-stream", **more.pop("headers", {})}
        async with httpx2.AsyncClient(transport=transport, base_url=BASE, headers=own) as client:
            return await client.request(method, "/mcp", **more)


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
class TestBesideTheLimitsOfTheSdk:
    async def test_the_sdks_own_cap_gives_the_place_back_and_counts_no_session(self) -> None:
        mcp = Mcp(max_sessions=1)
        async with lifespan(mcp.manager, mcp.server.router.lifespan_context)(mcp.server):
            statuses = [(await mcp.initialize()).status_code for _ in range(2)]
            stats = mcp.manager.get_metrics()
            assert (statuses, stats.total_created, stats.reserved) == ([200, 503], 1, 0)

    async def test_a_session_that_the_sdk_has_ended_is_closed_at_its_next_request(self) -> None:
        mcp = Mcp()
        async with lifespan(mcp.manager, mcp.server.router.lifespan_context)(mcp.server):
            named = {"mcp-session-id": (await mcp.initialize()).headers["mcp-session-id"]}
            await mcp.ask("DELETE", past_us=True, headers=named)
            assert len(mcp.manager) == 1
            assert (await mcp.ask("DELETE", headers=named)).status_code == 404
            stats = mcp.manager.get_metrics()
            assert (stats.cleaned_by_reason[EndReason.CLOSED], stats.cleanup_errors) == (1, 0)
