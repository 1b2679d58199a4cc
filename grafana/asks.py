"""What the dashboards ask: the expressions that panels share, under the dashboards' variables.

A counter or a gauge is asked for within `$window`. So a window of four exports or more always has an answer. OTLP does
not say that an instance has ended, and its last values would stay. So an instance that is `silent` has no answer.
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
SECONDS: Final = "scalar(count_over_time(vector(1)[$window:1s]))"
"""The seconds of the window. Grafana has them as text only."""


def silent(series: str) -> str:
    """Return who has not been heard of for more than two of its own exports, or 5 s where it exports more often.

    An export takes a while to arrive: so 5 s. How often an instance exports, its samples say. Within a quarter of an
    hour, the last sample is A seconds old and the first one F, with N intervals between them. `A > 2 * (F - A) / N` is
    what is asked here, without asking for A twice. Of a single sample nothing follows, so its instance has 450 s.
    """
    told = f"timestamp({series})[15m:2s]"
    heard = f"max by ({EACH}) (timestamp({series}) or max_over_time({told}))"
    first = f"min by ({EACH}) (min_over_time({told}))"
    limit = f"clamp(2 * (time() - {first}) / (2 + max by ({EACH}) (changes({told}))), 5, 450)"
    return f"(time() - {heard} > {limit})"


EXPORTED: Final = f"otel_sessions_session_created_total{{{PROCESS}}}"
"""What each instance has in each of its exports."""
SILENT: Final = silent(EXPORTED)
"""The instances that are gone, as far as one can know."""


def there(expression: str, gone: str = SILENT) -> str:
    """Return an expression of series without those of instances that are gone."""
    return f"({expression} unless on ({EACH}) {gone})"


def latest(metric: str, where: str = MANAGER, gone: str = SILENT) -> str:
    """Return each series' last value within the window, of the instances that are there."""
    return there(f"last_over_time({metric}{{{where}}}[$window])", gone)


def risen(series: str, window: str) -> str:
    """Return how much each series of a counter has risen within a window.

    A series that begins has risen by its first value: an `increase` does not see it, and misses the first error. What
    was there in the window before does not begin. Nor does what was there a quarter of an hour ago, if its instance was
    silent since: only its telemetry was lost then.
    """
    before = f"last_over_time({series}[{window}] offset {window})"
    long_before = f"last_over_time({series}[15m] offset {window})"
    heard = f"last_over_time({EXPORTED}[{window}] offset {window})"
    known = f"({before} or ({long_before} unless on ({EACH}) {heard}))"
    return f"((last_over_time({series}[{window}]) unless {known}) or increase({series}[{window}]))"


def recently(metric: str, by: str, where: str = MANAGER) -> str:
    """Return how much a counter has risen within the window, by labels, of the instances that are there."""
    return f"sum by ({by}) {there(risen(f'{metric}{{{where}}}', '$window'))}"


def rate(metric: str, by: str, where: str = MANAGER) -> str:
    """Return how much a counter rises a second, by labels, of the instances that are there."""
    return f"{recently(metric, by, where)} / {SECONDS}"


def flow(metric: str, by: str, where: str, gone: str = SILENT) -> str:
    """Return how much a counter that never rests rises a second: what it was when it was first seen says nothing."""
    return f"sum by ({by}) {there(f'rate({metric}{{{where}}}[$window])', gone)}"


def happened(metric: str, by: str, where: str = MANAGER) -> str:
    """Return how much a counter has risen within `$__interval`, by labels, also that of an instance that is gone."""
    return f"sum by ({by}) ({risen(f'{metric}{{{where}}}', '$__interval')})"


def quantile(share: float, histogram: str, by: str, where: str = MANAGER) -> str:
    """Return the value that this share of the measured values does not pass, by labels."""
    return f"histogram_quantile({share}, {recently(f'{histogram}_bucket', f'{by}, le', where)})"


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
