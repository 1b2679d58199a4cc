"""The admin API of a proxy, on an address of its own.

Its connections are counted apart from the clients', so it answers while the proxy is full. It listens until every
session has ended. A loopback address may do without a token: then only a request that names a loopback host comes in.
"""

import logging
import socket
from collections.abc import Callable
from importlib.util import find_spec
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

from otel_sessions._core.events import Event
from otel_sessions._core.exceptions import ConfigError
from otel_sessions._engine.manager import SessionManager
from otel_sessions._program.arguments import Address
from otel_sessions._program.flags import naming
from otel_sessions._program.sockets import address_of, listen_as, written

from . import options
from ._uvicorn import Server
from .serving import Limits
from .settings import Settings

_logger = logging.getLogger("otel_sessions.proxy")

_MOST_CONNECTIONS: Final = 32
_LIMITS: Final = Limits(max_header=16384, head_timeout=10.0, idle_timeout=30.0)
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_FLAG: Final = options.ADMIN.flag


class Administration:
    """Serves the admin API of a manager. It is not ready while `is_stopping` returns True.

    Making it raises `ConfigError`, which names the flag, if the extra or the token is missing or the token is wrong.
    """

    def __init__(self, settings: Settings, manager: SessionManager[Any], is_stopping: Callable[[], bool]) -> None:
        if find_spec("fastapi") is None:
            raise ConfigError(f"{_FLAG} needs fastapi; pip install 'otel-sessions[admin]'")
        from otel_sessions.admin._gate import Access
        from otel_sessions.admin._routes import app_for

        assert settings.admin is not None
        self._listens_on = settings.admin
        access = Access(token=_token(settings), allowed_hosts=_allowed_hosts(settings))
        app = app_for(manager, access, lambda: not is_stopping())
        self._server = Server(app, _LIMITS, _MOST_CONNECTIONS, _drain_nothing)

    def listen(self) -> socket.socket:
        """Return the listening socket. Raises `ConfigError`, which names the flag."""
        return listen_as(_FLAG, self._listens_on)

    async def serve_on(self, listener: socket.socket) -> None:
        """Serve until `stop`."""
        address: Address = address_of(listener)
        _logger.info("the admin API listens on %s", written(address), extra=Event.ADMIN_LISTENS.extra)
        await self._server.serve_on([listener])

    def stop(self) -> None:
        self._server.stop()


async def _drain_nothing() -> None:
    pass


def _token(settings: Settings) -> str | None:
    """Return the token, None where none is needed. The file counts before the variable."""
    from otel_sessions.admin._routes import checked_token

    if settings.admin_token_file is not None:
        flag = options.ADMIN_TOKEN_FILE.flag
        with naming(flag, settings.admin_token_file):
            token = Path(settings.admin_token_file).read_bytes().decode("latin-1").strip()
        try:
            return checked_token(token)
        except ConfigError as error:
            raise ConfigError(f"{flag} {settings.admin_token_file}: {error}") from None
    if settings.admin_token is not None:
        return checked_token(settings.admin_token)
    if not _is_loopback(settings):
        raise ConfigError(
            f"{_FLAG} needs a token on an address that is not loopback; give {options.ADMIN_TOKEN_FILE.flag}, or the "
            f"variable {options.ADMIN_TOKEN.variable}"
        )
    return None


def _allowed_hosts(settings: Settings) -> frozenset[str] | None:
    hosts = frozenset(host.lower() for host in settings.admin_allow_host)
    if _is_loopback(settings):
        assert settings.admin is not None
        return hosts | _LOOPBACK | {settings.admin[0].lower()}
    return hosts or None


def _is_loopback(settings: Settings) -> bool:
    assert settings.admin is not None
    host = settings.admin[0]
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
