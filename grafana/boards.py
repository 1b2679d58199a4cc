"""What the dashboards share: their frame, the variables that choose, the marks on the curves, and the links."""

from collections.abc import Sequence
from typing import Final

from grafana_foundation_sdk.builders import dashboard, loki, prometheus
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import dashboard as models

from .asks import EACH, LOGS, METRICS, PROCESS, SILENT, alerts_firing

SESSIONS_UID: Final = "otel-sessions"
PASSES_UID: Final = "otel-sessions-pass"
SINGLE_UID: Final = "otel-sessions-one-pass"
FLEET_UID: Final = "otel-sessions-fleet"
RUNBOOK_UID: Final = "otel-sessions-runbook"
_CREATED: Final = "otel_sessions_session_created_total"
PHASES: Final = '{service_name="otel-sessions-load"} |= "phase"'
"""The lines with which the demo's load begins each phase."""

Variable = Builder[models.VariableModel]


def board(title: str, uid: str, description: str, variables: Sequence[Variable] = ()) -> dashboard.Dashboard:
    """Return a dashboard without panels."""
    made = dashboard.Dashboard(title).uid(uid).description(description).tags(["otel-sessions"]).timezone("browser")
    made.time("now-15m", "now").tooltip(models.DashboardCursorSync.CROSSHAIR).editable()
    for variable in variables:
        made.with_variable(variable)
    return made


def link(title: str, uid: str) -> dashboard.DashboardLink:
    made = dashboard.DashboardLink(title).url(f"/d/{uid}").type(models.DashboardLinkType.LINK)
    return made.include_vars(True).keep_time(True)


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


def choice_variable(name: str, label: str, description: str, choices: dict[str, str], first: str) -> Variable:
    """Return a variable for one of a few values, each under a name."""
    listed = ",".join(text if text == value else f"{text} : {value}" for text, value in choices.items())
    variable = dashboard.CustomVariable(name).label(label).description(description).values(listed)
    variable.options([models.VariableOption(text=text, value=value) for text, value in choices.items()])
    return variable.current(models.VariableOption(text=first, value=choices[first]))


def job(*, many: bool = True) -> Variable:
    return label_variable("job", "Job", f"label_values({_CREATED}, job)", many=many)


def instance() -> Variable:
    return label_variable("instance", "Instance", f'label_values({_CREATED}{{job=~"$job"}}, instance)')


def manager() -> Variable:
    return label_variable("manager", "Manager", f"label_values({_CREATED}{{{PROCESS}}}, otel_sessions_manager_name)")


def service() -> Variable:
    return label_variable("service", "Service", f'label_values({_CREATED}{{job=~"$job"}}, service_name)', many=False)


def window() -> Variable:
    windows = {window: window for window in ("30s", "1m", "5m", "15m")}
    about = "Over how long rates are taken. Choose at least four times the interval of export: 5m for one every 60 s."
    return choice_variable("window", "Window", about, windows, "1m")


def memory_limit() -> Variable:
    limits = {str(limit): str(limit) for limit in (0, 64, 128, 256, 512, 1024, 2048, 4096, 8192)}
    about = "Where the system kills a process, in MiB: a line on the panel of memory. 0 draws no line."
    return choice_variable("memory_limit", "Memory limit (MiB)", about, limits, "256")


def alerts(*instances: str) -> dashboard.AnnotationQuery:
    """Return marks for the times when an alert of these instances was firing."""
    return _mark("Alerts", "red", alerts_firing(*instances), "{{alertname}}", "{{instance}}")


def died() -> dashboard.AnnotationQuery:
    """Return marks where an instance that had sessions was gone. A shutdown in order leaves no session."""
    had = f"sum by ({EACH}) (last_over_time(otel_sessions_session_active{{{PROCESS}}}[15m])) > 0"
    text = "It was killed with its sessions, or its telemetry is lost."
    return _mark("Died", "purple", f"({had}) and on ({EACH}) {SILENT}", "{{instance}} died or fell silent", text)


def _mark(name: str, color: str, expression: str, title: str, text: str) -> dashboard.AnnotationQuery:
    """Return marks in both shapes: Grafana's conversion to the second version keeps `target` only."""
    target = prometheus.Dataquery().datasource(METRICS).expr(expression).range().interval("5s").ref_id("Anno")
    mark = dashboard.AnnotationQuery().name(name).datasource(METRICS).enable(True).icon_color(color)
    return mark.expr(expression).step("5s").title_format(title).text_format(text).target(target)


def phases() -> dashboard.AnnotationQuery:
    """Return marks where the demo's load begins a phase."""
    target = loki.Dataquery().datasource(LOGS).expr(PHASES).query_type("range").ref_id("Anno").max_lines(200)
    name = "Phases of the load (not run in our tests)"
    mark = dashboard.AnnotationQuery().name(name).datasource(LOGS).enable(True).icon_color("blue")
    return mark.expr(PHASES).title_format("{{service_instance_id}}").target(target)
