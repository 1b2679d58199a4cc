"""`python -m otel_sessions`: the same as the command `otel-sessions`."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
