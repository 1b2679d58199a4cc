"""The command `otel-sessions`, also as `python -m otel_sessions`.

From the first line on, Ctrl-C ends the command with status 130 and no traceback. So this module imports nothing, and
the package nothing heavy, not even `typing`, before the handler is in place.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status. Wrong arguments leave by `SystemExit`, with status 2."""
    try:
        from ._commands import run

        return run(sys.argv[1:] if arguments is None else arguments)
    except KeyboardInterrupt:
        print("otel-sessions: interrupted; everything is stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
