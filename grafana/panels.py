"""What every panel has: a title, a description, a unit, thresholds, and queries under the dashboard's variables.

A panel says what is good and what is not in its thresholds: `(None, "green"), (0.9, "orange")` is orange from 0.9 on.
"""

from collections.abc import Sequence
from typing import Final, TypeVar

from grafana_foundation_sdk.builders import common as common_builders
from grafana_foundation_sdk.builders import dashboard, heatmap, logs, loki, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.variants import Dataquery
from grafana_foundation_sdk.models import common, units
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

METRICS: Final = common.DataSourceRef(type_val="prometheus", uid="${metrics}")
TRACES: Final = common.DataSourceRef(type_val="jaeger", uid="${traces}")
LOGS: Final = common.DataSourceRef(type_val="loki", uid="${logs}")

PROCESS: Final = 'job=~"$job", instance=~"$instance"'
MANAGER: Final = f'{PROCESS}, otel_sessions_manager_name=~"$manager"'
REASON: Final = "otel_sessions_session_end_reason"
WHO: Final = "job, instance, otel_sessions_manager_name"
"""The labels that tell one manager's series from another's."""
NAMED: Final = "{{instance}} {{otel_sessions_manager_name}}"

SESSIONS: Final = "suffix: sessions"
SESSIONS_A_SECOND: Final = "suffix: sessions/s"
PASSES_A_MINUTE: Final = "suffix: passes/min"
ERRORS: Final = "suffix: errors"

Steps = Sequence[tuple[float | None, str]]
NEUTRAL: Final[Steps] = [(None, "green")]
NONE_IS_GOOD: Final[Steps] = [(None, "green"), (0.001, "red")]

PanelT = TypeVar("PanelT", stat.Panel, timeseries.Panel, heatmap.Panel, logs.Panel, dashboard.Panel)


class JaegerQuery(Dataquery, Builder[Dataquery]):
    """A query of Grafana's Jaeger data source, which the SDK does not know."""

    def __init__(self, **fields: str | int) -> None:
        self.fields = {"refId": "A", "datasource": {"type": TRACES.type_val, "uid": TRACES.uid}, **fields}

    def to_json(self) -> dict[str, object]:
        return dict(self.fields)

    def build(self) -> Dataquery:
        return self


def query(expression: str, legend: str = "") -> prometheus.Dataquery:
    """Return a query over the dashboard's time."""
    return prometheus.Dataquery().datasource(METRICS).expr(expression).legend_format(legend or "__auto").range()


def now(expression: str, legend: str = "") -> prometheus.Dataquery:
    """Return a query for the value at the end of the dashboard's time."""
    return (
        prometheus.Dataquery()
        .datasource(METRICS)
        .expr(expression)
        .legend_format(legend or "__auto")
        .ref_id("A")
        .instant()
    )


def rate(metric: str, by: str = "", where: str = MANAGER) -> str:
    """Return how fast a counter rises, in all or by labels."""
    return f"sum by ({by}) (rate({metric}{{{where}}}[$__rate_interval]))"


def buckets(metric: str) -> prometheus.Dataquery:
    """Return a query for how a histogram fills over time, with its exemplars."""
    expression = f"sum by (le) (increase({metric}{{{MANAGER}}}[$__rate_interval]))"
    return query(expression, "{{le}}").ref_id("A").format(PromQueryFormat.HEATMAP).exemplar(True)


def thresholds(steps: Steps) -> dashboard.ThresholdsConfig:
    built = [models.Threshold(value=value, color=color) for value, color in steps]
    return dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(built)


def described(panel: PanelT, title: str, description: str, unit: str, steps: Steps, width: int, height: int) -> PanelT:
    """Give a panel what every panel has."""
    panel.title(title).description(description).unit(unit).thresholds(thresholds(steps))
    return panel.span(width).height(height)


def verdict(
    title: str,
    description: str,
    target: prometheus.Dataquery,
    mappings: Sequence[models.ValueMapping],
    steps: Steps,
    *,
    unit: str = units.Short,
    width: int = 4,
    height: int = 8,
) -> stat.Panel:
    """Return a panel that answers a question in words and colour."""
    panel = described(stat.Panel(), title, description, unit, steps, width, height).datasource(METRICS)
    panel.with_target(target).mappings(list(mappings)).color_mode(common.BigValueColorMode.BACKGROUND)
    panel.graph_mode(common.BigValueGraphMode.NONE).text_mode(common.BigValueTextMode.VALUE)
    return panel.reduce_options(common_builders.ReduceDataOptions().calcs(["lastNotNull"])).no_value("no data")


def curves(
    title: str,
    description: str,
    unit: str,
    *targets: prometheus.Dataquery,
    steps: Steps = NEUTRAL,
    width: int = 8,
    height: int = 8,
    stacked: bool = False,
) -> timeseries.Panel:
    """Return a panel of values over time, whose legend has the latest and the largest."""
    panel = described(timeseries.Panel(), title, description, unit, steps, width, height).datasource(METRICS)
    for number, target in enumerate(targets):
        panel.with_target(target.ref_id(chr(ord("A") + number)))
    legend = common_builders.VizLegendOptions().display_mode(common.LegendDisplayMode.TABLE).show_legend(True)
    panel.legend(legend.placement(common.LegendPlacement.BOTTOM).calcs(["lastNotNull", "max"]))
    panel.tooltip(common_builders.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI))
    panel.fill_opacity(40 if stacked else 8).line_width(1).min(0).show_points(common.VisibilityMode.NEVER)
    if stacked:
        panel.stacking(common_builders.StackingConfig().mode(common.StackingMode.NORMAL))
    return panel


def durations(title: str, description: str, target: prometheus.Dataquery, *, width: int, height: int) -> heatmap.Panel:
    """Return a heatmap of how long things took, exemplars on top."""
    panel = described(heatmap.Panel(), title, description, units.Seconds, NEUTRAL, width, height).datasource(METRICS)
    panel.with_target(target).calculate(False).exemplars_color("rgba(255, 120, 50, 0.9)")
    return panel.y_axis(heatmap.YAxisConfig().unit(units.Seconds))


def lines(title: str, description: str, expression: str, *, width: int, height: int) -> logs.Panel:
    """Return a panel of log lines, the latest first."""
    panel = described(logs.Panel(), title, description, units.Short, NEUTRAL, width, height).datasource(LOGS)
    target = loki.Dataquery().datasource(LOGS).expr(expression).query_type("range").ref_id("A").max_lines(200)
    return panel.with_target(target).show_time(True).wrap_log_message(True).enable_log_details(True)


def words(number: float | None, to: float | None, text: str, color: str) -> models.RangeMap:
    """Return what a range of numbers is called."""
    result = models.ValueMappingResult(text=text, color=color)
    return models.RangeMap(options=models.DashboardRangeMapOptions(from_val=number, to=to, result=result))


def source_variable(name: str, label: str, kind: str) -> dashboard.DatasourceVariable:
    current = models.VariableOption(text=name, value=name)  # the uid that provisioning gives it
    return dashboard.DatasourceVariable(name).label(label).type(kind).current(current)


def label_variable(name: str, label: str, what: str, *, many: bool = True) -> dashboard.QueryVariable:
    """Return a variable for the values of a label; all of them where many can be chosen."""
    variable = dashboard.QueryVariable(name).label(label).datasource(METRICS).query(what)
    variable.refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED).sort(models.VariableSort.ALPHABETICAL_ASC)
    if many:
        everything = models.VariableOption(text="All", value="$__all")
        variable.multi(True).include_all(True).current(everything)  # all of those listed, not of all there is
    return variable
