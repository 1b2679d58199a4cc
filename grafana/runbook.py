"""The dashboard "Runbook": the text of RUNBOOK.md, where the links of the alerts lead."""

from pathlib import Path
from typing import Final

from grafana_foundation_sdk.builders import dashboard, text
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.text import TextMode

from .sessions import link

UID: Final = "otel-sessions-runbook"
FILE: Final = Path(__file__).parent / "RUNBOOK.md"


def runbook() -> dashboard.Dashboard:
    panel = (
        text.Panel()
        .title("What to do")
        .description("What each alert means, what to look at, and what to do.")
        .mode(TextMode.MARKDOWN)
        .content(FILE.read_text())
        .grid_pos(models.GridPos(h=60, w=24, x=0, y=0))
    )
    return (
        dashboard.Dashboard("Runbook")
        .uid(UID)
        .description("What to do when an alert of otel-sessions fires.")
        .tags(["otel-sessions"])
        .timezone("browser")
        .link(link("Sessions", "/d/otel-sessions"))
        .with_panel(panel)
    )
