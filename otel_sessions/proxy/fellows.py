"""The proxy among its peers: its fleet, what clients may not send, and what the peers' own listener takes.

Clients and peers have listeners of their own. A client's request never counts as one that a peer has passed on. The
peers' listener takes nothing else.
"""

import dataclasses
import ssl
from collections.abc import Awaitable
from http import HTTPStatus
from pathlib import Path
from typing import Final

from otel_sessions.asgi import ASGIApp, Receive, Send
from otel_sessions.asgi._elsewhere import FORWARDED
from otel_sessions.asgi._exchange import method_of
from otel_sessions.fleet import StaticPeers
from otel_sessions.fleet.addresses import read_peers
from otel_sessions.fleet.peers import Peers
from otel_sessions.fleet.questions import is_question
from otel_sessions.fleet.signing import HEADER
from otel_sessions.fleet.taking import as_of_client, is_forwarded
from otel_sessions.matchers import Scope

from . import fleet_options
from .farewell import Farewell
from .fleet_settings import FleetSettings
from .forward import answer, refuse_websocket
from .orphans import OrphanFarewell
from .peer import EndpointMatcher
from .settings import Settings
from .shape import SHAPED, Shaped, shape_in
from .upstream import trusting

_UNSIGNED: Final = (HTTPStatus.FORBIDDEN, "this address takes only what a process of the fleet passes on")
_SIGNED_TIMES: Final = 3
"""How many times as large as a client's head its forwarded head may be: it repeats the id of its session, coded."""
_SIGNED_BYTES: Final = 2048


def fleet_of(settings: Settings, farewell: Farewell | None) -> Peers:
    """Return the fleet that the settings describe. Raises `ConfigError` if its files cannot be used.

    `farewell` ends the sessions of dead processes at the upstream, where the settings ask for it.
    """
    tls = None if settings.peer_ca is None else trusting(settings.peer_ca, fleet_options.PEER_CA.flag)
    if settings.fleet is not None:
        return _store_fleet(settings.fleet, tls, farewell if settings.fleet.farewell else None)
    assert settings.peer_secret_file is not None
    file = None if settings.peers_file is None else Path(settings.peers_file)
    listed = {name: peer.address for name, peer in read_peers(settings.peers).items()} or file
    secret = Path(settings.peer_secret_file)
    return StaticPeers(listed, dns=settings.peers_dns, name=settings.peer_name, secret=secret, tls=tls)


def _store_fleet(settings: FleetSettings, peer_tls: ssl.SSLContext | None, farewell: Farewell | None) -> Peers:
    store_tls = None if settings.ca is None else trusting(settings.ca, fleet_options.FLEET_CA.flag)
    if farewell is None:
        return settings.fleet(store_tls, peer_tls, None, None)
    orphans = OrphanFarewell(farewell, lambda: fleet.current_secrets())
    fleet = settings.fleet(store_tls, peer_tls, orphans.describe, orphans.end)
    return fleet


def with_hints(settings: Settings) -> Settings:
    """Return the settings of a proxy with peers, whose clients get ids with hints."""
    if type(settings.matcher) is EndpointMatcher:
        return dataclasses.replace(settings, matcher=EndpointMatcher(hint=True))
    return settings


def for_peers(settings: Settings) -> Settings:
    """Return the settings for the peers' listener, where a request has one header more."""
    rules = settings.rules
    larger = _SIGNED_TIMES * rules.max_header + _SIGNED_BYTES
    return dataclasses.replace(settings, rules=dataclasses.replace(rules, max_header=larger))


class ForClients:
    """Wraps the app for clients, who may not send the header of forwarded requests."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = method_of(app)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        shaped: Shaped | None = scope.get(SHAPED)  # nobody has changed the headers yet
        if shaped is not None and HEADER not in shaped.shape.at:
            scope[FORWARDED] = False
        else:
            as_of_client(scope, has_header=HEADER in shape_in(scope).at)
        return self._app(scope, receive, send)


class ForPeers:
    """Wraps the app for peers. What has no header of a forwarded request is refused; `app` checks the header.

    The fleet takes the questions about this process, before any rule for clients' requests. Where only processes of
    this user can ask, `own` answers the requests without the header.
    """

    def __init__(self, app: ASGIApp, fleet: Peers, own: ASGIApp | None = None) -> None:
        self._app = app
        self._fleet = fleet
        self._own = own

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        shaped: Shaped | None = scope.get(SHAPED)  # nobody has changed the headers yet
        if HEADER in shaped.shape.at if shaped is not None else is_forwarded(scope):
            scope[FORWARDED] = True
            is_for_fleet = is_question(scope)
            return (self._fleet.take_question if is_for_fleet else self._app)(scope, receive, send)
        if scope["type"] == "websocket":
            return refuse_websocket(receive, send, *_UNSIGNED)
        return answer(send, *_UNSIGNED) if self._own is None else self._own(scope, receive, send)
