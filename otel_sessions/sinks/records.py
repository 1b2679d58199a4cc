"""The record of an ended session: a line of JSON, made for a sink and read back from its files.

A record shows hashes of the session's id and client, and is never longer than `MAX_LINE` bytes. Reading keeps one line
in memory, whatever the file holds.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, BinaryIO, Final, Self
from urllib.parse import quote

from otel_sessions._core.ids import fingerprint
from otel_sessions._core.session import DataT, Session
from otel_sessions._core.words import EndReason, SessionState

MAX_LINE: Final = 65536
"""Bytes of the longest record, line end included."""

_MAX_FAILURE: Final = 1000
_BEGINNING: Final = b'{"session":"'
_HASH: Final = re.compile(r"[0-9a-f]{16}")

_encode: Final = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


class Skipped(StrEnum):
    """Why a line of a sink's file is not a record: `torn` begins like a record, `foreign` is something else."""

    TORN = "torn"
    FOREIGN = "foreign"


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """The record of an ended session.

    `session` and `client` are fingerprints, as logs show them. `duration` is in seconds, and datetimes are in UTC.
    `state` is the last state of the session: `closed` or `failed`. `failure` is the text of its failure, or None.
    `description` is the mapping that `describe` returned, or None. `description_error` names the exception if
    `describe` failed.
    """

    session: str
    client: str | None
    reason: EndReason
    created_at: datetime
    last_activity: datetime
    duration: float
    message_count: int
    state: SessionState
    failure: str | None
    description: Mapping[str, object] | None = None
    description_error: str | None = None

    @classmethod
    def of(
        cls,
        session: Session[DataT],
        reason: EndReason,
        description: Mapping[str, object] | None = None,
        description_error: str | None = None,
    ) -> Self:
        """Return the record of a session. The text of its failure shows the fingerprint instead of the id."""
        metadata = session.metadata
        failure = None if session.failure is None else _told(session.failure, session.id)
        return cls(
            session=fingerprint(session.id),
            client=None if session.client is None else fingerprint(session.client),
            reason=reason,
            created_at=metadata.created_at,
            last_activity=metadata.last_activity,
            duration=round(session.age, 6),
            message_count=metadata.message_count,
            state=SessionState.CLOSED if failure is None else SessionState.FAILED,
            failure=failure,
            description=description,
            description_error=description_error,
        )

    @classmethod
    def parse(cls, line: bytes) -> Self:
        """Return the record in a line. Raises `ValueError` if the line is not a record."""
        try:
            return cls._read(json.loads(line.decode()))
        except (AttributeError, KeyError, OverflowError, RecursionError, TypeError) as error:
            raise ValueError("this line is not the record of a session") from error

    @property
    def ended_at(self) -> datetime:
        """When the session ended, in UTC."""
        return self.created_at + timedelta(seconds=self.duration)

    def line(self) -> bytes:
        """Return the record as a line of JSON. Raises what `json` raises, and `ValueError` if the line is too long."""
        fields: dict[str, object] = {
            "session": self.session,
            "client": self.client,
            "reason": self.reason,
            "created_at": self.created_at.isoformat(),
            "last_activity": self.last_activity.isoformat(),
            "duration": self.duration,
            "message_count": self.message_count,
            "state": self.state,
            "failure": self.failure,
        }
        if self.description is not None:
            fields["description"] = _plain(self.description)
        if self.description_error is not None:
            fields["description_error"] = self.description_error
        line = _encode(fields).encode("ascii") + b"\n"
        if len(line) > MAX_LINE:
            raise ValueError(f"a record may take {MAX_LINE} bytes, not {len(line)}; shorten its description")
        return line

    @classmethod
    def _read(cls, fields: dict[str, Any]) -> Self:
        record = cls(
            session=_hash(fields["session"]),
            client=None if fields["client"] is None else _hash(fields["client"]),
            reason=EndReason(fields["reason"]),
            created_at=_moment(fields["created_at"]),
            last_activity=_moment(fields["last_activity"]),
            duration=_instance(fields["duration"], float, int),
            message_count=_instance(fields["message_count"], int),
            state=SessionState(fields["state"]),
            failure=None if fields["failure"] is None else _instance(fields["failure"], str),
            description=_plain(fields["description"]) if "description" in fields else None,
            description_error=_instance(fields["description_error"], str) if "description_error" in fields else None,
        )
        if not record.ended_at >= record.created_at:
            raise ValueError("a session does not end before it begins")
        return record


def read_records(file: BinaryIO) -> Iterator[Record | Skipped]:
    """Yield for each line of a file its record, or the reason why the line is skipped."""
    for line in _lines(file):
        try:
            yield Record.parse(line)
        except ValueError:
            begun = line.startswith(_BEGINNING) or _BEGINNING.startswith(line.rstrip(b"\n") or b"\n")
            yield Skipped.TORN if begun else Skipped.FOREIGN


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Yield every line, or the beginning of a line that is too long."""
    while line := file.readline(MAX_LINE):
        rest = line
        while rest and not rest.endswith(b"\n"):
            rest = file.readline(MAX_LINE)
        yield line


def _told(failure: str | BaseException, secret: str) -> str:
    """Return a failure as text. Replace the secret in each form in which texts usually quote it."""
    try:
        text = str(failure)
    except Exception:  # the text comes from the embedder's code
        text = ""
    if isinstance(failure, BaseException):
        text = f"{type(failure).__name__}: {text}" if text else type(failure).__name__
    if secret:
        shown = fingerprint(secret)
        for form in (secret, repr(secret)[1:-1], _encode(secret)[1:-1], quote(secret, "", errors="replace")):
            text = text.replace(form, shown)
    return text if len(text) <= _MAX_FAILURE else text[:_MAX_FAILURE] + "…"


def _plain(value: Mapping[str, object]) -> dict[str, object]:
    if not isinstance(value, Mapping):
        raise TypeError(f"a description is a mapping, not {type(value).__name__}")
    return dict(value)


def _hash(value: str) -> str:
    if not _HASH.fullmatch(value):
        raise ValueError(f"{value!r} is not a hash")
    return value


def _moment(value: str) -> datetime:
    moment = datetime.fromisoformat(value)
    if moment.tzinfo is None:
        raise ValueError(f"{value!r} has no time zone")
    return moment.astimezone(UTC)


def _instance(value: Any, *kinds: type[Any]) -> Any:
    if type(value) not in kinds:  # a bool is not a number
        raise TypeError(f"{value!r} is not of type {kinds[0].__name__}")
    return value
