"""asgiproxy as its own command makes it, for a uvicorn without access log. It runs in an environment of its own."""

import os

from asgiproxy.__main__ import make_app  # type: ignore[import-not-found]  # peers.py installs it elsewhere

app, _ = make_app(os.environ["UPSTREAM"])
