"""What every panel has: a title, a description, a unit, thresholds, and queries under the dashboard's variables.

A panel says what is good and what is not in its thresholds: `(None, "green"), (0.9, "orange")` is orange from 0.9 on.
Where there is more than one step, the panel shows the steps.
"""

from collections.abc import Mapping, Sequence
from typing import Final, TypeVar

from grafana_foundation_sdk.builders import common as common_builders
from grafana_foundation_sdk.builders import dashboard, heatmap, logs, loki, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.variants import Dataquery
from grafana_foundation_sdk.models import common, units
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from . import colors
from .asks import LOGS, METRICS, TRACES, counted_alerts, happened
from .boards import RUNBOOK_UID

COUNT: Final = "short"
SESSIONS: Final = "count:sessions"
SESSIONS_A_SECOND: Final = "suffix:sessions/s"
PASSES: Final = "count:passes"
ERRORS: Final = "count:errors"

Steps = Sequence[tuple[float | None, str]]
NEUTRAL: Final[Steps] = [(None, "blue")]
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


def query(expression: str, legend: str) -> prometheus.Dataquery:
    """Return a query over the dashboard's time."""
    return prometheus.Dataquery().datasource(METRICS).expr(expression).legend_format(legend).range()


def now(expression: str, legend: str) -> prometheus.Dataquery:
    """Return a query for the value at the end of the dashboard's time. What is gone by then has no value."""
    return prometheus.Dataquery().datasource(METRICS).expr(expression).legend_format(legend).instant()


def counted(expression: str, legend: str) -> prometheus.Dataquery:
    """Return a query whose points count what happened within `$__interval`: each event is in exactly one point."""
    return query(expression, legend).interval("$window")


def buckets(metric: str, where: str) -> prometheus.Dataquery:
    """Return a query for how a histogram fills over time, with its exemplars."""
    return counted(happened(f"{metric}_bucket", "le", where), "{{le}}").format(PromQueryFormat.HEATMAP).exemplar(True)


def thresholds(steps: Steps) -> dashboard.ThresholdsConfig:
    built = [models.Threshold(value=value, color=color) for value, color in steps]
    return dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(built)


def described(panel: PanelT, title: str, description: str, unit: str, steps: Steps, width: int, height: int) -> PanelT:
    """Give a panel what every panel has."""
    panel.title(title).description(description).unit(unit).thresholds(thresholds(steps))
    return panel.span(width).height(height)


def figures(
    title: str,
    description: str,
    unit: str,
    *targets: prometheus.Dataquery,
    steps: Steps = NEUTRAL,
    mappings: Sequence[models.ValueMapping] = (),
    decimals: int | None = None,
    sparkline: bool = False,
) -> stat.Panel:
    """Return a panel of one number for each instance, an eighth of a screen high; its name is beside it."""
    panel = described(stat.Panel(), title, description, unit, steps, 4, 5).datasource(METRICS)
    lettered(panel, targets).mappings(list(mappings)).no_value("no data")
    panel.color_mode(common.BigValueColorMode.BACKGROUND if len(steps) > 1 else common.BigValueColorMode.VALUE)
    panel.graph_mode(common.BigValueGraphMode.AREA if sparkline else common.BigValueGraphMode.NONE)
    panel.text_mode(common.BigValueTextMode.VALUE_AND_NAME)
    panel.orientation(common.VizOrientation.HORIZONTAL)  # a row for each instance, its name in full
    if decimals is not None:
        panel.decimals(decimals)
    return panel.reduce_options(common_builders.ReduceDataOptions().calcs(["lastNotNull"]))


def alerts(*instances: str) -> stat.Panel:
    """Return a panel of the alerts of these instances that fire now, by their kind."""
    panel = figures(
        "Alerts firing",
        "Which alerts fire, without OtelSessions in front. Click one for what to do.",
        COUNT,
        now(counted_alerts(*instances), "{{what}}"),
        steps=[(None, "green"), (0.5, "red")],
        decimals=0,
    )
    return panel.data_links([dashboard.DashboardLink("What to do").url(f"/d/{RUNBOOK_UID}")])


def lettered(panel: PanelT, targets: Sequence[prometheus.Dataquery]) -> PanelT:
    """Give each query of a panel a letter of its own."""
    for number, target in enumerate(targets):
        panel.with_target(target.ref_id(chr(ord("A") + number)))
    return panel


