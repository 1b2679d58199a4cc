"""Writes the dashboards as the JSON that Grafana loads; with `--check` it only says whether that is up to date."""

import json
import sys
from pathlib import Path
from typing import Final

from grafana_foundation_sdk.builders.dashboard import Dashboard
from grafana_foundation_sdk.cog.encoder import JSONEncoder

from .cleanup_passes import cleanup_passes, one_cleanup_pass
from .fleet import fleet
from .runbook import runbook
from .sessions import sessions

FOLDER: Final = Path(__file__).parent / "dashboards"
DASHBOARDS: Final = {
    "sessions.json": sessions,
    "cleanup-passes.json": cleanup_passes,
    "one-cleanup-pass.json": one_cleanup_pass,
    "fleet.json": fleet,
    "runbook.json": runbook,
}


def rendered() -> dict[str, str]:
    """Return the text of each file, by its name."""
    return {name: _text(describe()) for name, describe in DASHBOARDS.items()}


def _text(board: Dashboard) -> str:
    fields = json.loads(json.dumps(board.build(), cls=JSONEncoder))
    for lists in ("annotations", "templating"):  # the SDK leaves an empty list out
        fields[lists].setdefault("list", [])
    inner = (panel for outer in fields["panels"] for panel in (outer, *(outer.get("panels") or ())))
    for number, panel in enumerate(inner, start=1):  # a link to a panel names it by this
        panel["id"] = number
    for control in (*fields["links"], *fields["annotations"]["list"]):
        del control["placement"]  # the SDK's would hide them in a menu
    return json.dumps(fields, indent=2, sort_keys=True) + "\n"


def main(arguments: list[str]) -> int:
    files = rendered()
    if arguments == ["--check"]:
        stale = [name for name, text in files.items() if (FOLDER / name).read_text() != text]
        print(f"not as described: {', '.join(stale)}; run `make dashboards`" if stale else "as described")
        return 1 if stale else 0
    for name, text in files.items():
        (FOLDER / name).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
