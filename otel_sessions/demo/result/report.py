"""The folder of a report: the memory picture as SVG and PNG, the last view of the terminal, and all numbers.

All files are written before the first file is put in place, so there is never half a report. Other files are not
changed.
"""

import io
import json
import os
import platform
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from otel_sessions import ConfigError, SessionConfig, __version__
from otel_sessions.demo.processes.readings import Reading

from .history import History, State
from .live import summary
from .verdict import Verdict

FILES: Final = ("memory.svg", "memory.png", "terminal.svg", "summary.json")
FORMAT: Final = 1
"""The version of summary.json. A change that breaks a reader raises the version."""
_COLUMNS: Final = 80
_TERMINAL: Final = """\
<svg viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg" xml:space="preserve">
<style>
.{unique_id}-matrix {{ font-family: monospace; font-size: {char_height}px }}
.{unique_id}-title {{ font-family: sans-serif; font-size: 18px; font-weight: bold }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal"><rect width="{terminal_width}" height="{terminal_height}"/></clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">{matrix}</g>
</g>
</svg>
"""
"""A template for rich. `xml:space` keeps blanks: some programs that draw an SVG collapse even no-break spaces."""
_NO_SECONDS: Final = ("max_sessions", "max_sessions_per_client", "cleanup_on_shutdown")
"""The limits that are not in seconds. Their names say the unit already."""


class ReportFailed(Exception):
    """The report cannot be written. The message names the folder and the reason."""


def require_writable(folder: Path) -> None:
    """Raise `ConfigError` if no report can be written to the folder. The folder need not exist. Nothing is created."""
    try:
        there = next(one for one in (folder, *folder.parents) if _is_there(one))
    except OSError as error:
        raise ConfigError(f"--report: the report cannot be written to {folder}: {error.strerror}") from error
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        reason = "not a folder" if not there.is_dir() else "not writable"
        raise ConfigError(f"--report: the report cannot be written to {folder}: {there} is {reason}")
    for name in FILES:
        if (folder / name).is_dir():
            raise ConfigError(f"--report: {folder / name} is a folder, but the report has a file of this name")


def _is_there(path: Path) -> bool:
    """Return whether a path exists. Raises `OSError` if the path cannot exist or cannot be read."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def write_report(folder: Path, state: State, verdict: Verdict) -> None:
    """Write all files, in place of the files of an earlier run. Raises `ReportFailed`, and then changes no file."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            dir=folder, prefix=".report-"
        ) as beside:  # the same file system: a move is atomic
            _write_files(Path(beside), state, verdict)
            for name in FILES:
                (Path(beside) / name).replace(folder / name)
    except OSError as error:
        raise ReportFailed(f"the report cannot be written to {folder}: {error.strerror}") from error


def _write_files(folder: Path, state: State, verdict: Verdict) -> None:
    from .picture import draw  # matplotlib takes half a second, which should not delay the run

    figure = draw(state)
    figure.savefig(folder / "memory.svg", metadata={"Date": None})
    figure.savefig(folder / "memory.png")
    (folder / "terminal.svg").write_text(terminal(state, verdict), encoding="utf-8")
    (folder / "summary.json").write_text(json.dumps(numbers(state, verdict), indent=1) + "\n", encoding="utf-8")


def terminal(state: State, verdict: Verdict) -> str:
    """Return the last view as rich draws a terminal, without the fonts that rich would fetch."""
    console = Console(
        width=_COLUMNS, file=io.StringIO(), record=True, force_terminal=True, color_system="truecolor", highlight=False
    )
    console.print(summary(state, verdict))
    return console.export_svg(title="otel-sessions demo", code_format=_TERMINAL)


def numbers(state: State, verdict: Verdict) -> dict[str, Any]:
    """Return the content of summary.json. The last word of a key is its unit: seconds, bytes, or what is counted."""
    return {
        "format": FORMAT,
        "otel_sessions": __version__,
        "machine": {"python": platform.python_version(), "system": platform.system(), "cpus": os.cpu_count()},
        "load": {
            "duration_seconds": state.duration,
            "clients": state.load.clients,
            "seed": state.load.seed,
            "rate_times_usual": state.load.rate,
        },
        "verdict": {"passed": verdict.passed, "lines": list(verdict.lines)},
        "with_cleanup_and_cap": _history(state.ours),
        "without": None if state.twin is None else _history(state.twin),
    }


def _history(history: History) -> dict[str, Any]:
    counts = history.counts
    p50, p99 = history.latency
    return {
        "limits": _limits(history.limits),
        "killed": history.killed,
        "memory": {
            "start_bytes": history.start.memory,
            "peak_bytes": history.peak_memory,
            "under_load_at_the_end_bytes": history.now.memory,
        },
        "sessions": {**_books(history.end), "most_active_sessions": history.most_active},
        "clients_counted": {
            "opened_sessions": counts.opened,
            "closed_sessions": counts.closed,
            "abandoned_sessions": counts.abandoned,
            "refused_sessions": counts.rejected,
            "refused_with_retry_after_sessions": counts.told_to_wait,
            "for_ended_sessions_requests": counts.gone,
            "unexpected_answers": counts.unexpected,
            "all_requests": counts.requests,
        },
        "rate_requests_per_second": round(history.rate, 2),
        "latency": {"p50_seconds": round(p50, 6), "p99_seconds": round(p99, 6)},
        "samples": [
            {
                "elapsed_seconds": round(sample.elapsed, 3),
                "memory_bytes": sample.reading.memory,
                **_books(sample.reading),
                "all_requests": sample.counts.requests,
                "abandoned_sessions": sample.counts.abandoned,
            }
            for sample in history.samples
        ],
    }


def _limits(limits: SessionConfig) -> dict[str, Any]:
    values = asdict(limits)
    hooks = {"close_concurrency_hooks": values.pop("close_concurrency")}
    return hooks | {name if name in _NO_SECONDS else f"{name}_seconds": value for name, value in values.items()}


def _books(reading: Reading) -> dict[str, Any]:
    return {
        "created_sessions": reading.created,
        "cleaned_sessions": dict(reading.cleaned),
        "active_sessions": reading.active,
        "overstaying_sessions": reading.overstaying,
        "refused_sessions": dict(reading.rejected),
        "cleanup_passes": reading.passes,
        "cleanup_errors": reading.errors,
    }
