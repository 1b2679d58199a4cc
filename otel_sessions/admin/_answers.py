"""What the requests of the admin API take and return. Nothing here has an id, a credential or an embedder's data."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from otel_sessions._core.listing import RecentEnd
from otel_sessions._core.store import MOST_RECENT

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


class Config(BaseModel):
    """The settings of the manager in force, in seconds and sessions. null is a limit that is off."""

    name: str
    settings: dict[str, float | int | bool | str | None]
    note: str = "a change of max_sessions is lost when the process restarts; set it in the configuration to keep it"


class Ended(BaseModel):
    """How many sessions the request has ended."""

    ended: int


class Recent(BaseModel):
    """The sessions that ended last, the latest first."""

    ends: list[RecentEnd]


class Health(BaseModel):
    """The process answers."""

    status: Literal["ok"] = "ok"
