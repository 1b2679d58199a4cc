"""What the dashboards ask: the expressions that panels share, under the dashboards' variables.

A counter or a gauge is asked for within `$window`. So a window of four exports or more always has an answer, and an
instance that died ends in the picture when the window has passed it.
"""

from typing import Final

from grafana_foundation_sdk.models import common

METRICS: Final = common.DataSourceRef(type_val="prometheus", uid="${metrics}")
TRACES: Final = common.DataSourceRef(type_val="jaeger", uid="${traces}")
LOGS: Final = common.DataSourceRef(type_val="loki", uid="${logs}")

PROCESS: Final = 'job=~"$job", instance=~"$instance"'
MANAGER: Final = f'{PROCESS}, otel_sessions_manager_name=~"$manager"'
REASON: Final = "otel_sessions_session_end_reason"
EACH: Final = "job, instance"
"""The labels that tell one process's series from another's."""
WHO: Final = f"{EACH}, otel_sessions_manager_name"
"""The labels that tell one manager's series from another's."""
NAMED: Final = "{{instance}}/{{otel_sessions_manager_name}}"


def latest(metric: str, where: str = MANAGER) -> str:
    """Return each series' last value within the window."""
    return f"last_over_time({metric}{{{where}}}[$window])"


def rate(metric: str, by: str, where: str = MANAGER) -> str:
    """Return how much a counter rises a second, by labels."""
    return f"sum by ({by}) (rate({metric}{{{where}}}[$window]))"


def happened(metric: str, by: str, where: str = MANAGER) -> str:
    """Return how much a counter has risen within `$__interval`, by labels.

    A series that begins has risen by its first value: an `increase` does not see it. What was silent for less than a
    quarter of an hour does not begin.
    """
    series = f"{metric}{{{where}}}"
    begun = f"last_over_time({series}[$__interval]) unless last_over_time({series}[15m] offset $__interval)"
    return f"sum by ({by}) (({begun}) or increase({series}[$__interval]))"


def quantile(share: float, histogram: str, by: str, where: str = MANAGER) -> str:
    """Return the value that this share of the measured values does not pass, by labels."""
    return f"histogram_quantile({share}, {rate(f'{histogram}_bucket', f'{by}, le', where)})"


def alerts_firing(*instances: str) -> str:
    """Return the alerts of these instances that fire now. Those of a whole job have no instance, some have no job."""
    where = f'job=~"$job|", instance=~"{"|".join([*instances, ""])}"'
    return f'ALERTS{{alertstate="firing", alertname=~"OtelSessions.*", {where}}}'


def counted_alerts(*instances: str) -> str:
    """Return how many alerts of each kind fire. `what` is the kind, and is `none` where no alert fires."""
    kinds = f'label_replace({alerts_firing(*instances)}, "what", "$1", "alertname", "OtelSessions(.*)")'
    return f'count by (what) ({kinds}) or on () label_replace(vector(0), "what", "none", "", "")'


ACTIVE: Final = f"sum by ({WHO}) ({latest('otel_sessions_session_active')})"
LIMIT: Final = f"max by ({WHO}) ({latest('otel_sessions_session_limit')})"
"""0 once the manager has ended, and absent where it has none."""
CREATED: Final = f"sum by ({WHO}) ({latest('otel_sessions_session_created_total')})"
CLEANED: Final = f"sum by ({WHO}) ({latest('otel_sessions_session_cleaned_total')})"
MEMORY: Final = latest("process_memory_usage_bytes", PROCESS)
