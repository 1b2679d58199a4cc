"""How many requests the proxy serves, how long they take and how they end, by OpenTelemetry's conventions for HTTP.

`Measured` is the app around the whole proxy. It measures from the head of a request to the end of its answer, streams
and WebSockets included. If no meter provider is set when the proxy starts, it costs one comparison a request.
"""

import asyncio
import logging
import weakref
from collections.abc import Awaitable, Iterable, Mapping
from time import perf_counter
from typing import Final, Self, cast

from opentelemetry.metrics import CallbackOptions, MeterProvider, NoOpMeterProvider, Observation

from otel_sessions._core.events import Event
from otel_sessions._core.forks import forks
from otel_sessions._core.words import OTHER
from otel_sessions._telemetry.instruments import histogram, meter_of, observed
from otel_sessions._telemetry.providers import global_provider, is_proxy
from otel_sessions._telemetry.signals import ERROR_TYPE, METHOD, METHODS, STATUS, Attribute, Kind, Metric
from otel_sessions.asgi import ASGIApp, Message, Receive, Send
from otel_sessions.asgi._exchange import method_of
from otel_sessions.matchers import Scope

from .exchange import is_left
from .headers import Trust, scheme_of

SCHEME: Final = "url.scheme"
DISCONNECTED: Final = "client_disconnected"
"""The `error.type` of a request whose connection ends before the answer starts."""
INCOMPLETE: Final = "incomplete_answer"
"""The `error.type` of a request whose answer starts and cannot be completed."""
MAX_INCOMPLETE: Final = 500
"""How many combinations of attributes with `INCOMPLETE` are told apart for a meter provider."""

_METHODS: Final = frozenset(METHODS)
_SCHEMES: Final = {"http": "http", "https": "https", "ws": "http", "wss": "https"}
_REGISTERED: Final = frozenset(
    {
        *(*range(100, 105), *range(200, 209), 226, *range(300, 309), *range(400, 419), *range(421, 427)),
        *(428, 429, 431, 451, *range(500, 509), 510, 511),
    }
)
"""IANA's registry of HTTP status codes. Any other code counts as the x00 of its class (RFC 9110, section 15)."""

_ATTRIBUTES: Final = (
    Attribute(name=METHOD, words=(*sorted(_METHODS), OTHER)),
    Attribute(name=SCHEME, words=("http", "https")),
)
ACTIVE: Final = Metric(
    name="http.server.active_requests",
    kind=Kind.UP_DOWN_COUNTER,
    unit="{request}",
    description="Number of active HTTP server requests.",
    attributes=_ATTRIBUTES,
    is_of_a_manager=False,
)
DURATION: Final = Metric(
    name="http.server.request.duration",
    kind=Kind.HISTOGRAM,
    unit="s",
    description="Duration of HTTP server requests.",
    attributes=(
        *_ATTRIBUTES,
        Attribute(
            name=STATUS,
            words=tuple(str(status) for status in sorted(_REGISTERED)),
            further="none if the connection ends before the answer",
        ),
        Attribute(
            name=ERROR_TYPE,
            words=(INCOMPLETE,),
            further=f"a status code from 500 on, or `{DISCONNECTED}`; none if all went well",
        ),
    ),
    buckets=(0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10),
    # Without a status: one for each method and scheme. With an incomplete answer: as many as are told apart, and the
    # combinations into which the others fold, of two schemes and five classes.
    further=len(_ATTRIBUTES[0].words) * 2 + MAX_INCOMPLETE + 2 * 5,
    is_of_a_manager=False,
)
METRICS: Final = (DURATION, ACTIVE)
"""The metrics of the proxy, besides those of its manager."""

_Line = tuple[str, str]
"""The method and the scheme of a request."""
_Active = dict[_Line, int]
"""How many requests of each method and scheme are under way."""
_Words = tuple[str, str, int, str]
"""The method and the scheme of a request, its status or 0, and its `error.type` or an empty text."""

_logger = logging.getLogger("otel_sessions.proxy")


class _Requests:
    """The requests of all proxies with one meter provider, since a second instrument of a name would not be read."""

    def __init__(self, provider: MeterProvider) -> None:
        self._active: tuple[_Active, ...] = ()
        """The requests under way of each proxy. It is replaced and never changed: another thread reads it."""
        self._seen: dict[_Line, None] = {}
        self._known: dict[_Words, Mapping[str, str | int]] = {}
        self._incomplete = 0
        self._has_warned = False
        meter = meter_of(provider)
        observed(meter, ACTIVE, self._observe)
        self._duration = histogram(meter, DURATION)

    def add(self, active: _Active) -> None:
        """Report the requests under way of one more proxy."""
        self._active = (*self._active, active)

    def remove(self, active: _Active) -> None:
        """Report the requests of a proxy no more."""
        self._seen |= dict.fromkeys(active)
        self._active = tuple(one for one in self._active if one is not active)

    def note_end(self, words: _Words, seconds: float) -> None:
        """Record a request. An error of the provider is logged once, and never reaches the request."""
        try:
            self._duration.record(seconds, self._known.get(words) or self._attributes(words))
        except Exception as error:
            if not self._has_warned:
                self._has_warned = True
                _logger.warning(
                    "the durations of requests cannot be recorded", exc_info=error, extra=Event.TELEMETRY_FAILED.extra
                )

    def _attributes(self, words: _Words) -> Mapping[str, str | int]:
        method, scheme, status, error_type = words
        if error_type == INCOMPLETE:
            self._incomplete += 1
            if self._incomplete > MAX_INCOMPLETE:
                method, status = OTHER, status // 100 * 100
        told: dict[str, str | int] = {METHOD: method, SCHEME: scheme}
        if status:
            told[STATUS] = status
        if error_type:
            told[ERROR_TYPE] = error_type
        self._known[words] = told
        return told

    def _observe(self, _: CallbackOptions) -> Iterable[Observation]:
        total = dict.fromkeys(self._seen.copy(), 0)
        for active in self._active:
            for line, count in active.copy().items():
                total[line] = total.get(line, 0) + count
        return [Observation(count, {METHOD: method, SCHEME: scheme}) for (method, scheme), count in total.items()]


