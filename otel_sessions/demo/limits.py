"""The proxy's sizes: what a session holds, and the limits of a real proxy, scaled down from hours to seconds."""

from typing import Final

from otel_sessions import SessionConfig

BUFFER_BYTES: Final = 256 * 1024
"""What each session holds."""


def demo_limits(clients: int) -> SessionConfig:
    """Return the limits for that many clients, with what `OTEL_SESSIONS_*` sets in their place.

    The cap leaves room for half of the clients, so that it is met. Raises `ConfigError`.
    """
    return SessionConfig.from_env(
        base=SessionConfig(
            cleanup_interval=1.0,
            max_idle_time=3.0,
            max_session_age=15.0,
            max_sessions=max(1, clients // 2),
            emergency_idle_time=1.5,
            emergency_session_age=10.0,
            close_timeout=1.0,
            drain_timeout=1.0,
            shutdown_timeout=5.0,
        )
    )
