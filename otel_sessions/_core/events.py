"""The event name of every log line. A backend finds lines by it, whatever their text says.

The page of signals lists them. A failure that the manager handles is a WARNING. An ERROR says that something is lost,
or that a pass was aborted.
"""

from enum import StrEnum


class Event(StrEnum):
    """What a log line is about: the value of its attribute `event.name`."""

    CLEANUP_ENDED = "otel_sessions.cleanup.ended"
    CLEANUP_ABORTED = "otel_sessions.cleanup.aborted"
    CALL_FAILED = "otel_sessions.cleanup.call_failed"
    CALL_UNSTOPPABLE = "otel_sessions.cleanup.call_unstoppable"
    SESSION_ABANDONED = "otel_sessions.cleanup.session_abandoned"
    CLOCK_FAILED = "otel_sessions.clock.failed"
    HOLDER_FAILED = "otel_sessions.hold.callback_failed"
    TASK_FAILED = "otel_sessions.task.failed"
    TELEMETRY_FAILED = "otel_sessions.telemetry.failed"
    VARIABLE_UNKNOWN = "otel_sessions.config.variable_unknown"
    FORK_FAILED = "otel_sessions.fork.failed"
    SINK_BEHIND = "otel_sessions.sink.behind"
    SINK_INCOMPLETE = "otel_sessions.sink.incomplete"
    SINK_LOST_RECORDS = "otel_sessions.sink.lost_records"
    APP_WITHOUT_LIFESPAN = "otel_sessions.app.without_lifespan"
    APP_STRAY_SESSION = "otel_sessions.app.stray_session"
    APP_STRAY_NOT_ENDED = "otel_sessions.app.stray_not_ended"
    APP_SESSIONS_UNTRACKED = "otel_sessions.app.sessions_untracked"
    PEER_UNUSABLE = "otel_sessions.fleet.peer_unusable"
    PEERS_NOT_FOUND = "otel_sessions.fleet.peers_not_found"
    STORE_ADVICE = "otel_sessions.fleet.store_advice"
    STORE_NOTE = "otel_sessions.fleet.store_note"
    PEER_UNSIGNED = "otel_sessions.fleet.unsigned"
    FLEET_FILE_READ = "otel_sessions.fleet.file_read"
    FLEET_FILE_KEPT = "otel_sessions.fleet.file_kept"
    STORE_SILENT = "otel_sessions.fleet.store_silent"
    STORE_ANSWERS = "otel_sessions.fleet.store_answers"
    FLEET_REFUSED = "otel_sessions.fleet.refused"
    FLEET_FENCED = "otel_sessions.fleet.fenced"
    FLEET_STEP_FAILED = "otel_sessions.fleet.step_failed"
    ORPHAN_HOOK_FAILED = "otel_sessions.fleet.orphan_hook_failed"
    BLOB_LEFT_OUT = "otel_sessions.fleet.blob_left_out"
    PROXY_LISTENS = "otel_sessions.proxy.listens"
    PROXY_WORKER_ENDED = "otel_sessions.proxy.worker_ended"
    PROXY_CLOSED_DOOR = "otel_sessions.proxy.closed_door"
    PROXY_FULL = "otel_sessions.proxy.full"
    PROXY_APP_FAILED = "otel_sessions.proxy.app_failed"
    PROXY_OWNER_IS_ADDRESS = "otel_sessions.proxy.owner_is_address"
    TLS_FAILED = "otel_sessions.proxy.tls_failed"
    CERTIFICATE_READ = "otel_sessions.proxy.certificate_read"
    CERTIFICATE_KEPT = "otel_sessions.proxy.certificate_kept"
    CERTIFICATE_DOUBTFUL = "otel_sessions.proxy.certificate_doubtful"
    ADMIN_LISTENS = "otel_sessions.admin.listens"
    ADMIN_CHANGED = "otel_sessions.admin.changed"
    UPSTREAM_FAILED = "otel_sessions.upstream.failed"
    UPSTREAM_KEPT_SESSION = "otel_sessions.upstream.kept_session"

    @property
    def extra(self) -> dict[str, str]:
        """What `logging` takes as `extra=` for a line about this event."""
        return {"event.name": self.value}
