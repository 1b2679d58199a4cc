"""Cases for each alert: when it fires, when it does not, and what a restart does to it."""

from typing import Final

from .alert_case import HOUR, MINUTE, USUAL, Case, ending, flat, ramp, restarted, steps
from .fleet_alert_cases import FLEET_CASES

WARNING: Final = {"severity": "warning", **USUAL}
CRITICAL: Final = {"severity": "critical", **USUAL}
HOOK: Final = 'cleanup_errors_total{otel_sessions_cleanup_stage="hook",error_type="OSError"}'
AT_THE_CAP: Final = 'session_rejected_total{otel_sessions_rejection_reason="max_sessions"}'
LOST: Final = 'otelcol_exporter_send_failed_spans_total{instance="collector",exporter="otlp_http/jaeger"}'

CASES: Final = [
    # ---- NearLimit
    Case(
        alert="OtelSessionsNearLimit",
        name="95 of 100 places are taken for minutes",
        at=5 * MINUTE,
        series={
            'session_active{otel_sessions_session_state="leased"}': flat(60),
            'session_active{otel_sessions_session_state="unleased"}': flat(35),
            "session_limit": flat(100),
        },
        labels=WARNING,
        says=("i m is close to its cap", "95% of the places are taken; at 100 % new sessions are refused."),
    ),
    Case(
        alert="OtelSessionsNearLimit",
        name="full for a minute, half full, without a cap, and a cap of 0",
        at=9 * MINUTE,
        series={
            'session_active{instance="burst"}': steps((0, 10), (8 * MINUTE, 100)),
            'session_limit{instance="burst"}': flat(100),
            'session_active{instance="half"}': flat(50),
            'session_limit{instance="half"}': flat(100),
            'session_active{instance="uncapped"}': flat(5000),
            'session_active{instance="zero"}': flat(1),
            'session_limit{instance="zero"}': flat(0),
        },
    ),
    Case(
        alert="OtelSessionsNearLimit",
        name="a restart empties a full one",
        at=10 * MINUTE,
        series={"session_active": steps((0, 99), (9 * MINUTE, 1)), "session_limit": flat(100)},
    ),
    # ---- Leaking
    Case(
        alert="OtelSessionsLeaking",
        name="more and more sessions, and no pass",
        at=15 * MINUTE,
        series={
            "session_created_total": ramp(40),
            'session_cleaned_total{otel_sessions_session_end_reason="closed"}': ramp(20),
            'session_cleaned_total{otel_sessions_session_end_reason="idle_timeout"}': flat(0),
            "cleanup_runs_total": flat(0),
            "cleanup_interval_seconds": flat(60),
        },
        labels=CRITICAL,
        says=(
            "i m piles up sessions",
            "There are more sessions than five minutes ago, and no cleanup pass ran meanwhile.",
        ),
    ),
    Case(
        alert="OtelSessionsLeaking",
        name="more while passes run, as many as before while none runs, and an interval of ten minutes",
        at=15 * MINUTE,
        series={
            'session_created_total{instance="busy"}': ramp(40),
            'session_cleaned_total{instance="busy"}': ramp(20),
            'cleanup_runs_total{instance="busy"}': ramp(1),
            'session_created_total{instance="flat"}': ramp(40, start=50),
            'session_cleaned_total{instance="flat"}': ramp(40),
            'cleanup_runs_total{instance="flat"}': flat(0),
            'session_created_total{instance="rare"}': ramp(40),
            'session_cleaned_total{instance="rare"}': ramp(20),
            'cleanup_runs_total{instance="rare"}': steps((0, 0), (2 * MINUTE, 1)),
            'cleanup_interval_seconds{instance="rare"}': flat(600),
        },
    ),
    Case(
        alert="OtelSessionsLeaking",
        name="a young one, whose first pass is the beginning of its series",
        at=5 * MINUTE,
        series={
            "session_created_total": ramp(40),
            "session_cleaned_total": flat(0),
            "cleanup_runs_total": steps((0, None), (2 * MINUTE, 1)),
            "cleanup_interval_seconds": flat(120),
        },
    ),
    Case(
        alert="OtelSessionsLeaking",
        name="the first pass after a long idle time is the beginning of its series",
        at=15 * MINUTE,
        series={
            "session_created_total": ramp(40),
            "session_cleaned_total": flat(0),
            'cleanup_runs_total{otel_sessions_cleanup_outcome="success"}': steps((0, 0), (8 * MINUTE, 1)),
            'cleanup_runs_total{otel_sessions_cleanup_outcome="partial"}': steps((0, None), (12 * MINUTE, 1)),
            "cleanup_interval_seconds": flat(150),
        },
    ),
    Case(
        alert="OtelSessionsLeaking",
        name="a restart, after which passes run",
        at=15 * MINUTE,
        series={
            "session_created_total": restarted(ramp(40), 10 * MINUTE),
            "session_cleaned_total": restarted(ramp(20), 10 * MINUTE),
            "cleanup_runs_total": restarted(ramp(1), 10 * MINUTE),
        },
    ),
    # ---- PilingUp
    Case(
        alert="OtelSessionsPilingUp",
        name="leases that nobody gives back",
        at=3 * HOUR,
        series={
            'session_active{otel_sessions_session_state="leased"}': ramp(2, start=100),
            'session_active{otel_sessions_session_state="unleased"}': flat(20),
        },
        labels=WARNING,
        says=(
            "i m piles up sessions although passes run",
            "480 sessions: a fifth more than an hour ago, and still growing.",
        ),
    ),
    Case(
        alert="OtelSessionsPilingUp",
        name="a few more, a level, fewer than 50, and a busy quarter of an hour",
        at=3 * HOUR,
        series={
            'session_active{instance="slow"}': ramp(0.2, start=300),
            'session_active{instance="level"}': flat(300),
            'session_active{instance="small"}': ramp(0.2),
            'session_active{instance="peak"}': steps((0, 100), (3 * HOUR - 15 * MINUTE, 400)),
        },
    ),
    Case(
        alert="OtelSessionsPilingUp",
        name="a restart, after which sessions come back",
        at=3 * HOUR,
        series={"session_active": restarted(ramp(2), 2.5 * HOUR)},
    ),
    # ---- CleanupStalled
    Case(
        alert="OtelSessionsCleanupStalled",
        name="a pass that does not come",
        at=10 * MINUTE,
        series={"cleanup_overdue_seconds": ramp(60), "cleanup_interval_seconds": flat(60)},
        labels=CRITICAL,
        says=("Cleanup of i m is stalled", "The next cleanup pass is 10m 0s late, more than two of its intervals."),
    ),
    Case(
        alert="OtelSessionsCleanupStalled",
        name="late by less than two long intervals, late for a moment, and a manager that has ended",
        at=10 * MINUTE,
        series={
            'cleanup_overdue_seconds{instance="rare"}': ramp(60),
            'cleanup_interval_seconds{instance="rare"}': flat(600),
            'cleanup_overdue_seconds{instance="moment"}': steps((0, 0), (9 * MINUTE + 30, 200)),
            'cleanup_interval_seconds{instance="moment"}': flat(60),
            'cleanup_overdue_seconds{instance="ended"}': flat(0),
            'cleanup_interval_seconds{instance="ended"}': flat(0),
        },
    ),
    Case(
        alert="OtelSessionsCleanupStalled",
        name="a restart ends it",
        at=10 * MINUTE,
        series={
            "cleanup_overdue_seconds": steps((0, 600), (9 * MINUTE, 0)),
            "cleanup_interval_seconds": flat(60),
        },
    ),
    # ---- CleanupErrors
    Case(
        alert="OtelSessionsCleanupErrors",
        name="hooks that fail",
        at=12 * MINUTE,
        series={HOOK: ramp(2)},
        labels={**WARNING, "otel_sessions_cleanup_stage": "hook", "error_type": "OSError"},
        says=(
            "Cleanup of i m has errors",
            "About 10 in stage hook, of type OSError, within five minutes.",
        ),
    ),
    Case(
        alert="OtelSessionsCleanupErrors",
        name="hooks that had failed before the first export",
        at=2 * MINUTE,
        series={HOOK: flat(7)},
        labels={**WARNING, "otel_sessions_cleanup_stage": "hook", "error_type": "OSError"},
        says=(
            "Cleanup of i m has errors",
            "About 7 in stage hook, of type OSError, within five minutes.",
        ),
    ),
    Case(
        alert="OtelSessionsCleanupErrors",
        name="the first errors after a restart, with which the series begins again",
        at=20 * MINUTE,
        series={
            "session_created_total": restarted(ramp(60), 9 * MINUTE),
            HOOK: steps((0, 153), (9 * MINUTE, None), (17 * MINUTE, 2)),
        },
        labels={**WARNING, "otel_sessions_cleanup_stage": "hook", "error_type": "OSError"},
        says=("Cleanup of i m has errors", "About 2 in stage hook, of type OSError, within five minutes."),
    ),
    Case(
        alert="OtelSessionsCleanupErrors",
        name="one error, old errors, and old errors behind a gap of a quarter of an hour",
        at=40 * MINUTE,
        series={
            HOOK.replace("{", '{instance="one",'): steps((0, 0), (38 * MINUTE, 1)),
            HOOK.replace("{", '{instance="old",'): flat(153),
            HOOK.replace("{", '{instance="gap",'): steps((0, 153), (24 * MINUTE, None), (39 * MINUTE, 153)),
            'session_created_total{instance="gap"}': steps((0, 9), (24 * MINUTE, None), (39 * MINUTE, 9)),
        },
    ),
    Case(
        alert="OtelSessionsCleanupErrors",
        name="a restart sets the errors back to 0",
        at=20 * MINUTE,
        series={HOOK: steps((0, 153), (18 * MINUTE, 0))},
    ),
    # ---- LeaseHeld
    Case(
        alert="OtelSessionsLeaseHeld",
        name="a lease that is held for five hours",
        at=5 * HOUR,
        series={"lease_oldest_seconds": ramp(60)},
        labels=WARNING,
        says=(
            "i m has a lease that nobody gives back",
            "It has been held for 5h 0m 0s. A leased session is never idle.",
        ),
    ),
    Case(
        alert="OtelSessionsLeaseHeld",
        name="leases that come and go",
        at=6 * HOUR,
        series={"lease_oldest_seconds": lambda seconds: seconds % (3 * HOUR)},
    ),
    Case(
        alert="OtelSessionsLeaseHeld",
        name="a restart gives the lease back",
        at=5 * HOUR,
        series={"lease_oldest_seconds": restarted(ramp(60), 4.9 * HOUR)},
    ),
    # ---- Rejections
    Case(
        alert="OtelSessionsRejections",
        name="one session in four is refused",
        at=20 * MINUTE,
        series={"session_created_total": ramp(30), AT_THE_CAP: ramp(10)},
        labels={**WARNING, "otel_sessions_rejection_reason": "max_sessions"},
        says=("i m keeps refusing sessions", "25% of the sessions of the last five minutes, for max_sessions."),
    ),
    Case(
        alert="OtelSessionsRejections",
        name="one in a thousand, two minutes only, and a shutdown",
        at=20 * MINUTE,
        series={
            'session_created_total{instance="few"}': ramp(6000),
            AT_THE_CAP.replace("{", '{instance="few",'): ramp(6),
            'session_created_total{instance="burst"}': ramp(10),
            AT_THE_CAP.replace("{", '{instance="burst",'): steps((0, 0), (18 * MINUTE, 500)),
            'session_created_total{instance="ending"}': flat(0),
            'session_rejected_total{instance="ending",otel_sessions_rejection_reason="shutdown"}': ramp(600),
        },
    ),
    Case(
        alert="OtelSessionsRejections",
        name="two times a few at once, each for a new reason, with which a series begins",
        at=16 * MINUTE,
        series={
            "session_created_total": ramp(30),
            AT_THE_CAP: steps((0, None), (8 * MINUTE, 50)),
            AT_THE_CAP.replace("max_sessions", "fleet"): steps((0, None), (12 * MINUTE, 50)),
        },
    ),
    Case(
        alert="OtelSessionsRejections",
        name="everybody, from the first refusal on, with which the series begins",
        at=14 * MINUTE,
        series={
            "session_created_total": flat(30),
            AT_THE_CAP: steps((0, None), (8 * MINUTE, 50), (12 * MINUTE, 100)),
        },
        labels={**WARNING, "otel_sessions_rejection_reason": "max_sessions"},
        says=("i m keeps refusing sessions", "100% of the sessions of the last five minutes, for max_sessions."),
    ),
    Case(
        alert="OtelSessionsRejections",
        name="a restart sets the refusals back to 0",
        at=20 * MINUTE,
        series={
            "session_created_total": restarted(ramp(30), 14 * MINUTE),
            AT_THE_CAP: steps((0, 900), (14 * MINUTE, 0)),
        },
    ),
    # ---- BooksDoNotBalance
    Case(
        alert="OtelSessionsBooksDoNotBalance",
        name="a session that nobody has counted out",
        at=5 * MINUTE,
        series={"session_created_total": flat(10), "session_cleaned_total": flat(6), "session_active": flat(3)},
        labels=CRITICAL,
        says=(
            "The books of i m do not balance",
            "1 sessions are unaccounted for: created is not cleaned and active together.",
        ),
    ),
    Case(
        alert="OtelSessionsBooksDoNotBalance",
        name="books that balance while sessions come and go",
        at=5 * MINUTE,
        series={
            "session_created_total": ramp(60, start=4),
            'session_cleaned_total{otel_sessions_session_end_reason="closed"}': ramp(60),
            'session_active{otel_sessions_session_state="leased"}': flat(3),
            'session_active{otel_sessions_session_state="closing"}': flat(1),
        },
    ),
    Case(
        alert="OtelSessionsBooksDoNotBalance",
        name="a restart",
        at=10 * MINUTE,
        series={
            "session_created_total": restarted(ramp(60, start=4), 6 * MINUTE),
            "session_cleaned_total": restarted(ramp(60), 6 * MINUTE),
            "session_active": flat(4),
        },
    ),
    # ---- InstanceDied
    Case(
        alert="OtelSessionsInstanceDied",
        name="killed with 200 sessions",
        at=20 * MINUTE,
        series={"session_active": ending(flat(200), 12 * MINUTE), 'session_active{instance="other"}': flat(3)},
        labels={"severity": "critical", "job": "p", "instance": "i"},
        says=("i of p is gone", "It had 200 sessions when it was last seen. A shutdown in order leaves none."),
    ),
    Case(
        alert="OtelSessionsInstanceDied",
        name="a shutdown in order",
        at=20 * MINUTE,
        series={"session_active": ending(steps((0, 200), (11 * MINUTE, 0)), 13 * MINUTE)},
    ),
    Case(
        alert="OtelSessionsInstanceDied",
        name="a restart under the same name",
        at=20 * MINUTE,
        series={"session_active": restarted(flat(200), 15 * MINUTE)},
    ),
    # ---- Restarting
    Case(
        alert="OtelSessionsRestarting",
        name="five starts under the same name",
        at=30 * MINUTE,
        series={"session_created_total": restarted(ramp(60), *(minute * MINUTE for minute in (5, 10, 15, 20, 25)))},
        labels={"severity": "warning", "job": "p"},
        says=("p restarts again and again", "5 starts within half an hour. Sessions do not survive a restart."),
    ),
    Case(
        alert="OtelSessionsRestarting",
        name="five starts, each under a name of its own",
        at=35.5 * MINUTE,  # the one before has been gone for more than five minutes
        series={
            f'session_created_total{{instance="{number}"}}': steps(
                (0, None), (number * 6 * MINUTE, 1), ((number + 1) * 6 * MINUTE, None)
            )
            for number in range(1, 6)
        },
        labels={"severity": "warning", "job": "p"},
        says=("p restarts again and again", "4 starts within half an hour. Sessions do not survive a restart."),
    ),
    Case(
        alert="OtelSessionsRestarting",
        name="a deploy of four replicas, and one start of another job",
        at=30 * MINUTE,
        series={
            **{f'session_created_total{{instance="old-{n}"}}': ending(ramp(60), 20 * MINUTE) for n in range(4)},
            **{f'session_created_total{{instance="new-{n}"}}': steps((0, None), (20 * MINUTE, 5)) for n in range(4)},
            'session_created_total{job="q"}': restarted(ramp(60), 20 * MINUTE),
        },
    ),
    # ---- TelemetryLost
    Case(
        alert="OtelSessionsTelemetryLost",
        name="spans that do not reach their store",
        at=10 * MINUTE,
        series={LOST: ramp(6)},
        labels={"severity": "warning", "instance": "collector", "exporter": "otlp_http/jaeger"},
        says=(
            "The collector collector loses telemetry",
            "About 30 points, spans or lines within five minutes did not reach otlp_http/jaeger.",
        ),
    ),
    Case(
        alert="OtelSessionsTelemetryLost",
        name="a first loss, with which the series begins",
        at=10 * MINUTE,
        series={
            LOST: steps((0, None), (7 * MINUTE, 30)),
            LOST.replace("send", "enqueue"): ending(flat(4), MINUTE),  # an older loss of another kind
        },
        labels={"severity": "warning", "instance": "collector", "exporter": "otlp_http/jaeger"},
        says=(
            "The collector collector loses telemetry",
            "About 30 points, spans or lines within five minutes did not reach otlp_http/jaeger.",
        ),
    ),
    Case(
        alert="OtelSessionsTelemetryLost",
        name="lost an hour ago, and losses behind a gap of a quarter of an hour",
        at=HOUR,
        series={
            LOST: steps((0, 0), (MINUTE, 500)),
            LOST.replace('"collector"', '"gap"'): steps((0, 153), (42 * MINUTE, None), (58 * MINUTE, 153)),
        },
    ),
    Case(
        alert="OtelSessionsTelemetryLost",
        name="a restart of the collector sets its losses back to 0",
        at=20 * MINUTE,
        series={LOST: steps((0, 500), (18 * MINUTE, 0))},
    ),
    # ---- TelemetryAbsent
    Case(
        alert="OtelSessionsTelemetryAbsent",
        name="one of two jobs is gone",
        at=30 * MINUTE,
        series={"session_created_total": ending(flat(1), 10 * MINUTE), 'session_created_total{job="q"}': flat(1)},
        labels={"severity": "warning", "job": "p"},
        says=("p sends no metrics of its sessions", "Nothing comes in: the proxies or the collector are gone."),
    ),
    Case(
        alert="OtelSessionsTelemetryAbsent",
        name="nobody has ever sent anything",
        at=10 * MINUTE,
        series={LOST: flat(0)},
        labels={"severity": "warning"},
        says=(
            "Every proxy sends no metrics of its sessions",
            "Nothing comes in: the proxies or the collector are gone.",
        ),
    ),
    Case(
        alert="OtelSessionsTelemetryAbsent",
        name="one of two replicas is gone",
        at=30 * MINUTE,
        series={"session_created_total": ending(flat(1), 10 * MINUTE), 'session_created_total{instance="j"}': flat(1)},
    ),
    Case(
        alert="OtelSessionsTelemetryAbsent",
        name="a restart with a minute in between",
        at=30 * MINUTE,
        series={"session_created_total": steps((0, 5), (29 * MINUTE, None), (30 * MINUTE, 0))},
    ),
    *FLEET_CASES,
]
