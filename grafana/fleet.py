"""The dashboard "Fleet", of a fleet with a store, and its first screen: the totals of the fleet, and each grant."""

from grafana_foundation_sdk.builders import dashboard, stat
from grafana_foundation_sdk.models import units

from . import boards
from .asks import NAMED, WHO, latest
from .fleet_asks import FLEET, FLEET_NAMED, UNACCOUNTED, members, of_each, of_fleet
from .fleet_rows import MEMBERS, each, membership, put_right, requests, store
from .panels import NEUTRAL, SESSIONS, Steps, alerts, curves, dashed, figures, fixed, having, now, query


def fleet() -> dashboard.Dashboard:
    variables = [
        boards.source_variable("metrics", "Metrics", "prometheus"),
        *(boards.job(), boards.instance(), boards.manager(), boards.window()),
    ]
    about = "Several replicas with one cap and one set of books: who is a member, and what was put right."
    board = boards.board("Fleet", boards.FLEET_UID, about, variables).refresh("5s")
    board.annotation(boards.alerts("$instance")).annotation(boards.died())
    board.link(boards.link("Sessions", boards.SESSIONS_UID)).link(boards.link("Runbook", boards.RUNBOOK_UID))
    for add in (_first_screen, membership, put_right, requests, store, each):
        add(board)
    return board


def _first_screen(board: dashboard.Dashboard) -> None:
    for panel in _figures():
        board.with_panel(panel)
    cap = [dashed(), fixed("red"), having("custom.fillOpacity", 0)]
    board.with_panel(
        curves(
            "Sessions of the whole fleet",
            "Sessions that the store has, and places that it has given to processes. Both stay below the cap.",
            SESSIONS,
            query(of_fleet("session_active"), f"{FLEET_NAMED} active"),
            query(of_fleet("session_granted"), f"{FLEET_NAMED} granted"),
            query(f"{of_fleet('session_limit')} > 0", f"{FLEET_NAMED} cap"),
            decimals=0,
            width=12,
            height=10,
        ).override_by_regexp("/ cap$/", cap)
    )
    active = f"sum by ({WHO}) ({latest('otel_sessions_session_active')})"
    board.with_panel(
        curves(
            "Grant and sessions, of every instance",
            "How many sessions each process may have, dashed, and how many it has.",
            SESSIONS,
            query(of_each("grant"), f"{NAMED} grant"),
            query(f"{active} and {of_each('grant')}", f"{NAMED} sessions"),
            decimals=0,
            width=12,
            height=10,
        ).override_by_regexp("/ grant$/", [dashed(), having("custom.fillOpacity", 0)])
    )


def _figures() -> tuple[stat.Panel, ...]:
    full: Steps = [(None, "green"), (0.9, "orange"), (1.0001, "red")]
    active, granted, limit = (of_fleet(f"session_{what}") for what in ("active", "granted", "limit"))
    return (
        _figure("Living members", "Processes that are members now.", MEMBERS, members("living"), NEUTRAL),
        _figure(
            "Dead members",
            "Processes that are gone and whose sessions are not all cleaned. Soon after a death, this is 0 again.",
            MEMBERS,
            members("dead"),
            [(None, "green"), (0.5, "orange")],
        ),
        _figure(
            "Active of the fleet's cap",
            "The share of the cap that is taken.",
            units.PercentUnit,
            f"{active} / ({limit} > 0)",
            full,
        ),
        _figure(
            "Granted of the fleet's cap",
            "The share of the cap that processes may use. It is never above 100 %.",
            units.PercentUnit,
            f"{granted} / ({limit} > 0)",
            [(None, "blue"), (1.0001, "red")],
        ),
        _figure(
            "Unaccounted for in the fleet",
            "Created minus cleaned minus active, in the store. Anything but 0 is a session lost without a count.",
            SESSIONS,
            f"max by ({FLEET}) ({UNACCOUNTED})",
            [(None, "green"), (0.5, "red")],
        ),
        alerts("$instance"),
    )


def _figure(title: str, about: str, unit: str, expression: str, steps: Steps) -> stat.Panel:
    decimals = 1 if unit == units.PercentUnit else 0
    return figures(title, about, unit, now(expression, FLEET_NAMED), steps=steps, decimals=decimals)
