"""The dashboard "Runbook": the text of RUNBOOK.md, where the links of the alerts lead."""

from pathlib import Path
from typing import Final

from grafana_foundation_sdk.builders import dashboard, text
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.text import TextMode

from . import boards

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
    about = "What to do when an alert of otel-sessions fires."
    board = boards.board("Runbook", boards.RUNBOOK_UID, about)
    return board.link(boards.link("Sessions", boards.SESSIONS_UID)).with_panel(panel)
