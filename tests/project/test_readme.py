"""What the README says is what is there."""

import asyncio
import re
import shlex
from pathlib import Path
from typing import Any

import httpx2
import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from otel_sessions import SessionManager, fingerprint
from otel_sessions._core.config import SESSION_OPTIONS
from otel_sessions.cli import main

README = (Path(__file__).parents[2] / "README.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def _run(snippet: str) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "readme"}
    exec(compile(snippet, "README.md", "exec"), names)  # noqa: S102  # our own words
    return names


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.anyio
async def test_the_embedded_app_gives_a_session_and_leases_it_again() -> None:
    app = _run(SNIPPETS[0])["app"]
    transport = httpx2.ASGITransport(app)
    async with app.router.lifespan_context(app), httpx2.AsyncClient(transport=transport, base_url="http://x") as client:
        first = await client.get("/")
        again = await client.get("/")
        assert first.json() == {"requests": 1}
        assert again.json() == {"requests": 2}
        assert "set-cookie" in first.headers
        assert "set-cookie" not in again.headers


def test_the_manager_by_hand_prints_what_it_did(capsys: pytest.CaptureFixture[str]) -> None:
    asyncio.run(_run(SNIPPETS[1])["main"]())
    assert capsys.readouterr().out.splitlines() == [
        "hang up on upstream-7 because of closed",
        "0 1",
        "hang up on upstream-8 because of shutdown",
    ]


def test_the_sink_leaves_the_record_that_the_commands_show(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    asyncio.run(_run(SNIPPETS[2])["main"]())
    for arguments in re.findall(r"^otel-sessions (export show .*?)(?:  +#.*)?$", README, re.MULTILINE):
        command = arguments.replace("$(printf %s 10.0.0.7 | b2sum -l 64 | cut -c -16)", fingerprint("10.0.0.7"))
        assert main(shlex.split(command.replace("jsonl*", "jsonl"))) == 0
        title, row, failure, description, summary = capsys.readouterr().out.splitlines()
        assert (title.split()[-1], row.split()[-1], summary.split(";")[0]) == ("REASON", "failed", "records: 1")
        assert (failure, description) == ("    failure: upstream hung up", '    {"upstream": "upstream-7"}')


def test_the_settings_table_says_of_each_what_the_option_says() -> None:
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \| (\S+) \| (.+) \|$", README, re.MULTILINE)
    options = {(one.name, one.key, one.written_default, one.help) for one in SESSION_OPTIONS}
    assert len(rows) >= 6
    assert set(rows) <= options


def test_the_signals_table_names_every_metric_with_its_unit() -> None:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])

    async def live_and_end() -> None:
        async with SessionManager(meter_provider=provider) as manager:
            await manager.create_session()

    asyncio.run(live_and_end())
    collected = reader.get_metrics_data()
    assert collected is not None
    metrics = collected.resource_metrics[0].scope_metrics[0].metrics
    rows = re.findall(r"^\| `(otel_sessions\.[a-z._]+)` \| [\w -]+ \| `([^`]+)` \|", README, re.MULTILINE)
    assert {(metric.name, metric.unit) for metric in metrics} == set(rows)
