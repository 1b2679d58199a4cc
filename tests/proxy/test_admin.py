"""The admin API of a proxy: where it listens, whom it lets in, and that it answers whatever the clients do."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import httpx2
import pytest

from otel_sessions import ConfigError, SessionConfig, fingerprint
from otel_sessions.proxy import Proxy, Settings, administration
from otel_sessions.proxy.settings import read
from tests.waiting import PATIENCE

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio"])]

SETTINGS = Settings(
    upstream="http://127.0.0.1:9",
    listen=("127.0.0.1", 0),
    admin=("127.0.0.1", 0),
    sessions=SessionConfig(max_sessions=1, drain_timeout=PATIENCE),
)
TOKEN = {"authorization": "Bearer the-token"}


@asynccontextmanager
async def client_of(proxy: Proxy, **headers: str) -> AsyncIterator[httpx2.AsyncClient]:
    assert isinstance(proxy.admin_address, tuple)
    base = "http://{}:{}".format(*proxy.admin_address)
    async with httpx2.AsyncClient(base_url=base, headers=headers, timeout=PATIENCE, trust_env=False) as client:
        yield client


async def status(client: httpx2.AsyncClient, path: str = "/v1/stats", **headers: str) -> int:
    return (await client.get(path, headers=headers)).status_code


async def test_on_loopback_no_token_is_needed_and_hosts_and_origins_are_checked() -> None:
    async with Proxy(SETTINGS) as proxy, client_of(proxy) as client:
        assert await status(client) == 200
        assert await status(client, host="localhost:1") == 200
        assert await status(client, host="[::1]:1") == 200
        assert await status(client, host="evil.test") == 421
        assert await status(client, origin="http://evil.test") == 403
        assert await status(client, "/readyz", host="10.0.0.7:1") == 200


@pytest.mark.parametrize("source", ["file", "variable"])
async def test_a_token_comes_from_a_file_or_a_variable(source: str, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("the-token\n")
    settings = replace(SETTINGS, admin_token_file=str(file)) if source == "file" else SETTINGS
    settings = settings if source == "file" else replace(SETTINGS, admin_token="the-token")
    async with Proxy(settings) as proxy, client_of(proxy) as client:
        assert await status(client) == 401
        assert await status(client, **TOKEN) == 200
        assert await status(client, **TOKEN, host="evil.test") == 421
    assert "the-token" not in repr(settings)


async def test_on_another_address_a_token_is_needed_and_hosts_are_free_unless_named(tmp_path: Path) -> None:
    everywhere = replace(SETTINGS, admin=("0.0.0.0", 0))  # noqa: S104  # reached by loopback only
    with pytest.raises(ConfigError, match=r"--admin-token-file.*OTEL_SESSIONS_ADMIN_TOKEN"):
        Proxy(everywhere)
    async with Proxy(replace(everywhere, admin_token="the-token")) as proxy, client_of(proxy, **TOKEN) as client:
        assert await status(client, host="any.test") == 200
    named = replace(everywhere, admin_token="the-token", admin_allow_host=("Admin.test",))
    async with Proxy(named) as proxy, client_of(proxy, **TOKEN) as client:
        assert await status(client, host="admin.test:1") == 200
        assert await status(client, host="any.test") == 421


@pytest.mark.parametrize(
    ("content", "says"), [(None, "No such file"), (b" \n", "token takes"), (b"two words", "token takes")]
)
async def test_a_wrong_file_of_the_token_is_named(content: bytes | None, says: str, tmp_path: Path) -> None:
    file = tmp_path / "token"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=f"--admin-token-file .*token.*{says}"):
        Proxy(replace(SETTINGS, admin_token_file=str(file)))


async def test_without_the_extra_the_proxy_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(administration, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"--admin needs fastapi; pip install 'otel-sessions\[admin\]'"):
        Proxy(SETTINGS)
    Proxy(replace(SETTINGS, admin=None))


async def test_an_address_in_use_is_named_with_its_flag() -> None:
    async with Proxy(SETTINGS) as proxy:
        assert isinstance(proxy.admin_address, tuple)
        with pytest.raises(ConfigError, match=r"--admin 127\.0\.0\.1:"):
            async with Proxy(replace(SETTINGS, admin=proxy.admin_address)):
                pass


async def test_it_answers_at_the_cap_and_until_the_last_session_has_drained(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with anyio.create_task_group() as tasks, Proxy(SETTINGS) as proxy, client_of(proxy) as client:
        data: Any = None
        await proxy.manager.create_session("a", data=data, client="ada")
        with proxy.manager.pin("a"):
            assert (await client.get("/v1/stats")).json()["currently_active"] == 1
            assert await status(client, "/readyz") == 200
            tasks.start_soon(proxy.__aexit__, None, None, None)
            with anyio.fail_after(PATIENCE):
                while await status(client, "/readyz") == 200:
                    await anyio.lowlevel.checkpoint()
            assert (await client.get("/v1/sessions")).json()["sessions"][0]["fingerprint"] == fingerprint("a")
            assert (await client.delete("/v1/sessions?client=ada")).json()["ended"] == 1
    assert "the admin API listens on 127.0.0.1:" in caplog.text
    assert "end the sessions of client 'ada': 1 ended" in caplog.text


def test_the_table_of_the_file_and_the_variables_are_read(tmp_path: Path, anyio_backend: str) -> None:
    import argparse

    from otel_sessions.proxy.settings import add_arguments

    file = tmp_path / "proxy.toml"
    file.write_text('[admin]\nlisten = "127.0.0.1:8082"\nallow_host = ["a.test"]\n')
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    flags = parser.parse_args(["--config", str(file), "--upstream", "http://a", "--admin-token-file", "/t"])
    settings = read(flags, {"OTEL_SESSIONS_ADMIN_TOKEN": "secret"})

    assert settings.admin == ("127.0.0.1", 8082)
    assert settings.admin_allow_host == ("a.test",)
    assert (settings.admin_token_file, settings.admin_token) == ("/t", "secret")
    assert "--admin-token " not in parser.format_help()
