"""What a server says of clients that leave, if it knows that without being asked.

Other servers say it only in a message, so a task has to wait for this message.
"""

from collections.abc import Callable
from typing import Final, Protocol

LEAVING: Final = "otel_sessions.leaving"
"""Where a scope has its `Leaving`, if its server makes them."""


class Leaving(Protocol):
    """Whether the client of a request is still there."""

    is_gone: bool
    """Whether the client has left."""

    def when_gone(self, on_gone: Callable[[], None]) -> None:
        """Call `on_gone` once the client has left, at once if that has happened. The last function given counts."""
