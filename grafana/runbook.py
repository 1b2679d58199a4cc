"""The dashboard "Runbook": RUNBOOK.md with a panel for each heading, and in front a list of links to the alerts.

Grafana gives no ids to headings. So a link to a heading leads to the heading's panel here.
"""

import re
from pathlib import Path
from typing import Final

from grafana_foundation_sdk.builders import dashboard, text
from grafana_foundation_sdk.models.text import TextMode

from . import boards

FILE: Final = Path(__file__).parent / "RUNBOOK.md"
CHARACTERS: Final = 170
"""How many fit into a line of a panel as wide as a laptop's screen."""


def runbook() -> dashboard.Dashboard:
    """Return the dashboard. `describe` numbers its panels from the top, so the first heading's panel is number 2."""
    before, *parts = re.split(r"^## ", FILE.read_text(), flags=re.MULTILINE)
    titles, texts = zip(*(part.split("\n", 1) for part in parts), strict=True)
    links = {title.lower(): f"/d/{boards.RUNBOOK_UID}?viewPanel={number}" for number, title in enumerate(titles, 2)}
    board = boards.board("Runbook", boards.RUNBOOK_UID, "What to do when an alert of otel-sessions fires.")
    board.link(boards.link("Sessions", boards.SESSIONS_UID)).link(boards.link("Fleet", boards.FLEET_UID))
    alerts = [title for title in titles if title.lower().startswith("otelsessions")]
    listed = " · ".join(f"[{title}]({links[title.lower()]})" for title in alerts)
    board.with_panel(_shown("Which alert", f"{before.removeprefix('# Runbook').strip()}\n\n{listed}"))
    for title, content in zip(titles, texts, strict=True):
        linked = re.sub(r"\(#([\w-]+)\)", lambda found: f"({links[found[1]]})", content)
        board.with_panel(_shown(title, linked.strip()))
    return board


def _shown(title: str, content: str) -> text.Panel:
    panel = text.Panel().title(title).description("What to do.").mode(TextMode.MARKDOWN).content(content)
    return panel.span(24).height(3 + round(0.7 * _lines(content)))


def _lines(content: str) -> int:
    """Return about how many lines a text takes, with one between paragraphs."""
    lines = 0
    for paragraph in re.sub(r"\]\([^)]*\)", "", content).split("\n\n"):
        items = re.findall(r"^\d\.|^ +\w", paragraph, re.MULTILINE)
        lines += 1 + max(1 + len(paragraph) // CHARACTERS, len(items))
    return lines
