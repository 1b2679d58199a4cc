"""The sizes of the demo: the memory of a session, and the limits of a real proxy, scaled down from hours to seconds."""

import os
from dataclasses import replace
from typing import Any, Final

from otel_sessions import SessionConfig
from otel_sessions._core.config import SESSION_OPTIONS
from otel_sessions._core.options import from_environ

BUFFER_BYTES: Final = 256 * 1024
"""The memory of each session in the demo. It stands for the buffers, history and connections of a real session."""
_GRACE_SECONDS: Final = 1.0
"""For a machine that is busy with two proxies and their clients."""
_NEVER_SECONDS: Final = 86400.0
"""An interval longer than any run, because the interval cannot be switched off."""


def demo_limits(clients: int) -> SessionConfig:
    """Return the limits for a number of clients. The variables `OTEL_SESSIONS_*` replace them.

    The cap has room for half of the clients, so that the run reaches the cap. Raises `ConfigError`.
    """
    given: dict[str, Any] = from_environ(SESSION_OPTIONS, os.environ)
    return replace(usual_limits(clients), **given)


def usual_limits(clients: int) -> SessionConfig:
    """Return the limits for a number of clients, whatever the environment says."""
    return SessionConfig(
        cleanup_interval=1.0,
        max_idle_time=3.0,
        max_session_age=15.0,
        max_sessions=max(1, clients // 2),
        emergency_idle_time=2.5,
        emergency_session_age=10.0,
        close_timeout=2.0,
        drain_timeout=1.0,
        shutdown_timeout=5.0,
    )


def without_cleanup(limits: SessionConfig) -> SessionConfig:
    """Return the limits with every limit off that can be switched off. No close hooks run in the shutdown."""
    off: dict[str, Any] = {option.name: None for option in SESSION_OPTIONS if option.kind.may_be_off}
    return replace(limits, cleanup_interval=_NEVER_SECONDS, cleanup_on_shutdown=False, **off)


def flags_of(limits: SessionConfig) -> list[str]:
    """Return the flags that give a proxy these limits, whatever its environment says."""
    values = {option.flag: getattr(limits, option.name) for option in SESSION_OPTIONS}
    return [f"{flag}={'off' if value is None else str(value).lower()}" for flag, value in values.items()]


def patience(limits: SessionConfig) -> float:
    """Return the seconds after which an abandoned session must be gone; infinity if it may stay forever."""
    limit = min(
        (seconds for seconds in (limits.max_idle_time, limits.max_session_age) if seconds is not None),
        default=float("inf"),
    )
    return limit + limits.cleanup_interval + limits.drain_timeout + limits.close_timeout + _GRACE_SECONDS