_requests: weakref.WeakKeyDictionary[MeterProvider, _Requests] = weakref.WeakKeyDictionary()


def _requests_of(provider: MeterProvider) -> _Requests:
    requests = _requests.get(provider)
    if requests is None:
        requests = _requests[provider] = _Requests(provider)
    return requests


class Measured:
    """The app `app`, whose requests are measured inside the `with` block.

    A provider that is None is the global provider, as it is on entry.
    """

    def __init__(self, app: ASGIApp, trust: Trust, provider: MeterProvider | None = None) -> None:
        self._active: _Active = {}
        self._app = method_of(app)
        self._trust = trust
        self._provider = provider
        self._requests: _Requests | None = None

    def __enter__(self) -> Self:
        provider = global_provider() if self._provider is None else self._provider
        if not is_proxy(provider) and not isinstance(provider, NoOpMeterProvider):
            self._requests = _requests_of(provider)
            self._requests.add(self._active)
            forks.add(self)
        return self

    def __exit__(self, *_: object) -> None:
        if self._requests is not None:
            self._requests.remove(self._active)
            self._requests = None

    def note_refused(self, scheme: str, status: int) -> None:
        """Record a request whose head cannot be read, so that the server has answered it with a status by itself."""
        if self._requests is not None:
            self._requests.note_end((OTHER, scheme, int(status), str(int(status)) if status >= 500 else ""), 0.0)

    def start_anew_after_fork(self) -> None:
        """Forget the requests of the parent process."""
        if self._requests is not None:
            self._requests.remove(self._active)
            self._active = {}
            self._requests.add(self._active)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        requests = self._requests
        if requests is None:
            return self._app(scope, receive, send)
        return self._measure(requests, scope, receive, send)

    async def _measure(self, requests: _Requests, scope: Scope, receive: Receive, send: Send) -> None:
        began = perf_counter()
        method = str(scope.get("method", "GET"))  # a WebSocket begins as a GET (RFC 6455, section 4.1)
        line = (method if method in _METHODS else OTHER, _SCHEMES.get(scheme_of(scope, self._trust), "http"))
        answer = _Answer(send)
        is_cut, active = False, self._active
        active[line] = active.get(line, 0) + 1
        try:
            await self._app(scope, receive, answer)
        except asyncio.CancelledError:  # the server breaks the connection off
            is_cut = True
            raise
        finally:
            active[line] -= 1
            requests.note_end((*line, *answer.end(is_cut or is_left(scope))), perf_counter() - began)


def note_refused(app: ASGIApp, scheme: str, status: int) -> None:
    """Record a request that never gets to `app`, if the requests of this app are measured."""
    if isinstance(app, Measured):
        app.note_refused(scheme, status)


class _Answer:
    """A `send` that notes how the request is answered."""

    __slots__ = ("_is_complete", "_send", "_status")

    def __init__(self, send: Send) -> None:
        self._send = send
        self._status = 0
        self._is_complete = False

    def __call__(self, message: Message) -> Awaitable[None]:
        kind = message["type"]
        if kind in ("http.response.body", "websocket.http.response.body"):
            self._is_complete = not message.get("more_body", False)
        elif kind in ("http.response.start", "websocket.http.response.start"):
            self._status = cast("int", message["status"])
        elif kind == "websocket.accept":
            self._status, self._is_complete = 101, True
        elif kind == "websocket.close" and not self._status:  # before it is accepted: ASGI says that this is a 403
            self._status, self._is_complete = 403, True
        return self._send(message)

    def end(self, is_left: bool) -> tuple[int, str]:
        """Return the status code, or 0 without an answer, and the `error.type`, or an empty text.

        A request that the app leaves without an answer gets a 500 from the server.
        """
        if not self._status and is_left:
            return 0, DISCONNECTED
        status = _registered(self._status or 500)
        if status >= 500:
            return status, str(status)
        return status, "" if self._is_complete or is_left or not self._status else INCOMPLETE


def _registered(status: int) -> int:
    """Return a status code of IANA's registry: `status` itself, or the x00 of its class."""
    if status in _REGISTERED:
        return status
    return status // 100 * 100 if 100 <= status < 600 else 500