def curves(
    title: str,
    description: str,
    unit: str,
    *targets: prometheus.Dataquery,
    steps: Steps = NEUTRAL,
    words: Mapping[str, str] | None = None,
    decimals: int | None = None,
    width: int = 8,
    height: int = 8,
) -> timeseries.Panel:
    """Return a panel of values over time, whose legend has the latest and the largest.

    `words` are the colors of the words with which the names of curves end.
    """
    panel = described(timeseries.Panel(), title, description, unit, steps, width, height).datasource(METRICS)
    legend = common_builders.VizLegendOptions().display_mode(common.LegendDisplayMode.TABLE).show_legend(True)
    lettered(panel, targets).legend(legend.placement(common.LegendPlacement.BOTTOM).calcs(["lastNotNull", "max"]))
    tooltip = common_builders.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI)
    panel.tooltip(tooltip.sort(common.SortOrder.DESCENDING))
    panel.fill_opacity(8).line_width(1).min(0).show_points(common.VisibilityMode.NEVER)
    if decimals is not None:
        panel.decimals(decimals)
    for word, color in (words or {}).items():
        panel.override_by_regexp(colors.matcher(word), [fixed(color)])
    return _with_visible_steps(panel, steps)


def _with_visible_steps(panel: timeseries.Panel, steps: Steps) -> timeseries.Panel:
    """Show the steps: where a single error is one too many by the color of the curve, else as lines and areas.

    The largest value gives the curve its color. By default the last one does, and an error that is over looks good.
    """
    if steps == NONE_IS_GOOD:
        by_largest = dashboard.FieldColor().mode(models.FieldColorModeId.THRESHOLDS)
        return panel.color_scheme(by_largest.series_by(models.FieldColorSeriesByMode.MAX))
    if len(steps) > 1:
        mode = common.GraphThresholdsStyleMode.DASHED_AND_AREA
        panel.thresholds_style(common_builders.GraphThresholdsStyleConfig().mode(mode))
    return panel


def stacked(panel: timeseries.Panel) -> timeseries.Panel:
    """Pile the curves of a panel on each other."""
    return panel.fill_opacity(40).stacking(common_builders.StackingConfig().mode(common.StackingMode.NORMAL))


def bars(panel: timeseries.Panel) -> timeseries.Panel:
    """Draw what a panel counts as bars on each other."""
    return stacked(panel).draw_style(common.GraphDrawStyle.BARS).fill_opacity(80)


def durations(title: str, description: str, target: prometheus.Dataquery, *, width: int, height: int) -> heatmap.Panel:
    """Return a heatmap of how long things took, exemplars on top."""
    panel = described(heatmap.Panel(), title, description, units.Seconds, NEUTRAL, width, height).datasource(METRICS)
    lettered(panel, [target]).calculate(False).exemplars_color("rgba(255, 120, 50, 0.9)")
    panel.cell_values(heatmap.CellValues().unit(COUNT).decimals(0))
    panel.tooltip(heatmap.HeatmapTooltip().mode(common.TooltipDisplayMode.SINGLE).y_histogram(True))
    return panel.y_axis(heatmap.YAxisConfig().unit(units.Seconds))


def lines(title: str, description: str, expression: str, *, width: int, height: int) -> logs.Panel:
    """Return a panel of log lines, the latest first."""
    panel = described(logs.Panel(), title, description, COUNT, NEUTRAL, width, height).datasource(LOGS)
    target = loki.Dataquery().datasource(LOGS).expr(expression).query_type("range").ref_id("A").max_lines(200)
    return panel.with_target(target).show_time(True).wrap_log_message(True).enable_log_details(True)


def called(number: float | None, to: float | None, text: str, color: str) -> models.RangeMap:
    """Return what a range of numbers is called."""
    result = models.ValueMappingResult(text=text, color=color)
    return models.RangeMap(options=models.DashboardRangeMapOptions(from_val=number, to=to, result=result))


def having(name: str, value: object) -> models.DynamicConfigValue:
    """Return a property with which an override replaces the panel's own."""
    return models.DynamicConfigValue(id_val=name, value=value)


def fixed(color: str) -> models.DynamicConfigValue:
    return having("color", {"mode": "fixed", "fixedColor": color})


def dashed() -> models.DynamicConfigValue:
    return having("custom.lineStyle", {"fill": "dash", "dash": [6, 4]})
