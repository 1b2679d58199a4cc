"""What one process of the fault matrix is told, as JSON on its command line."""

import json
from dataclasses import asdict, dataclass, replace
from typing import Final

SECRET: Final = b"a secret of the fault matrix"


@dataclass(frozen=True, kw_only=True)
class Orders:
    """The store, the fleet, and the load of one process. Times are in seconds."""

    name: str = ""
    journal: str = ""
    url: str
    cluster: bool = False
    sentinel: str | None = None
    fleet: str = "soak"
    policy: str = "closed"
    backend: str = "asyncio"
    lease: float = 1.5
    shards: int = 4
    cap: int = 90
    wanted: int = 40
    """How many sessions the process likes to have."""
    creators: int = 4
    """How many tasks make sessions."""
    tick: float = 0.05
    """After this time, the load closes one session and serves some."""
    serves: int = 5
    """How many sessions are served at each tick."""
    hook: float = 0.0
    """How long the hook for orphans takes."""

    def but(self, **changes: object) -> "Orders":
        return replace(self, **changes)  # type: ignore[arg-type]

    def dumps(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def loads(cls, text: str) -> "Orders":
        return cls(**json.loads(text))
