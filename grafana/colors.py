"""One color for each word of the signals, on every dashboard: evicted is orange wherever it is drawn.

Without it, Grafana gives colors by the order of the curves, and the same word has another color on each panel.
"""

from typing import Final

GREY: Final = "#8e98a5"
REASONS: Final = {
    "idle_timeout": "blue",
    "max_age": "purple",
    "closed": "green",
    "failed": "red",
    "evicted": "orange",
    "shutdown": GREY,
    "fenced": "dark-red",
    "orphaned": "dark-orange",
    "lost": "light-red",
    "_OTHER": GREY,
}
"""Why sessions ended, in the books of a process and in those of a fleet."""
REJECTIONS: Final = {
    "max_sessions": "red",
    "max_sessions_per_client": "light-red",
    "shutdown": GREY,
    "fleet": "dark-red",
}
TRIGGERS: Final = {"interval": "green", "emergency": "orange", "manual": "blue", "shutdown": GREY}
OUTCOMES: Final = {"success": "green", "partial": "yellow", "error": "red", "cancelled": "purple"}
STATES: Final = {"unleased": "green", "leased": "blue", "closing": GREY}
STATUSES: Final = {"1xx": GREY, "2xx": "green", "3xx": "blue", "4xx": "orange", "5xx": "red", "no answer": "purple"}
"""What the proxy answered."""
MEMBERS: Final = {"living": "green", "dead": "red"}
ORPHANS: Final = {"cleaned": "green", "failed": "red", "taken": "orange"}
RESYNCS: Final = {"put": "orange", "ended": "red"}
LOOKUPS: Final = {"hint": "green", "cache": "light-green", "found": "blue", "none": "orange", "refused": "red"}
FORWARDED: Final = {
    "answered": "green",
    "not_owner": "orange",
    "not_peer": "dark-red",
    "gone": "purple",
    "unavailable": "red",
    "refused": "light-red",
    "left": GREY,
}
"""What became of a request that was passed on."""
PASSES: Final = {
    **{f"{trigger}: success": color for trigger, color in TRIGGERS.items()},
    **{outcome: color for outcome, color in OUTCOMES.items() if outcome != "success"},
}
"""Passes by `trigger: outcome`: one that went well has its trigger's color, any other its outcome's."""


def matcher(word: str) -> str:
    """Return the regular expression of the curves whose name ends with a word."""
    return rf"/(^|[ :]){word}$/"
