"""The admin API: an ASGI app with which people and programs see the sessions of a manager, and end some.

`admin_app` makes the app, which needs the extra `admin`. `_gate` decides who may come in, `_routes` has the requests,
`_answers` what they take and return, `_problems` the errors, and `_page` the page for people. `_everyone` asks the
processes of the fleet, and `_merged` puts their answers together. The app uses the manager's public methods only. It
keeps no state except its rates, and answers while the manager is at its cap, drains, or has ended.
"""

from typing import TYPE_CHECKING

from otel_sessions._lazy import lazily

if TYPE_CHECKING:
    from ._routes import admin_app

__all__ = ["admin_app"]

__getattr__ = lazily(__name__, {"admin_app": "_routes"})
