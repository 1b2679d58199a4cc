"""What the requests of the admin API take and return. Nothing here has an id, a credential or an embedder's data."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from otel_sessions._core.listing import SessionLimits
from otel_sessions._core.store import MOST_RECENT
from otel_sessions._core.words import EndReason, Outcome, RejectionReason, SessionState, Trigger

MOST_LISTED = 200
"""The most sessions on one page: more would keep the loop too long at a stretch."""

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False, description="Seconds.")]
SecondsFromZero = Annotated[float, Field(ge=0, allow_inf_nan=False, description="Seconds.")]


class _Query(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Filters(_Query):
    """Which sessions a list shows, and which part of the list."""

    client: str | None = Field(None, description="Only the sessions of this client.")
    state: Literal["active", "closing", "failed"] | None = Field(None, description="Only sessions in this state.")
    older_than: SecondsFromZero | None = Field(None, description="Only sessions of this age, in seconds, or older.")
    idle_for: SecondsFromZero | None = Field(None, description="Only sessions that are idle for as many seconds.")
    after: str | None = Field(None, description="The `next` of the page before. It stays valid if sessions end.")
    limit: int = Field(100, ge=1, le=MOST_LISTED, description="The most sessions on this page.")


class OfClient(_Query):
    """Whose sessions to end."""

    client: str = Field(description="The sessions of this client are ended, and no others.")


class PreviewOrNot(_Query):
    preview: bool = Field(False, description="Only report what would be ended.")


class Lately(_Query):
    limit: int = Field(MOST_RECENT, ge=1, le=MOST_RECENT, description="How many ends to show.")


class PassLimits(BaseModel):
    """Limits that replace the configured limits for one pass. null switches a limit off; no key leaves it as it is."""

    model_config = ConfigDict(extra="forbid", strict=True)

    max_idle_time: Seconds | None = None
    max_session_age: Seconds | None = None


class ConfigChange(BaseModel):
    """The new cap. null switches the cap off."""

    model_config = ConfigDict(extra="forbid", strict=True)

    max_sessions: Annotated[int, Field(ge=1)] | None


class Process(BaseModel):
    """A process that was asked. `error` says why it was not reached."""

    name: str
    reached: bool
    error: str | None


class _OfProcesses(BaseModel):
    processes: list[Process] = Field(description="The processes that were asked for this answer.")


class Listed(BaseModel):
    """A session, and the process that has it. Times are in UTC, durations in seconds."""

    fingerprint: str
    client: str | None
    state: SessionState
    leases: int
    created_at: datetime
    last_activity: datetime
    idle_for: float
    age: float
    message_count: int
    limits: SessionLimits
    process: str


class Page(_OfProcesses):
    """A part of the list of sessions. `next` is the cursor of the next part, null after the last part."""

    sessions: list[Listed]
    next: str | None


class Shown(Listed, _OfProcesses):
    """One session."""


class Pass(BaseModel):
    """The report of a cleanup pass, or of the passes of several processes together. `duration` is in seconds."""

    trigger: Trigger
    outcome: Outcome
    examined: int
    cleaned: dict[EndReason, int]
    total_cleaned: int
    hook_errors: int
    remaining: int
    duration: float


class Report(Pass, _OfProcesses):
    """What a cleanup pass did, or would do. It is `partial` at best if a process was not reached."""


class Books(BaseModel):
    """The books of a process: `total_created` is always `total_cleaned` and `currently_active` together."""

    total_created: int
    total_cleaned: int
    currently_active: int
    cleanup_runs: int
    cleanup_errors: int
    leased: int
    closing: int
    reserved: int
    waiting: int
    peak_active: int
    rejected: dict[RejectionReason, int]
    cleaned_by_reason: dict[EndReason, int]
    last_cleanup: Pass | None
    seconds_since_cleanup: float


class ProcessBooks(Process):
    """The books of one process, null if it was not reached."""

    stats: Books | None


class Statistics(Books):
    """The sums of the books of all processes that were reached, and the books of each.

    `last_cleanup` and `seconds_since_cleanup` are those of the process whose last pass is the oldest.
    """

    processes: list[ProcessBooks]


class ProcessCap(Process):
    """The cap of one process. It is null without a cap, and if the process was not reached."""

    max_sessions: int | None


class Config(BaseModel):
    """The settings of the manager in force, in seconds and sessions. null is a limit that is off.

    `max_sessions` is the sum of the caps of the processes that were reached.
    """

    name: str
    settings: dict[str, float | int | bool | str | None]
    processes: list[ProcessCap]
    note: str = "a change of max_sessions is lost when the process restarts; set it in the configuration to keep it"


class Ended(_OfProcesses):
    """How many sessions the request has ended."""

    ended: int


class EndOf(BaseModel):
    """A session that ended lately, and the process that had it. `ended_at` is in UTC."""

    fingerprint: str
    reason: EndReason
    ended_at: datetime
    process: str


class Recent(_OfProcesses):
    """The sessions that ended last, the latest first."""

    ends: list[EndOf]


class Health(BaseModel):
    """The process answers."""

    status: Literal["ok"] = "ok"
