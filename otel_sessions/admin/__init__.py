"""The admin API: an ASGI app with which people and programs see the sessions of a manager, and end some.

`admin_app` makes the app, which needs the extra `admin`. `_gate` decides who may come in, `_routes` has the requests,
`_answers` what they take and return, `_problems` the errors, and `_page` the page for people. The app
uses the manager's public methods only. It keeps no state except its rates, and answers while the manager is at its cap,
drains, or has ended.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._routes import admin_app

__all__ = ["admin_app"]


def __getattr__(name: str) -> object:
    """Import `admin_app` when it is first used: it needs FastAPI."""
    if name != "admin_app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    app: object = import_module("._routes", __name__).admin_app
    globals()[name] = app
    return app
