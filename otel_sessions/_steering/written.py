"""The answers of the admin API as text for people, in lines of at most 80 columns.

Clients choose their names, so each line is made printable before it is written: nothing steers the terminal.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from otel_sessions.sinks._table import duration

WIDTH: Final = 79
_ROW: Final = "{:<16}  {:<23}  {:<7}  {:>6}  {:>6}  {:>6}  {:>3}"
TITLE: Final = _ROW.format("SESSION", "CLIENT", "STATE", "IDLE", "AGE", "USES", "USE").rstrip()
_CLIENT: Final = 23
_BAR: Final = 30
_LEVELS: Final = "▁▂▃▄▅▆▇█"
_PLAIN_LEVELS: Final = "_.:-=+*#"
_MOST: Final = 999_999

Answer = Mapping[str, Any]


def session_row(session: Answer) -> str:
    """Return a session as a line under `TITLE`. A long client's name ends with three dots."""
    client = str(session["client"] or "-")
    if len(client) > _CLIENT:
        client = f"{client[: _CLIENT - 3]}..."
    times = (duration(session["idle_for"]), duration(session["age"]))
    uses = session["message_count"]
    shown = uses if uses <= _MOST else f"{uses // 1_000_000}M"
    return _ROW.format(session["fingerprint"], client, session["state"], *times, shown, session["leases"])


def reasons(counts: Mapping[str, int]) -> str:
    """Return the reasons that have a count, as in `3 idle_timeout, 1 max_age`."""
    return ", ".join(f"{count:,} {reason}" for reason, count in counts.items() if count)


def report_line(report: Answer, *, is_preview: bool) -> str:
    """Return what a pass has done, or would do."""
    did = "would end" if is_preview else "ended"
    why = reasons(report["cleaned"])
    lines = f"{did} {_many(_total(report), 'session')}{f' ({why})' if why else ''}"
    rest = f"{report['remaining']:,} remain" if not is_preview else f"of {report['examined']:,} looked at"
    failed = f"; {_many(report['hook_errors'], 'hook or export', 'hooks or exports')} failed"
    return f"{lines}; {rest}{failed if report['hook_errors'] else ''}"


def statistics(stats: Answer, cap: int | None, history: Sequence[int], *, is_plain: bool) -> Iterator[str]:
    """Yield the lines of the view of a manager's books. `is_plain` keeps to ASCII."""
    active = stats["currently_active"]
    yield f"active    {_of_cap(active, cap, is_plain=is_plain)}   peak {stats['peak_active']:,}"
    yield "          " + "   ".join(f"{stats[name]:,} {name}" for name in ("leased", "closing", "reserved", "waiting"))
    if history:
        yield f"          {sparkline(history, cap, is_plain=is_plain)}"
    yield f"created   {stats['total_created']:,}"
    yield f"cleaned   {stats['total_cleaned']:,}"
    for reason, count in stats["cleaned_by_reason"].items():
        yield f"          {count:>12,} {reason}"
    yield f"refused   {reasons(stats['rejected']) or '0'}"
    yield f"passes    {stats['cleanup_runs']:,}, {_many(stats['cleanup_errors'], 'error')}"
    yield f"          {_last(stats)}"
    processes = stats.get("processes", ())
    if len(processes) > 1:
        yield f"processes {sum(one['reached'] for one in processes)} of {len(processes)} reached"
        yield from unreached({one["name"]: one["error"] for one in processes if not one["reached"]})


def unreached(processes: Mapping[str, str]) -> Iterator[str]:
    """Yield a line for each process that was not reached, with the reason."""
    for name, error in processes.items():
        yield f"not reached: {name} ({error})"


def sparkline(history: Sequence[int], cap: int | None, *, is_plain: bool) -> str:
    """Return counts as a line of bars, which are as high as their part of the cap, or of the highest count."""
    levels = _PLAIN_LEVELS if is_plain else _LEVELS
    top = max(cap or 0, *history, 1)
    return "".join(levels[min(len(levels) - 1, count * len(levels) // top)] for count in history)


def plain_title() -> str:
    return f"{'TIME':<8} {'ACTIVE':>9} {'LEASED':>9} {'CREATED':>11} {'CLEANED':>11} {'REFUSED':>9} {'PASSES':>9}"


def plain_row(at: str, stats: Answer) -> str:
    """Return the books as one line under `plain_title`, for a pipe. It says if a process is missing in the numbers."""
    missing = sum(not one["reached"] for one in stats.get("processes", ()))
    lack = f"  without {_many(missing, 'process', 'processes')}" if missing else ""
    return (
        f"{at:<8} {stats['currently_active']:>9} {stats['leased']:>9} {stats['total_created']:>11} "
        f"{stats['total_cleaned']:>11} {sum(stats['rejected'].values()):>9} {stats['cleanup_runs']:>9}{lack}"
    )


def _of_cap(active: int, cap: int | None, *, is_plain: bool) -> str:
    if cap is None:
        return f"{active:,}, no cap"
    filled = min(_BAR, round(_BAR * active / cap))
    full, empty = ("#", ".") if is_plain else ("█", "░")
    return f"{active:,} of {cap:,}  {full * filled}{empty * (_BAR - filled)} {100 * active / cap:.0f} %"


def _last(stats: Answer) -> str:
    since = duration(stats["seconds_since_cleanup"])
    last = stats["last_cleanup"]
    if last is None:
        return f"none yet in {since}"
    return f"last {since} ago: {last['trigger']}, {last['outcome']}, {_total(last):,} ended"


def _total(report: Answer) -> int:
    return sum(report["cleaned"].values())


def _many(count: int, one: str, more: str = "") -> str:
    return f"{count:,} {one if count == 1 else more or f'{one}s'}"
