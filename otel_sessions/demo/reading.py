"""A reading: what the proxy says of itself at one moment, as JSON on its way to the parent."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import psutil

from otel_sessions import SessionManager


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """The manager's books and the process's resident memory, in bytes."""

    created: int
    active: int
    peak_active: int
    cleaned: Mapping[str, int]
    rejected: Mapping[str, int]
    passes: int
    errors: int
    memory: int

    @classmethod
    def take(cls, manager: SessionManager[Any]) -> "Reading":
        stats = manager.get_metrics()
        return cls(
            created=stats.total_created,
            active=stats.currently_active,
            peak_active=stats.peak_active,
            cleaned={str(reason): count for reason, count in stats.cleaned_by_reason.items()},
            rejected={str(reason): count for reason, count in stats.rejected.items()},
            passes=stats.cleanup_runs,
            errors=stats.cleanup_errors,
            memory=psutil.Process().memory_info().rss,
        )

    @classmethod
    def from_json(cls, text: str) -> "Reading":
        return cls(**json.loads(text))

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @property
    def total_cleaned(self) -> int:
        return sum(self.cleaned.values())

    @property
    def total_rejected(self) -> int:
        return sum(self.rejected.values())

    @property
    def balanced(self) -> bool:
        return self.created == self.total_cleaned + self.active
