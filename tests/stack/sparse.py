"""A run told once more, by a program that exports every 60 s, the SDK's default: nobody can wait for that.

The samples of the real run are written into another Prometheus, farther apart. Each value and each label stays.
"""

import json
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from .backends import Stack
from .programs import program

EXPORTED: Final = 1.0
"""The seconds between two exports of the real run."""
SPARSE: Final = 60.0
"""The seconds between two exports of the run that is told."""
ALL: Final = '{__name__=~".+", __name__!~"ALERTS.*"}'
TIMES: Final = SPARSE / EXPORTED


def write_blocks(stack: Stack, into: Path, *, start: float, end: float) -> None:
    """Write what Prometheus has of a stretch of time as blocks of its store, so that the stretch ends as before."""
    samples = stack.ask("query", query=f"{ALL}[{int(end - start) + 1}s]", time=f"{end:.3f}")["result"]
    text = into.with_suffix(".openmetrics")
    text.write_text("\n".join(_lines(samples, end)) + "\n# EOF\n")
    command = [program("promtool"), "tsdb", "create-blocks-from", "openmetrics", str(text), str(into)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def _lines(samples: list[dict[str, Any]], end: float) -> Iterator[str]:
    for one in samples:
        name = _series(one["metric"])
        for when, value in one["values"]:
            yield f"{name} {value} {end - (end - when) * TIMES:.3f}"


def _series(metric: Mapping[str, str]) -> str:
    labels = ",".join(f"{name}={json.dumps(value)}" for name, value in metric.items() if name != "__name__")
    return f"{metric['__name__']}{{{labels}}}"
